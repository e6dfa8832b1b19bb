/** One machine: how far it is behind, its points, its disks, and what can be done with it. */
import { useState } from 'preact/hooks';
import { Trouble } from '../api/client';
import type { Disk, Machine as MachineItem, Point } from '../api/types';
import { ago, byteRate, byteRateFigure, bytes, bytesFigure, count, full, plural, short, span, spanFigure, words } from '../format';
import { useHistory } from '../live/history';
import { useJournal } from '../live/journal';
import { usePoints } from '../live/points';
import { machinesById, mayOperate, now, served } from '../live/store';
import { href } from '../router';
import { Button, Card, Empty, Fact, HealthMark, Meter, Number, State, ViewHead } from '../ui/bits';
import { Chart, Legend, type Line } from '../ui/chart';
import { Timeline } from '../ui/timeline';
import { tellTrouble } from '../ui/toast';
import { editMachine, may, moveMachine, pause, removeMachine, restore, resume, takeMark, testFailover } from './actions';
import { RetentionCard, hold } from './retention';
import { ScrubCard } from './scrub';
import { EventList, IssueList, JobList, ServedCard } from './lists';

function Actions({ machine }: { machine: MachineItem }) {
  if (!mayOperate.value) return null;
  return (
    <>
      {may(machine, 'mark') && <Button icon="flag" onClick={() => takeMark(machine)}>Take a point</Button>}
      {may(machine, 'move') && <Button icon="move" onClick={() => moveMachine(machine)}>Move</Button>}
      {may(machine, 'pause') && <Button icon="pause" onClick={() => pause(machine)}>Pause</Button>}
      {may(machine, 'resume') && <Button icon="play" onClick={() => void resume(machine).catch(tellTrouble)}>Resume</Button>}
      {may(machine, 'edit') && <Button icon="edit" kind="ghost" title="Edit" onClick={() => editMachine(machine)} />}
      {may(machine, 'remove') && <Button icon="trash" kind="ghost" title="End protection" onClick={() => removeMachine(machine)} />}
      {may(machine, 'test_failover') && (
        <Button kind="primary" icon="lab" onClick={() => testFailover(machine)}>
          Test failover
        </Button>
      )}
    </>
  );
}

const POINT_WINDOWS = [
  { minutes: 10, label: '10 min' },
  { minutes: 60, label: '1 h' },
  { minutes: 1440, label: '24 h' },
];
const HISTORY_WINDOWS = [
  { minutes: 15, label: '15 min' },
  { minutes: 60, label: '1 h' },
  { minutes: 720, label: '12 h' },
];

interface WindowsProps {
  choices: { minutes: number; label: string }[];
  value: number;
  set: (minutes: number) => void;
}

function Windows({ choices, value, set }: WindowsProps) {
  return (
    <div class="segments" role="group" aria-label="Time shown">
      {choices.map((choice) => (
        <button key={choice.minutes} type="button" aria-pressed={value === choice.minutes} onClick={() => set(choice.minutes)}>
          {choice.label}
        </button>
      ))}
    </div>
  );
}

function PointsCard({ machine }: { machine: MachineItem }) {
  const [minutes, setMinutes] = useState(10);
  const seconds = minutes * 60;
  const points = usePoints(machine.id, seconds, machine.log?.newest_point_lsn ?? null);
  const [chosenId, setChosen] = useState<string | null>(null);
  const items = points.items.value;
  const chosen = items.find((point) => point.id === chosenId) ?? items[0] ?? null;
  const from = now.value - seconds * 1000;
  const inSight = items.filter((point) => Date.parse(point.captured_at) >= from).length;
  const more = points.more.value && Date.parse(items.at(-1)?.captured_at ?? '') > from;
  return (
    <Card title="Recovery points" aside={<Windows choices={POINT_WINDOWS} value={minutes} set={setMinutes} />}>
      <Timeline points={items} windowSeconds={seconds} now={now.value} chosen={chosen} choose={(point) => setChosen(point.id)} />
      <div class="point">
        {chosen === null ? (
          <p class="quiet" role="status">{points.trouble.value instanceof Trouble ? `${points.trouble.value.title}. ${points.trouble.value.remedy}` : points.loading.value ? 'Loading points…' : 'No recovery point yet. The first comes once everything was sent once.'}</p>
        ) : (
          <PointFacts point={chosen} machine={machine} follows={chosenId === null || chosen.id !== chosenId} />
        )}
      </div>
      <p class="card-foot">
        <span>
          {plural(inSight, 'point')} in sight.
        </span>
        {more && (
          <button type="button" class="link" onClick={() => void points.reach(from)}>
            Load older
          </button>
        )}
      </p>
    </Card>
  );
}

