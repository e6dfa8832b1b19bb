/** What an operator does to a machine: each is one call of the API, asked for in a dialog where it needs a decision. */
import { useState } from 'preact/hooks';
import { post, remove } from '../api/client';
import type { Job, Machine, Point, Served } from '../api/types';
import { moment, plural, words } from '../format';
import { lookNow } from '../live/feed';
import { machineName, now, servers } from '../live/store';
import { go } from '../router';
import { DialogForm, showDialog } from '../ui/dialog';
import { tell } from '../ui/toast';

export function may(item: { allowed_operations: string[] }, operation: string): boolean {
  return item.allowed_operations.includes(operation);
}

/** RFC 3339 from what a `datetime-local` field holds. */
const asTime = (local: string): string => new Date(local).toISOString();

function TestFailoverDialog({ machine, chosen }: { machine: Machine; chosen: Point | null }) {
  const [which, setWhich] = useState<'latest' | 'chosen' | 'time'>(chosen === null ? 'latest' : 'chosen');
  const [time, setTime] = useState('');
  const [writable, setWritable] = useState(true);
  const point = which === 'latest' ? 'latest' : which === 'chosen' ? (chosen?.id ?? 'latest') : time;
  const act = async () => {
    const body = { machine: machine.id, point: which === 'time' ? asTime(time) : point, read_only: !writable };
    const made = await post<Served>('served-points', body);
    lookNow();
    const ready = made.state === 'serving';
    tell(ready ? 'Test failover is up' : 'Test failover is starting', ready ? `${plural(made.exports.length, 'disk')} of ${machine.name} can be read now.` : 'It appears here once its disks can be read.');
  };
  const choice = (value: typeof which, title: string, text: string) => (
    <label class="choice">
      <input type="radio" name="which" value={value} checked={which === value} onChange={() => setWhich(value)} />
      <span>
        <b>{title}</b>
        <small>{text}</small>
      </span>
    </label>
  );
  const newest = machine.log?.newest_point_at;
  return (
    <DialogForm title={`Test failover of ${machine.name}`} submit="Start test failover" act={act} disabled={which === 'time' && time === ''}>
      <p>
        A recovery point is served in isolation as NBD disks. Replication goes on; nothing you do there reaches {machine.name} or
        its points.
      </p>
      <fieldset>
        <legend>Recovery point</legend>
        {choice('latest', 'Newest', newest == null ? 'the newest that covers every disk' : moment(newest, now.value))}
        {chosen !== null && choice('chosen', 'The chosen one', `${moment(chosen.captured_at, now.value)}, ${words(chosen.kind)}-consistent`)}
        {choice('time', 'At a time', 'the newest that was taken then or before')}
        {which === 'time' && (
          <input class="field" type="datetime-local" step="1" required aria-label="Time" value={time} onInput={(event) => setTime(event.currentTarget.value)} />
        )}
      </fieldset>
      <label class="choice">
        <input type="checkbox" checked={writable} onChange={(event) => setWritable(event.currentTarget.checked)} />
        <span>
          <b>Writable</b>
          <small>writes go to an overlay that is thrown away at clean-up</small>
        </span>
      </label>
    </DialogForm>
  );
}

export function testFailover(machine: Machine, chosen: Point | null = null): void {
  showDialog(<TestFailoverDialog machine={machine} chosen={chosen} />);
}

export function cleanUp(item: Served): void {
  const name = machineName(item.machine);
  const act = async () => {
    await remove(`served-points/${item.id}`);
    lookNow();
    tell('Test failover is cleaned up', `What was written to the test copy of ${name} is gone.`);
  };
  showDialog(
    <DialogForm title="Clean up the test failover?" submit="Clean up" act={act}>
      <p>
        The disks of {name} that are served for this test go away, with everything that was written to them. The recovery
        point stays.
      </p>
    </DialogForm>,
  );
}

function MarkDialog({ machine }: { machine: Machine }) {
  const [label, setLabel] = useState('');
  const act = async () => {
    await post(`machines/${machine.id}/marks`, { label });
    lookNow();
    tell('A mark was asked for', 'It becomes a recovery point once it is committed, in a moment.');
  };
  return (
    <DialogForm title={`Take a recovery point of ${machine.name}`} submit="Take it" act={act}>
      <p>A point across all disks of the machine, with a name that you will find again. The machine is not paused.</p>
      <label class="labelled">
        Name
        <input class="field" maxLength={100} placeholder="before the upgrade" value={label} onInput={(event) => setLabel(event.currentTarget.value)} />
      </label>
    </DialogForm>
  );
}

export function takeMark(machine: Machine): void {
  showDialog(<MarkDialog machine={machine} />);
}

function MoveDialog({ machine }: { machine: Machine }) {
  const others = servers.value.filter((server) => server.id !== machine.assignment?.process_server);
  const [target, setTarget] = useState(others.find((server) => server.state === 'connected')?.id ?? '');
  const act = async () => {
    const job = await post<Job>(`machines/${machine.id}/move`, { to: target });
    lookNow();
    tell('The move has begun', `Job ${job.id}. No write is lost, and none of the application's waits for it.`);
  };
  return (
    <DialogForm title={`Move ${machine.name}`} submit="Move" act={act} disabled={target === ''}>
      <p>
        From {machine.assignment?.process_server_name ?? 'its process server'}, which may be dead, to another one. Nothing is
        sent twice that is committed.
      </p>
      <fieldset>
        <legend>To</legend>
        {others.map((server) => (
          <label class="choice" key={server.id}>
            <input type="radio" name="target" checked={target === server.id} onChange={() => setTarget(server.id)} />
            <span>
              <b>{server.name}</b>
              <small>
                {words(server.state)}, {plural(server.machines, 'machine')}
              </small>
            </span>
          </label>
        ))}
      </fieldset>
    </DialogForm>
  );
}

export function moveMachine(machine: Machine): void {
  showDialog(<MoveDialog machine={machine} />);
}

/** Commands without a decision: they can be taken back. */
export async function command(machine: Machine, name: 'pause' | 'resume'): Promise<void> {
  await post(`machines/${machine.id}/${name}`, {});
  lookNow();
  tell(name === 'pause' ? 'Replication is paused' : 'Replication goes on', machine.name);
}

function RemoveDialog({ machine }: { machine: Machine }) {
  const [typed, setTyped] = useState('');
  const act = async () => {
    await remove(`machines/${machine.id}`);
    go('machines');
    lookNow();
    tell('Protection has ended', `The replica of ${machine.name} stays in the vault.`);
  };
  return (
    <DialogForm title={`End protection of ${machine.name}?`} submit="End protection" danger act={act} disabled={typed !== machine.name}>
      <p>New writes are no longer replicated. The recovery points that there are stay in the vault.</p>
      <label class="labelled">
        Type <b>{machine.name}</b> to go on
        <input class="field" autocomplete="off" value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
      </label>
    </DialogForm>
  );
}

export function removeMachine(machine: Machine): void {
  showDialog(<RemoveDialog machine={machine} />);
}
