/** Lists that several views show: jobs, events, test failovers, what needs attention. */
import type { Event, Health, Job, Machine, Served } from '../api/types';
import { ago, bytes, count, full, moment, words } from '../format';
import { machineName, machinesById, mayOperate, named, now, serverName, serversById } from '../live/store';
import { href } from '../router';
import { Button, Meter, State, toneIcon, toneOfHealth, toneOfSeverity } from '../ui/bits';
import { CopyField } from '../ui/copy';
import { Icon } from '../ui/icon';
import { tellTrouble } from '../ui/toast';
import { cancelJob, cleanUp, may, retryJob } from './actions';

const JOB_TITLES: Record<string, string> = {
  protect: 'Begin protection',
  move: 'Move',
  serve: 'Serve a point',
  stop_serving: 'End serving',
  restore: 'Restore to images',
  delete_points: 'Delete points',
};

export function sentence(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

export function jobTitle(job: Job): string {
  return JOB_TITLES[job.kind] ?? words(job.kind);
}

export function jobText(job: Job): string {
  const from = job.source == null || job.target == null ? '' : `${serverName(job.source)} → ${serverName(job.target)}`;
  if (job.trouble != null && job.state !== 'done') return named(job.trouble);
  if (from !== '') return from;
  if (job.result != null) return job.result;
  return job.state === 'running' ? words(job.step) : sentence(named(job.steps_done.at(-1)?.detail ?? ''));
}

/** How far a job is, and what can be done about it. */
export function JobControls({ job }: { job: Job }) {
  const { progress } = job;
  const total = progress?.total_bytes ?? 0;
  return (
    <>
      {job.state === 'running' && progress != null && total > 0 && (
        <Meter part={progress.done_bytes / total} tone="busy" label={`${jobTitle(job)}, ${bytes(progress.done_bytes)} of ${bytes(total)}`} />
      )}
      {mayOperate.value && may(job, 'cancel') && (
        <Button small kind="ghost" onClick={() => void cancelJob(job).catch(tellTrouble)}>
          Cancel
        </Button>
      )}
      {mayOperate.value && may(job, 'retry') && (
        <Button small kind="ghost" onClick={() => void retryJob(job).catch(tellTrouble)}>
          Retry
        </Button>
      )}
    </>
  );
}

/** Jobs as a short list. */
export function JobList({ jobs, withMachine = true }: { jobs: Job[]; withMachine?: boolean }) {
  return (
    <ul class="list">
      {jobs.map((job) => (
        <li key={job.id} class="item">
          <div class="item-main">
            <p class="item-title">
              {jobTitle(job)}
              {withMachine && (
                <>
                  {' · '}
                  <a href={href('machines', job.machine)}>{machineName(job.machine)}</a>
                </>
              )}
            </p>
            <p class="item-text">{jobText(job)}</p>
          </div>
          <JobControls job={job} />
          <div class="item-side">
            <State state={job.state} />
            <span class="quiet" title={full(job.updated_at)}>{ago(job.updated_at, now.value)}</span>
          </div>
        </li>
      ))}
    </ul>
  );
}

/** Where an event's subject is shown. */
export function Subject({ event }: { event: Event }) {
  const id = event.subject.id;
  if (id == null) return <span>Installation</span>;
  if (event.subject.kind === 'machine') {
    return machinesById.value.has(id) ? <a href={href('machines', id)}>{machineName(id)}</a> : <span>{machineName(id)}</span>;
  }
  return serversById.value.has(id) ? <a href={href('process-servers')}>{serverName(id)}</a> : <span>{serverName(id)}</span>;
}

export function EventList({ events, withSubject = true }: { events: Event[]; withSubject?: boolean }) {
  return (
    <ul class="list">
      {events.map((event) => {
        const tone = toneOfSeverity(event.severity);
        return (
          <li key={event.id} class="item">
            <span class={`item-icon ${tone}`} title={words(event.severity)}>
              <Icon name={toneIcon(tone)} size={16} />
              <span class="unseen">{words(event.severity)}: </span>
            </span>
            <div class="item-main">
              <p class="item-text strong">{sentence(named(event.text))}</p>
              <p class="item-foot">
                {withSubject && (
                  <>
                    <Subject event={event} />
                    {' · '}
                  </>
                )}
                <code>{event.code}</code>
              </p>
            </div>
            <div class="item-side">
              <span class="quiet" title={full(event.at)}>{moment(event.at, now.value)}</span>
            </div>
          </li>
        );
      })}
    </ul>
  );
}

/** How much of it lies at the process server already. */
function near({ reached_bytes, total_bytes, ended }: NonNullable<Served['near']>): string {
  if (reached_bytes >= total_bytes) return 'all of it near';
  const percent = Math.floor((100 * reached_bytes) / total_bytes);
  return ended ? `${percent} % near, the rest is read from the vault` : `being brought near, ${percent} %`;
}

/** A test failover with its disks. */
export function ServedCard({ item, withMachine = true }: { item: Served; withMachine?: boolean }) {
  const taken = item.point == null ? '' : `Point of ${moment(item.point.captured_at, now.value)}`;
  const where = `on ${serverName(item.process_server)}`;
  return (
    <article class="served">
      <header>
        <div class="item-main">
          <p class="item-title">
            {withMachine ? <a href={href('machines', item.machine)}>{machineName(item.machine)}</a> : taken || 'Test failover'}
          </p>
          <p class="item-text">
            {withMachine ? `${taken} ${where}` : where}, {item.read_only ? 'read-only' : 'writable overlay'}, since {ago(item.since, now.value)}
            {item.near != null && `, ${near(item.near)}`}
          </p>
        </div>
        <State state={item.state} />
        {mayOperate.value && (may(item, 'clean_up') || may(item, 'stop')) && (
          <Button small icon="trash" onClick={() => cleanUp(item)}>
            Clean up
          </Button>
        )}
      </header>
      {item.exports.map((disk) => (
        <div class="served-disk" key={disk.disk}>
          <span>
            <b>{disk.name}</b> <span class="quiet">{bytes(disk.size_bytes)}</span>
          </span>
          <CopyField text={disk.uri} label={`NBD address of ${disk.name}`} />
        </div>
      ))}
    </article>
  );
}

/** What is wrong, why, and what to do. */
export function IssueList({ health }: { health: Health }) {
  return (
    <ul class="issues">
      {health.issues.map((issue) => {
        const tone = issue.severity === 'info' ? 'quiet' : toneOfHealth(issue.severity);
        return (
          <li key={issue.code} class={`issue ${tone}`}>
            <Icon name={toneIcon(tone)} />
            <div>
              <p class="issue-cause">{named(issue.cause)}</p>
              <p class="issue-remedy">{issue.remedy}</p>
            </div>
            <code>{issue.code}</code>
          </li>
        );
      })}
    </ul>
  );
}

/** Names that are shown of machines with the same trouble. */
const NAMES_SHOWN = 8;

interface Group {
  first: Machine;
  members: Machine[];
}

/** Machines with the same trouble stand together: one cause, one remedy, however many they are. */
function grouped(machines: Machine[]): Group[] {
  const groups = new Map<string, Group>();
  for (const machine of machines) {
    const key = `${machine.health.level} ${machine.health.code}`;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, { first: machine, members: [machine] });
    else group.members.push(machine);
  }
  return [...groups.values()];
}

/** Machines that are not as they should be, worst first. */
export function Attention({ machines }: { machines: Machine[] }) {
  if (machines.length === 0) {
    return (
      <p class="all-well">
        <Icon name="check" size={16} />
        Every machine is as it should be.
      </p>
    );
  }
  return (
    <ul class="list">
      {grouped(machines).map(({ first, members }) => {
        const tone = toneOfHealth(first.health.level);
        return (
          <li key={`${first.health.level} ${first.health.code}`} class="item">
            <span class={`item-icon ${tone}`}>
              <Icon name={toneIcon(tone)} size={17} />
              <span class="unseen">{words(first.health.level)}: </span>
            </span>
            <div class="item-main">
              <p class="item-title">{named(first.health.cause ?? words(first.state))}</p>
              <p class="item-text">{first.health.remedy}</p>
              <p class="names">
                {members.slice(0, NAMES_SHOWN).map((machine) => (
                  <a key={machine.id} href={href('machines', machine.id)}>
                    {machine.name}
                  </a>
                ))}
                {members.length > NAMES_SHOWN && <a href={href('machines', 'attention')}>and {count(members.length - NAMES_SHOWN)} more</a>}
              </p>
            </div>
          </li>
        );
      })}
    </ul>
  );
}
