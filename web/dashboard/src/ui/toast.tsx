/** Short messages about what the operator just did. They wait long enough to be read, and are read out. */
import { signal } from '@preact/signals';
import { Trouble } from '../api/client';
import { Icon } from './icon';

interface Toast {
  id: number;
  tone: 'ok' | 'crit';
  title: string;
  text: string;
}

const SHOWN_MS = 9000;
const toasts = signal<Toast[]>([]);
let next = 1;

function add(toast: Omit<Toast, 'id'>): void {
  const id = next;
  next += 1;
  toasts.value = [...toasts.value.slice(-3), { ...toast, id }];
  setTimeout(() => drop(id), SHOWN_MS);
}

function drop(id: number): void {
  toasts.value = toasts.value.filter((toast) => toast.id !== id);
}

export function tell(title: string, text = ''): void {
  add({ tone: 'ok', title, text });
}

/** What went wrong, in the server's own words: what happened, and what to do. */
export function tellTrouble(cause: unknown): void {
  if (cause instanceof Trouble) add({ tone: 'crit', title: cause.title, text: `${cause.detail} ${cause.remedy}`.trim() });
  else add({ tone: 'crit', title: 'That did not work', text: String(cause) });
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((toast) => (
        <div key={toast.id} class={`toast ${toast.tone}`}>
          <Icon name={toast.tone === 'ok' ? 'check' : 'critical'} />
          <div>
            <p class="toast-title">{toast.title}</p>
            {toast.text !== '' && <p class="toast-text">{toast.text}</p>}
          </div>
          <button type="button" class="toast-close" aria-label="Dismiss" onClick={() => drop(toast.id)}>
            <Icon name="close" size={14} />
          </button>
        </div>
      ))}
    </div>
  );
}
