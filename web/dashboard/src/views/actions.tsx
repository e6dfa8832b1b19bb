/** What an operator does to a machine: each is one call of the API, asked for in a dialog where it needs a decision. */
import { useState } from 'preact/hooks';
import { command, edit, post, remove } from '../api/client';
import type { Job, Machine, Point, Served } from '../api/types';
import { moment, plural, words } from '../format';
import { lookNow } from '../live/feed';
import { machineName, now, servers } from '../live/store';
import { go } from '../router';
import { DialogForm, showDialog } from '../ui/dialog';
import { tell } from '../ui/toast';
import { LadderField } from './retention';

export function may(item: { allowed_operations: string[] }, operation: string): boolean {
  return item.allowed_operations.includes(operation);
}

/** RFC 3339 from what a `datetime-local` field holds. */
const asTime = (local: string): string => new Date(local).toISOString();

function TestFailoverDialog({ machine, chosen }: { machine: Machine; chosen: Point | null }) {
  const [which, setWhich] = useState<'latest' | 'chosen' | 'time'>(chosen === null ? 'latest' : 'chosen');
  const [time, setTime] = useState('');
  const point = which === 'latest' ? 'latest' : which === 'chosen' ? (chosen?.id ?? 'latest') : time;
  const act = async () => {
    const made = await post<Served>('test-failovers', { machine: machine.id, point: which === 'time' ? asTime(time) : point });
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
        A recovery point is served in isolation as NBD disks that take writes. Replication goes on; nothing you do there reaches{' '}
        {machine.name} or its points, and all of it is thrown away at clean-up.
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
    </DialogForm>
  );
}

export function testFailover(machine: Machine, chosen: Point | null = null): void {
  showDialog(<TestFailoverDialog machine={machine} chosen={chosen} />);
}

function CleanUpDialog({ item }: { item: Served }) {
  const [notes, setNotes] = useState('');
  const name = machineName(item.machine);
  const act = async () => {
    if (item.test_failover) await command(`test-failovers/${item.id}/clean-up`, { notes });
    else await remove(`served-points/${item.id}`);
    lookNow();
    tell(item.test_failover ? 'Test failover is cleaned up' : 'The point is no longer served', `What was written to the copy of ${name} is gone.`);
  };
  return (
    <DialogForm title={item.test_failover ? 'Clean up the test failover?' : 'End serving the point?'} submit="Clean up" act={act}>
      <p>The disks of {name} that are served go away, with everything that was written to them. The recovery point stays.</p>
      {item.test_failover && (
        <label class="labelled">
          What was seen (kept as an event)
          <textarea class="field" maxLength={500} rows={3} placeholder="The database came up, orders of this morning are there." value={notes} onInput={(event) => setNotes(event.currentTarget.value)} />
        </label>
      )}
    </DialogForm>
  );
}

export function cleanUp(item: Served): void {
  showDialog(<CleanUpDialog item={item} />);
}

const FORMATS = [['raw', 'Raw'], ['qcow2', 'qcow2'], ['vhd-fixed', 'VHD, fixed, as Azure takes it'], ['vhd-dynamic', 'VHD, dynamic']] as const;

function RestoreDialog({ machine, point }: { machine: Machine; point: Point }) {
  const [format, setFormat] = useState<string>('raw');
  const act = async () => {
    const job = await post<Job>('restores', { machine: machine.id, point: point.id, format });
    tell('The restore has begun', `Job ${job.id}. It names the directory of the images once it is done.`);
  };
  return (
    <DialogForm title={`Restore ${machine.name} to images`} submit="Restore" act={act}>
      <p>
        The disks of the point of {moment(point.captured_at, now.value)} are written as files on the process server. Replication goes on.
      </p>
      <label class="labelled">
        Format
        <select class="field" value={format} onChange={(event) => setFormat(event.currentTarget.value)}>
          {FORMATS.map(([name, text]) => <option key={name} value={name}>{text}</option>)}
        </select>
      </label>
    </DialogForm>
  );
}

