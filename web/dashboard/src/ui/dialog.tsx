/** A modal dialog on the browser's own element: focus stays inside, Escape closes, the rest is inert. */
import { signal } from '@preact/signals';
import type { ComponentChildren, VNode } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Button } from './bits';
import { tellTrouble } from './toast';

const open = signal<ComponentChildren>(null);

export function showDialog(content: ComponentChildren): void {
  open.value = content;
}

export function closeDialog(): void {
  open.value = null;
}

// Whoever goes elsewhere, by a link or by the browser's own way back, is done with what was asked.
addEventListener('hashchange', closeDialog);

/** Where the open dialog is. */
export function DialogHost() {
  const element = useRef<HTMLDialogElement>(null);
  const content = open.value;
  useEffect(() => {
    const dialog = element.current;
    if (dialog === null) return;
    if (content !== null && !dialog.open) dialog.showModal();
    if (content === null && dialog.open) dialog.close();
  }, [content]);
  return (
    <dialog
      ref={element}
      class="dialog"
      aria-labelledby="dialog-title"
      onClose={closeDialog}
      onClick={(event) => {
        if (event.target === element.current) closeDialog();
      }}
    >
      {content}
    </dialog>
  );
}

interface FormProps {
  title: string;
  submit: string;
  danger?: boolean;
  disabled?: boolean;
  /**
   * Does it. Once it is done the dialog shows what came of it, or closes where there is nothing to show; it stays with
   * what was entered where it failed.
   */
  act: () => Promise<void | VNode>;
  children: ComponentChildren;
}

/** A dialog that does something. */
export function DialogForm({ title, submit, danger = false, disabled = false, act, children }: FormProps) {
  const [busy, setBusy] = useState(false);
  const run = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      const next = await act();
      if (next === undefined) closeDialog();
      else showDialog(next);
    } catch (cause) {
      tellTrouble(cause);
    } finally {
      setBusy(false);
    }
  };
  return (
    <form class="dialog-form" onSubmit={(event) => void run(event)}>
      <h2 id="dialog-title">{title}</h2>
      <div class="dialog-body">{children}</div>
      <footer>
        <Button onClick={closeDialog}>Cancel</Button>
        <Button type="submit" kind={danger ? 'danger' : 'primary'} busy={busy} disabled={disabled}>
          {submit}
        </Button>
      </footer>
    </form>
  );
}
