/** One look: is everything protected, what is behind and why, what is running, where the load is. */
import { useHistory } from '../live/history';
import { jobs, machines, named, overview, runningJobs, served, servers } from '../live/store';
import type { Machine, ProcessServer } from '../api/types';
import { byteRate, byteRateFigure, bytes, bytesFigure, count, percent, plural, span, spanFigure, words, type Figure } from '../format';
import { href } from '../router';
import { Card, Empty, Meter, Number, State, ViewHead, Button, toneIcon, type Tone } from '../ui/bits';
import { Chart, Spark } from '../ui/chart';
import { Icon } from '../ui/icon';
import { showJoin, JoinCommand } from './join';
import { Attention, JobList, ServedCard } from './lists';

const RANK: Record<string, number> = { critical: 0, warning: 1, normal: 2 };

export function needsAttention(all: Machine[]): Machine[] {
  const rank = (machine: Machine) => RANK[machine.health.level] ?? 2;
  return all.filter((machine) => rank(machine) < 2).sort((a, b) => rank(a) - rank(b) || (b.rpo_seconds ?? 1e12) - (a.rpo_seconds ?? 1e12));
}

const ON_THE_WAY = ['initial_replication', 'catching_up', 'comparing', 'preparing', 'moving'];

/** Every write goes to the log in order, and there is something to go back to. */
const isWhole = (machine: Machine) => machine.state === 'protected' && machine.rpo_seconds != null;

interface Verdict {
  tone: Tone;
  title: string;
  text: string;
}

const stage = (machine: Machine | undefined) => (machine?.state === 'protected' ? 'its first recovery point is on its way' : words(machine?.state ?? '').toLowerCase());

/** The sentence that an operator came for. */
export function verdict(all: Machine[]): Verdict {
  const total = all.length;
  const whole = all.filter(isWhole);
  const critical = all.filter((machine) => machine.health.level === 'critical');
  const warning = all.filter((machine) => machine.health.level === 'warning');
  const coming = all.filter((machine) => ON_THE_WAY.includes(machine.state) || (machine.state === 'protected' && !isWhole(machine)));
  const worst = all.reduce<number | null>((most, machine) => (machine.rpo_seconds == null ? most : Math.max(most ?? 0, machine.rpo_seconds)), null);
  const behind = worst === null ? '' : ` If its site were lost now, the worst machine would lose ${span(worst)}.`;
  if (critical.length > 0) {
    const first = critical[0];
    const title = critical.length === 1 ? `${first?.name} needs you` : `${count(critical.length)} of ${plural(total, 'machine')} need you`;
    return { tone: 'crit', title, text: named(first?.health.cause ?? '') };
  }
  if (warning.length > 0) {
    const title = warning.length === 1 ? `${warning[0]?.name} is behind what is promised` : `${count(warning.length)} of ${plural(total, 'machine')} are behind what is promised`;
    return { tone: 'warn', title, text: named(warning[0]?.health.cause ?? '') };
  }
  if (coming.length > 0) {
    const title = `${plural(whole.length, 'machine')} protected, ${coming.length} on the way`;
    return { tone: 'busy', title, text: `${coming[0]?.name}: ${stage(coming[0])}.${behind}` };
  }
  const title = total === 1 ? `${all[0]?.name} is protected` : `All ${plural(total, 'machine')} are protected`;
  return { tone: 'ok', title, text: behind.trim() };
}

function Tile({ label, figure, note, values, colour }: { label: string; figure: Figure; note: string; values: (number | null)[]; colour?: string }) {
  return (
    <section class="card tile">
      <h2>{label}</h2>
      <Number figure={figure} size="l" />
      <p class="tile-note">{note}</p>
      <Spark values={values} {...(colour === undefined ? {} : { colour })} />
    </section>
  );
}

function ServerLoad({ server }: { server: ProcessServer }) {
  const cache = server.cache;
  const used = cache == null || cache.bytes_max === 0 ? null : cache.used_bytes / cache.bytes_max;
  const tone = (part: number | null | undefined): Tone => (part == null ? 'quiet' : part > 0.9 ? 'crit' : part > 0.75 ? 'warn' : 'ok');
  return (
    <li class="load">
      <div class="load-head">
        <a href={href('process-servers')}>{server.name}</a>
        <State state={server.state} />
        <span class="quiet">{plural(server.machines, 'machine')}</span>
      </div>
      <div class="load-meters">
        <span>CPU</span>
        <Meter part={server.cpu ?? null} tone={tone(server.cpu)} label={`CPU of ${server.name}`} />
        <span class="num">{percent(server.cpu)}</span>
        <span>Cache</span>
        <Meter part={used} tone={tone(used)} label={`Cache of ${server.name}`} />
        <span class="num">{cache == null ? '–' : bytes(cache.used_bytes)}</span>
        <span>Backlog</span>
        <Meter part={cache == null || cache.bytes_max === 0 ? null : cache.backlog_bytes / cache.bytes_max} tone={tone(used)} label={`Backlog of ${server.name}`} />
        <span class="num">{bytes(cache?.backlog_bytes)}</span>
      </div>
    </li>
  );
}

