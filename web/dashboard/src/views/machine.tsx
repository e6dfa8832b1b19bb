/** One machine: how far it is behind, its points, its disks, and what can be done with it. */
import { useState } from 'preact/hooks';
import type { Disk, Machine as MachineItem, Point } from '../api/types';
import { ago, bytes, bytesFigure, count, full, plural, rateFigure, short, span, spanFigure, words } from '../format';
import { BACKLOG, historyTick, machineHistory, RATE, RPO } from '../live/history';
import { usePoints } from '../live/points';
import { events, jobs, machinesById, mayOperate, now, served } from '../live/store';
import { href } from '../router';
import { Button, Card, Empty, Fact, HealthMark, Meter, Number, State, ViewHead } from '../ui/bits';
import { Chart } from '../ui/chart';
import { Timeline } from '../ui/timeline';
import { tellTrouble } from '../ui/toast';
import { command, may, moveMachine, removeMachine, takeMark, testFailover } from './actions';
import { EventList, IssueList, JobList, ServedCard } from './lists';

function Actions({ machine }: { machine: MachineItem }) {
  if (!mayOperate.value) return null;
  return (
    <>
      {may(machine, 'mark') && <Button icon="flag" onClick={() => takeMark(machine)}>Take a point</Button>}
      {may(machine, 'move') && <Button icon="move" onClick={() => moveMachine(machine)}>Move</Button>}
      {may(machine, 'pause') && <Button icon="pause" onClick={() => void command(machine, 'pause').catch(tellTrouble)}>Pause</Button>}
      {may(machine, 'resume') && <Button icon="play" onClick={() => void command(machine, 'resume').catch(tellTrouble)}>Resume</Button>}
      {may(machine, 'remove') && <Button icon="trash" kind="ghost" title="End protection" onClick={() => removeMachine(machine)} />}
      {may(machine, 'serve_point') && (
        <Button kind="primary" icon="lab" onClick={() => testFailover(machine)}>
          Test failover
        </Button>
      )}
    </>
  );
}

const WINDOWS = [
  { seconds: 600, label: '10 min' },
  { seconds: 3600, label: '1 h' },
  { seconds: 86_400, label: '24 h' },
];

function Windows({ value, set, label }: { value: number; set: (seconds: number) => void; label: string }) {
  return (
    <div class="segments" role="group" aria-label={label}>
      {WINDOWS.map((window) => (
        <button key={window.seconds} type="button" aria-pressed={value === window.seconds} onClick={() => set(window.seconds)}>
          {window.label}
        </button>
      ))}
    </div>
  );
}

function PointsCard({ machine }: { machine: MachineItem }) {
  const [seconds, setSeconds] = useState(600);
  const points = usePoints(machine.id, seconds, machine.log?.newest_point_lsn ?? null);
  const [chosenId, setChosen] = useState<string | null>(null);
  const items = points.items.value;
  const chosen = items.find((point) => point.id === chosenId) ?? items[0] ?? null;
  const from = now.value - seconds * 1000;
  const inSight = items.filter((point) => Date.parse(point.captured_at) >= from).length;
  const more = points.more.value && Date.parse(items.at(-1)?.captured_at ?? '') > from;
  return (
    <Card title="Recovery points" aside={<Windows value={seconds} set={setSeconds} label="Time shown" />}>
      <Timeline points={items} windowSeconds={seconds} now={now.value} chosen={chosen} choose={(point) => setChosen(point.id)} />
      <div class="point">
        {chosen === null ? (
          <p class="quiet">{points.loading.value ? 'Loading points…' : 'No recovery point yet. The first comes once everything was sent once.'}</p>
        ) : (
          <PointFacts point={chosen} machine={machine} follows={chosenId === null || chosen.id !== chosenId} />
        )}
      </div>
      <p class="card-foot">
        <span>
          {plural(inSight, 'point')} in sight. All points are kept.
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
        <Button icon="lab" onClick={() => testFailover(machine, point)}>
          Test failover from here
        </Button>
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
  const history = machineHistory(machine.id);
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
      {tile('Log rate', <Number figure={rateFigure(history.last(RATE))} size="l" />, `LSN ${machine.agent.last_lsn == null ? '–' : count(machine.agent.last_lsn)}`)}
      {tile('Backlog', <Number figure={bytesFigure(machine.log?.backlog_bytes)} size="l" />, 'not in the vault yet')}
      {tile('Held by the agent', <Number figure={bytesFigure(machine.agent.memory_bytes)} size="l" />, memoryMax === 0 ? '' : `${Math.round((memory / memoryMax) * 100)} % of ${bytes(memoryMax)}`)}
    </section>
  );
}

export function Machine({ id }: { id: string }) {
  historyTick.value;
  const [window, setWindow] = useState(600);
  const machine = machinesById.value.get(id);
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
  const history = machineHistory(id);
  const mine = served.value.filter((item) => item.machine === id);
  const myJobs = jobs.value.filter((job) => job.machine === id).slice(0, 5);
  const myEvents = events.value.filter((event) => event.subject.id === id).slice(0, 8);
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
      <div class="columns even">
        <Card title="RPO over time" aside={<Windows value={window} set={setWindow} label="Time shown" />}>
          <Chart label={`RPO of ${machine.name}`} lines={[{ label: 'RPO', colour: '--accent', fill: true }]} times={history.times} columns={[history.column(RPO)]} window={window} height={190} least={5} format={(value) => span(value)} />
        </Card>
        <Card title="Backlog">
          <Chart label={`Backlog of ${machine.name}`} lines={[{ label: 'Backlog', colour: '--chart-3', fill: true }]} times={history.times} columns={[history.column(BACKLOG)]} window={window} height={190} least={1024} format={(value) => bytes(value)} />
        </Card>
      </div>
      <div class="columns even">
        <div class="stack">
          <Card title="Disks" aside={<span class="quiet">{plural(machine.disks.length, 'disk')}</span>} flush>
            <ul class="list">{machine.disks.map((disk) => <DiskRow key={disk.disk} disk={disk} />)}</ul>
          </Card>
          <Card title="Log">
            <dl class="facts">
              <Fact label="Committed"><span class="num">{machine.log == null ? '–' : count(machine.log.committed)}</span></Fact>
              <Fact label="Durable"><span class="num">{machine.log == null ? '–' : count(machine.log.durable)}</span></Fact>
              <Fact label="Epoch"><span class="num">{machine.assignment?.epoch ?? '–'}</span></Fact>
              <Fact label="Overload rung"><span class="num">{machine.agent.overload_rung ?? '–'}</span></Fact>
              <Fact label="Agent">{machine.agent.connected ? `connected, reported ${ago(machine.agent.reported_at, now.value)}` : 'away'}</Fact>
              <Fact label="Timeline"><code>{short(machine.timeline)}</code></Fact>
              <Fact label="Enrolled">{full(machine.enrolled_at)}</Fact>
              <Fact label="Id"><code class="ellipsis">{machine.id}</code></Fact>
            </dl>
          </Card>
        </div>
        <div class="stack">
          <Card title="Jobs" flush>{myJobs.length === 0 ? <Empty icon="jobs" title="No jobs" /> : <JobList jobs={myJobs} withMachine={false} />}</Card>
          <Card title="Events" flush>{myEvents.length === 0 ? <Empty icon="events" title="No events" /> : <EventList events={myEvents} withSubject={false} />}</Card>
        </div>
      </div>
    </div>
  );
}
