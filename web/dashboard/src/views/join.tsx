/** The command with which a machine joins, ready to copy. */
import { useState } from 'preact/hooks';
import { post } from '../api/client';
import type { JoinTicket } from '../api/types';
import { span } from '../format';
import { mayAdmin, now } from '../live/store';
import { Button } from '../ui/bits';
import { CopyField } from '../ui/copy';
import { showDialog, closeDialog } from '../ui/dialog';
import { tellTrouble } from '../ui/toast';

type JoinRole = JoinTicket['role'];

const WORDS: Record<JoinRole, { title: string; text: string; button: string }> = {
  machine: {
    title: 'Protect a machine',
    text: 'Run this where its disks are. The disks appear as NBD exports for the application to use; every write that goes through them is replicated.',
    button: 'Make the join command',
  },
  'process-server': {
    title: 'Add a process server',
    text: 'Run this on the host that shall take, cache and upload machines’ writes. It needs a way to the vault.',
    button: 'Make the join command',
  },
};

/** A command, on several lines so that it can be read. */
function lines(command: string): string {
  return command.replaceAll(' --', ' \\\n    --');
}

export function JoinCommand({ role }: { role: JoinRole }) {
  const [ticket, setTicket] = useState<JoinTicket | null>(null);
  const [busy, setBusy] = useState(false);
  const make = async () => {
    setBusy(true);
    await post<JoinTicket>('join-tokens', { role, label: 'dashboard' }).then(setTicket, tellTrouble);
    setBusy(false);
  };
  if (!mayAdmin.value) return <p class="quiet">An admin can make a join command here.</p>;
  return (
    <div class="join">
      <p>{WORDS[role].text}</p>
      {ticket === null ? (
        <Button kind="primary" icon="plus" busy={busy} onClick={() => void make()}>
          {WORDS[role].button}
        </Button>
      ) : (
        <>
          <CopyField wrap text={lines(ticket.command)} label="join command" />
          <p class="quiet">
            Replace the words in capitals. Its token works {ticket.uses === 1 ? 'once' : `${ticket.uses} times`} and ends in{' '}
            {span((Date.parse(ticket.expires_at) - now.value) / 1000)}. It is not shown again.
          </p>
        </>
      )}
    </div>
  );
}

export function showJoin(role: JoinRole): void {
  showDialog(
    <div class="dialog-form">
      <h2 id="dialog-title">{WORDS[role].title}</h2>
      <div class="dialog-body">
        <JoinCommand role={role} />
      </div>
      <footer>
        <Button onClick={closeDialog}>Done</Button>
      </footer>
    </div>,
  );
}