function PointFacts({ point, machine, follows }: { point: Point; machine: MachineItem; follows: boolean }) {
  const missing = machine.disks.length - point.disks.length;
  return (
    <>
      <div class="item-main">
        <p class="item-title">
          {point.label === '' ? `${words(point.kind)}-consistent point` : point.label}
          {follows && <span class="tag">newest</span>}
        </p>
        <p class="item-text num">
          {full(point.captured_at)} · {ago(point.captured_at, now.value)} · LSN {count(point.lsn)} ·{' '}
          {missing > 0 ? `${point.disks.length} of ${plural(machine.disks.length, 'disk')}` : 'every disk'}
        </p>
      </div>
      {may(point, 'serve') && mayOperate.value && (
        <div class="point-actions">
          <Button onClick={() => hold(machine, point)}>Hold</Button>
          {may(machine, 'restore') && <Button onClick={() => restore(machine, point)}>Restore to images</Button>}
          {may(machine, 'test_failover') && (
            <Button icon="lab" onClick={() => testFailover(machine, point)}>
              Test failover from here
            </Button>
          )}
        </div>
      )}
    </>
  );
}

function DiskRow({ disk }: { disk: Disk }) {
  const left = disk.scan_bytes_left ?? 0;
  const done = disk.size_bytes === 0 ? 1 : 1 - left / disk.size_bytes;
  return (
    <li class="item disk">
      <div class="item-main">
        <p class="item-title">
          {disk.name} <span class="quiet num">{bytes(disk.size_bytes)}</span>
        </p>
        {disk.export != null && <p class="item-text"><code class="ellipsis">{disk.export}</code></p>}
        {disk.gap != null && <p class="item-text warn-text">No point covers it now: {words(disk.gap).toLowerCase()}</p>}
      </div>
      <div class="disk-side">
        {disk.state == null ? <span class="quiet">unknown</span> : <State state={disk.state} />}
        {left > 0 ? (
          <>
            <Meter part={done} tone="busy" label={`${disk.name}, part that was read`} />
            <span class="quiet num">{bytes(left)} left</span>
          </>
        ) : (
          <span class="quiet num">{bytes(disk.hot_bytes)} hot</span>
        )}
      </div>
    </li>
  );
}

function Figures({ machine }: { machine: MachineItem }) {
  const tile = (label: string, content: preact.ComponentChildren, note: string) => (
    <div class="strip-tile">
      <h2>{label}</h2>
      {content}
      <p>{note}</p>
    </div>
  );
  const memory = machine.agent.memory_bytes ?? 0;
  const memoryMax = machine.agent.memory_bytes_max ?? 0;
  return (
    <section class="card strip">
      {tile('RPO', <Number figure={spanFigure(machine.rpo_seconds)} size="l" />, `newest point ${ago(machine.log?.newest_point_at, now.value)}`)}
      {tile('Replication', <Number figure={byteRateFigure(machine.rates.shipped_bytes_per_second)} size="l" />, `written ${byteRate(machine.rates.write_bytes_per_second)}, uploaded ${byteRate(machine.rates.uploaded_bytes_per_second)}`)}
      {tile('Backlog', <Number figure={bytesFigure(machine.log?.backlog_bytes)} size="l" />, 'not in the vault yet')}
      {tile('Held by the agent', <Number figure={bytesFigure(machine.agent.memory_bytes)} size="l" />, memoryMax === 0 ? '' : `${Math.round((memory / memoryMax) * 100)} % of ${bytes(memoryMax)}`)}
    </section>
  );
}

const RATE_LINES: Line[] = [
  { label: 'Written', colour: '--chart-2' },
  { label: 'Shipped', colour: '--accent', fill: true },
  { label: 'Uploaded', colour: '--chart-3' },
];

