/** Text that is there to be copied. */
import { useState } from 'preact/hooks';
import { Icon } from './icon';

async function copy(text: string, from: HTMLElement | null): Promise<void> {
  if (navigator.clipboard !== undefined) return navigator.clipboard.writeText(text);
  // Plain HTTP on another host has no clipboard: the text is selected, ready for the keys.
  const selection = getSelection();
  if (from !== null && selection !== null) selection.selectAllChildren(from);
  return Promise.reject(new Error('selected'));
}

export function CopyField({ text, label, wrap = false }: { text: string; label: string; wrap?: boolean }) {
  const [state, setState] = useState<'idle' | 'copied' | 'selected'>('idle');
  let code: HTMLElement | null = null;
  const act = async () => {
    const next = await copy(text, code).then(() => 'copied' as const, () => 'selected' as const);
    setState(next);
    setTimeout(() => setState('idle'), 2000);
  };
  return (
    <div class={`copy ${wrap ? 'wrap' : ''}`}>
      <code ref={(element) => { code = element; }} tabIndex={0} aria-label={label}>{text}</code>
      <button type="button" onClick={() => void act()} aria-label={`Copy ${label}`}>
        <Icon name={state === 'copied' ? 'check' : 'copy'} size={15} />
        <span aria-live="polite">{state === 'copied' ? 'Copied' : state === 'selected' ? 'Selected' : 'Copy'}</span>
      </button>
    </div>
  );
}
