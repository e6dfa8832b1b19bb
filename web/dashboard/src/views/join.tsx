/** The command with which a machine joins, ready to copy. */
import { useState } from 'preact/hooks';
import { post } from '../api/client';
import type { JoinTicket } from '../api/types';
import { full, span } from '../format';
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

const LIVES: [number, string][] = [
  [3600, 'an hour'],
  [24 * 3600, 'a day'],
  [7 * 24 * 3600, 'a week'],
];
/** What stands in the command where nothing was named. */
const SOME_DISK = 'NAME=PATH';

/** One disk on each line, as `name=path`; a path alone is named after its last part. */
function disksOf(text: string): string[] {
  const lines = text.split('\n').map((line) => line.trim()).filter((line) => line !== '');
  const named = lines.map((line) => (line.includes('=') ? line : `${line.split('/').at(-1)?.replace(/\.[^.]*$/, '') ?? 'disk'}=${line}`));
  return named.length === 0 ? [SOME_DISK] : named;
}

interface Wish {
  name: string;
  disks: string;
  seconds: number;
}

function WishForm({ role, wish, set }: { role: JoinRole; wish: Wish; set: (wish: Wish) => void }) {
  const machine = role === 'machine';
  return (
    <div class="join-form">
      <label class="labelled">
        Name
        <input class="field" maxLength={100} placeholder="its host’s name" value={wish.name} onInput={(event) => set({ ...wish, name: event.currentTarget.value })} />
      </label>
      <label class="labelled">
        Token works for
        <select class="field" value={wish.seconds} onChange={(event) => set({ ...wish, seconds: Number(event.currentTarget.value) })}>
          {LIVES.map(([seconds, text]) => <option key={seconds} value={seconds}>{text}</option>)}
        </select>
      </label>
      {machine && (
        <label class="labelled wide">
          Disks, one on each line
          <textarea class="field mono" rows={2} placeholder={'data=/dev/vdb'} value={wish.disks} onInput={(event) => set({ ...wish, disks: event.currentTarget.value })} />
        </label>
      )}
    </div>
  );
}

export function JoinCommand({ role }: { role: JoinRole }) {
  const [wish, setWish] = useState<Wish>({ name: '', disks: '', seconds: LIVES[0]?.[0] ?? 3600 });
  const [ticket, setTicket] = useState<JoinTicket | null>(null);
  const [busy, setBusy] = useState(false);
  const make = async () => {
    setBusy(true);
    const name = wish.name.trim();
    const body = {
      role,
      label: name === '' ? 'dashboard' : name,
      valid_for_seconds: wish.seconds,
      ...(name === '' ? {} : { name }),
      ...(role === 'machine' ? { disks: disksOf(wish.disks) } : {}),
    };
    await post<JoinTicket>('join-tokens', body).then(setTicket, tellTrouble);
    setBusy(false);
  };
  if (!mayAdmin.value) return <p class="quiet">An admin can make a join command here.</p>;
  const left = ticket === null ? 0 : (Date.parse(ticket.expires_at) - now.value) / 1000;
  return (
    <div class="join">
      <p>{WORDS[role].text}</p>
      {ticket === null ? (
        <>
          <WishForm role={role} wish={wish} set={setWish} />
          <Button kind="primary" icon="plus" busy={busy} onClick={() => void make()}>
            {WORDS[role].button}
          </Button>
        </>
      ) : (
        <>
          <CopyField wrap text={lines(ticket.command)} label="join command" />
          <p class="quiet">
            {ticket.command.includes(SOME_DISK) && <>Put a name and the path of a disk in the place of <code>{SOME_DISK}</code>. </>}
            {left > 0 ? (
              <>Its token works {ticket.uses === 1 ? 'once' : `${ticket.uses} times`}, for <span title={full(ticket.expires_at)}>{span(left)}</span> from now.</>
            ) : (
              <b>Its token has ended: make another command.</b>
            )}{' '}
            It is not shown again. Trusted is the authority <code title={ticket.ca_fingerprint}>{ticket.ca_fingerprint.slice(0, 16)}…</code>
          </p>
          {left <= 0 && <Button onClick={() => setTicket(null)}>Make another</Button>}
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