function Curves({ machine }: { machine: MachineItem }) {
  const [minutes, setMinutes] = useState(15);
  const history = useHistory(machine.id, minutes);
  const window = minutes * 60;
  return (
    <div class="columns even">
      <Card title="RPO over time" aside={<Windows choices={HISTORY_WINDOWS} value={minutes} set={setMinutes} />}>
        <Chart
          label={`RPO of ${machine.name}`}
          lines={[{ label: 'RPO', colour: '--accent', fill: true }]}
          times={history.times}
          columns={[history.rpo]}
          window={window}
          height={190}
          least={5}
          format={span}
          limits={[
            { value: machine.policy.rpo_warning_seconds, colour: '--warn' },
            { value: machine.policy.rpo_critical_seconds, colour: '--crit' },
          ]}
        />
      </Card>
      <Card title="Replication rate" aside={<Legend lines={RATE_LINES} />}>
        <Chart
          label={`Replication rate of ${machine.name}`}
          lines={RATE_LINES}
          times={history.times}
          columns={[history.write, history.shipped, history.uploaded]}
          window={window}
          height={190}
          least={1024}
          binary
          format={byteRate}
        />
      </Card>
    </div>
  );
}

export function Machine({ id }: { id: string }) {
  const machine = machinesById.value.get(id);
  const journal = useJournal(id);
  const back = { href: href('machines'), label: 'Machines' };
  if (machine === undefined) {
    return (
      <div class="view">
        <ViewHead title="Unknown machine" back={back} />
        <section class="card">
          <Empty icon="machines" title="There is no such machine">It was removed, or the address is wrong.</Empty>
        </section>
      </div>
    );
  }
  const mine = served.value.filter((item) => item.machine === id);
  return (
    <div class="view">
      <ViewHead
        back={back}
        title={machine.name}
        sub={
          <>
            <State state={machine.state} />
            <HealthMark level={machine.health.level} />
            <span class="quiet">
              {machine.assignment == null ? 'no process server' : `on ${machine.assignment.process_server_name ?? short(machine.assignment.process_server)}`}
            </span>
          </>
        }
      >
        <Actions machine={machine} />
      </ViewHead>
      {machine.health.issues.length > 0 && <IssueList health={machine.health} />}
      <Figures machine={machine} />
      {mine.length > 0 && (
        <Card title={mine.length === 1 ? 'Test failover' : 'Test failovers'} flush class="accented">
          {mine.map((item) => (
            <ServedCard key={item.id} item={item} withMachine={false} />
          ))}
        </Card>
      )}
      <PointsCard machine={machine} />
      <Curves machine={machine} />
      <div class="columns even">
        <div class="stack">
          <Card title="Disks" aside={<span class="quiet">{plural(machine.disks.length, 'disk')}</span>} flush>
            <ul class="list">{machine.disks.map((disk) => <DiskRow key={disk.disk} disk={disk} />)}</ul>
          </Card>
          <Card title="Log">
            <dl class="facts">
              <Fact label="Committed"><span class="num">{machine.log == null ? '–' : count(machine.log.committed)}</span></Fact>
              <Fact label="Durable"><span class="num">{machine.log == null ? '–' : count(machine.log.durable)}</span></Fact>
              <Fact label="Last LSN"><span class="num">{machine.agent.last_lsn == null ? '–' : count(machine.agent.last_lsn)}</span></Fact>
              <Fact label="Epoch"><span class="num">{machine.assignment?.epoch ?? '–'}</span></Fact>
              <Fact label="Overload rung"><span class="num">{machine.agent.overload_rung ?? '–'}</span></Fact>
              <Fact label="RPO limits">
                {span(machine.policy.rpo_warning_seconds)} warning, {span(machine.policy.rpo_critical_seconds)} critical
              </Fact>
              <Fact label="Compression">{machine.policy.codec}</Fact>
              <Fact label="Points under load">every {span(machine.policy.mark_interval_ms / 1000)}</Fact>
              <Fact label="Agent">{machine.agent.connected ? `connected, reported ${ago(machine.agent.reported_at, now.value)}` : 'away'}</Fact>
              <Fact label="Timeline"><code>{short(machine.timeline)}</code></Fact>
              <Fact label="Enrolled">{full(machine.enrolled_at)}</Fact>
              <Fact label="Id"><code class="ellipsis">{machine.id}</code></Fact>
            </dl>
          </Card>
        </div>
        <div class="stack">
          <RetentionCard machine={machine} />
          <ScrubCard machine={machine} />
          <Card title="Jobs" flush>{journal.jobs.length === 0 ? <Empty icon="jobs" title="No jobs" /> : <JobList jobs={journal.jobs} withMachine={false} />}</Card>
          <Card title="Events" flush>{journal.events.length === 0 ? <Empty icon="events" title="No events" /> : <EventList events={journal.events} withSubject={false} />}</Card>
        </div>
      </div>
    </div>
  );
}
