/** Where the page is: the part of the address after `#/`. Links are ordinary links. */
import { computed, signal } from '@preact/signals';

const hash = signal(location.hash);
addEventListener('hashchange', () => {
  hash.value = location.hash;
});

/** The parts of the path: `#/machines/x` is `['machines', 'x']`. */
export const route = computed(() => {
  const path = hash.value.replace(/^#\/?/, '');
  return path.split('/').filter((part) => part !== '' && !part.includes('=')).map(decodeURIComponent);
});

export function href(...parts: string[]): string {
  return `#/${parts.map(encodeURIComponent).join('/')}`;
}

export function go(...parts: string[]): void {
  location.hash = href(...parts);
}

/** The code of a one-time login link, `/#login=CODE`; it is taken out of the address. */
export function takeLoginCode(): string | null {
  const code = /^#login=(.+)$/.exec(location.hash)?.[1];
  if (code === undefined) return null;
  history.replaceState(null, '', location.pathname);
  hash.value = '';
  return decodeURIComponent(code);
}
