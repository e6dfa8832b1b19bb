/** Light, dark, or as the system has it. */
import { effect, signal } from '@preact/signals';

export type Theme = 'system' | 'light' | 'dark';
const KEY = 'farshore.theme';
const dark = matchMedia('(prefers-color-scheme: dark)');

const stored = localStorage.getItem(KEY);
export const theme = signal<Theme>(stored === 'light' || stored === 'dark' ? stored : 'system');
/** What is shown. */
export const shade = signal<'light' | 'dark'>('light');

const systemShade = signal(dark.matches);
dark.addEventListener('change', () => {
  systemShade.value = dark.matches;
});

effect(() => {
  const isDark = theme.value === 'dark' || (theme.value === 'system' && systemShade.value);
  document.documentElement.dataset['theme'] = isDark ? 'dark' : 'light';
  shade.value = isDark ? 'dark' : 'light';
  if (theme.value === 'system') localStorage.removeItem(KEY);
  else localStorage.setItem(KEY, theme.value);
});

export function nextTheme(): void {
  theme.value = theme.value === 'system' ? 'light' : theme.value === 'light' ? 'dark' : 'system';
}