export function restore(machine: Machine, point: Point): void {
  showDialog(<RestoreDialog machine={machine} point={point} />);
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

export function pause(machine: Machine): void {
  const act = async () => {
    await command(`machines/${machine.id}/pause`);
    tell('Replication is paused', `Writes of ${machine.name} stay on the machine until it is resumed.`);
  };
  showDialog(
    <DialogForm title={`Pause ${machine.name}?`} submit="Pause" act={act}>
      <p>Its writes stay on the machine, and its RPO grows, until it is resumed. Then only what was written meanwhile is sent.</p>
    </DialogForm>,
  );
}

export async function resume(machine: Machine): Promise<void> {
  await command(`machines/${machine.id}/resume`);
  tell('Replication goes on', `What ${machine.name} wrote meanwhile is sent now.`);
}

/** A whole number, or nothing: then the installation's own holds. */
const whole = (text: string): number | null => (text.trim() === '' ? null : Number(text));

/** Codecs to choose from: fast, small, smallest; and what the machine has now. */
const codecs = (now: string): string[] => [...new Set(['snappy', 'zstd:3', 'zstd:9', ...(now === '' ? [] : [now])])];

function EditDialog({ machine }: { machine: Machine }) {
  const { policy } = machine;
  const { wanted } = policy;
  const own = (value: number | null | undefined) => (value == null ? '' : String(value));
  const [name, setName] = useState(machine.name);
  const [warning, setWarning] = useState(own(wanted.rpo_warning_seconds));
  const [critical, setCritical] = useState(own(wanted.rpo_critical_seconds));
  const [codec, setCodec] = useState(wanted.codec ?? '');
  const [retention, setRetention] = useState(wanted.retention ?? '');
  const [marks, setMarks] = useState(own(wanted.mark_interval_ms));
  const act = async () => {
    const next = { rpo_warning_seconds: whole(warning), rpo_critical_seconds: whole(critical), mark_interval_ms: whole(marks), codec: codec === '' ? null : codec, retention: retention.trim() === '' ? null : retention.trim() };
    await edit(`machines/${machine.id}`, machine.etag, { name, policy: next });
    tell('Saved', name);
  };
  // What holds now is the installation's where the machine has none of its own.
  const limit = (label: string, value: string, set: (text: string) => void, own: number | null | undefined, holds: number, [min, max]: [number, number]) => (
    <label class="labelled">
      {label}
      <input class="field" type="number" min={min} max={max} step={1} placeholder={own == null ? String(holds) : 'as the installation has it'} value={value} onInput={(event) => set(event.currentTarget.value)} />
    </label>
  );
  return (
    <DialogForm title={`Edit ${machine.name}`} submit="Save" act={act} disabled={name.trim() === ''}>
      <label class="labelled">
        Name
        <input class="field" required maxLength={100} value={name} onInput={(event) => setName(event.currentTarget.value)} />
      </label>
      {limit('RPO that is a warning, in seconds', warning, setWarning, wanted.rpo_warning_seconds, policy.rpo_warning_seconds, [1, 86_400])}
      {limit('RPO that is critical, in seconds', critical, setCritical, wanted.rpo_critical_seconds, policy.rpo_critical_seconds, [1, 86_400])}
      {limit('Time between recovery points under load, in milliseconds', marks, setMarks, wanted.mark_interval_ms, policy.mark_interval_ms, [100, 3_600_000])}
      <label class="labelled">
        Compression
        <select class="field" value={codec} onChange={(event) => setCodec(event.currentTarget.value)}>
          <option value="">as the installation has it</option>
          {codecs(codec).map((one) => <option key={one} value={one}>{one}</option>)}
        </select>
      </label>
      <LadderField machine={machine} value={retention} set={setRetention} />
      <p class="quiet">Empty: as the installation has it. What a shorter retention lets go of cannot be had back.</p>
    </DialogForm>
  );
}

export function editMachine(machine: Machine): void {
  showDialog(<EditDialog machine={machine} />);
}

export async function cancelJob(job: Job): Promise<void> {
  await command(`jobs/${job.id}/cancel`);
  tell('The job is called off', `Job ${job.id}.`);
}

export async function retryJob(job: Job): Promise<void> {
  const again = await post<Job>(`jobs/${job.id}/retry`, undefined);
  tell('The job is tried again', `As job ${again.id}.`);
}

function RemoveDialog({ machine }: { machine: Machine }) {
  const [typed, setTyped] = useState('');
  const [points, setPoints] = useState<'keep' | 'delete'>('keep');
  const act = async () => {
    await remove(`machines/${machine.id}?points=${points}`);
    go('machines');
    tell('Protection has ended', points === 'keep' ? `The points of ${machine.name} stay in the vault.` : `A job deletes the points of ${machine.name}.`);
  };
  const choice = (value: typeof points, title: string, text: string) => (
    <label class="choice">
      <input type="radio" name="points" checked={points === value} onChange={() => setPoints(value)} />
      <span>
        <b>{title}</b>
        <small>{text}</small>
      </span>
    </label>
  );
  return (
    <DialogForm title={`End protection of ${machine.name}?`} submit="End protection" danger act={act} disabled={typed !== machine.name}>
      <p>New writes are no longer replicated.</p>
      <fieldset>
        <legend>Recovery points</legend>
        {choice('keep', 'Keep them', 'they stay in the vault and can be restored')}
        {may(machine, 'delete_points') && choice('delete', 'Delete them', 'for good; nobody can bring them back')}
      </fieldset>
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