function NothingYet() {
  return (
    <div class="view">
      <ViewHead title="Overview" />
      <section class="card welcome">
        <span class="welcome-icon">
          <Icon name="machines" size={28} />
        </span>
        <h2>Nothing is protected yet</h2>
        <p class="welcome-text">
          {servers.value.length === 0
            ? 'No process server has joined either: add one first, it takes machines’ writes and brings them into the vault.'
            : `${plural(servers.value.length, 'process server is', 'process servers are')} ready. Start an agent beside the disks that you want to keep, and the first recovery point is minutes away.`}
        </p>
        <JoinCommand role={servers.value.length === 0 ? 'process-server' : 'machine'} />
      </section>
    </div>
  );
}

export function Overview() {
  return machines.value.length === 0 ? <NothingYet /> : <Everything all={machines.value} />;
}

function Everything({ all }: { all: Machine[] }) {
  const history = useHistory(null, 15);
  const rates = overview.value?.rates;
  const { tone, title, text } = verdict(all);
  const whole = all.filter(isWhole).length;
  const running = runningJobs.value;
  const recent = running.length > 0 ? running : jobs.value.slice(0, 3);
  const attention = needsAttention(all);
  const worst = all.reduce<Machine | null>((most, machine) => ((machine.rpo_seconds ?? -1) > (most?.rpo_seconds ?? -1) ? machine : most), null);
  return (
    <div class="view">
      <ViewHead title="Overview">
        <Button icon="plus" onClick={() => showJoin('machine')}>
          Protect a machine
        </Button>
      </ViewHead>
      <section class={`verdict ${tone}`} aria-live="polite">
        <span class="verdict-icon">
          <Icon name={toneIcon(tone)} size={24} />
        </span>
        <div>
          <p class="verdict-title">{title}</p>
          <p class="verdict-text">{text}</p>
        </div>
        <dl class="verdict-counts">
          <div>
            <dt>Protected</dt>
            <dd class="num">
              {count(whole)}
              <small> of {count(all.length)}</small>
            </dd>
          </div>
          <div>
            <dt>Test failovers</dt>
            <dd class="num">{served.value.length}</dd>
          </div>
          <div>
            <dt>Jobs running</dt>
            <dd class="num">{running.length}</dd>
          </div>
        </dl>
      </section>
      <div class="tiles">
        <Tile label="Worst RPO" figure={spanFigure(worst?.rpo_seconds)} note={worst === null ? 'no recovery point yet' : worst.name} values={history.rpo} />
        <Tile
          label="Replication"
          figure={byteRateFigure(rates?.shipped_bytes_per_second)}
          note={`written ${byteRate(rates?.write_bytes_per_second)}, uploaded ${byteRate(rates?.uploaded_bytes_per_second)}`}
          values={history.shipped}
          colour="--chart-2"
        />
        <Tile label="Backlog" figure={bytesFigure(overview.value?.backlog_bytes)} note="not in the vault yet" values={history.backlog} colour="--chart-3" />
      </div>
      <div class="columns">
        <div class="stack">
          <Card title="RPO, worst machine" aside={<span class="quiet">last 15 minutes</span>}>
            <Chart
              label="RPO of the worst machine over the last 15 minutes"
              lines={[{ label: 'Worst RPO', colour: '--accent', fill: true }]}
              times={history.times}
              columns={[history.rpo]}
              window={900}
              height={220}
              least={5}
              format={span}
            />
          </Card>
          <Card title="Needs attention" aside={attention.length > 0 ? <span class="count">{attention.length}</span> : undefined} flush>
            <Attention machines={attention} />
          </Card>
        </div>
        <div class="stack">
          <Card title="Where the load is" aside={<a href={href('process-servers')}>Process servers</a>} flush>
            {servers.value.length === 0 ? (
              <Empty icon="servers" title="No process server has joined" />
            ) : (
              <ul class="list">{servers.value.slice(0, 6).map((server) => <ServerLoad key={server.id} server={server} />)}</ul>
            )}
          </Card>
          {served.value.length > 0 && (
            <Card title="Test failovers" flush>
              {served.value.map((item) => (
                <ServedCard key={item.id} item={item} />
              ))}
            </Card>
          )}
          <Card title={running.length > 0 ? 'Running now' : 'Latest jobs'} aside={<a href={href('jobs')}>All jobs</a>} flush>
            {recent.length === 0 ? <Empty icon="jobs" title="No job has run yet" /> : <JobList jobs={recent} />}
          </Card>
        </div>
      </div>
      <p class="unseen" role="status">
        {title}
      </p>
    </div>
  );
}

