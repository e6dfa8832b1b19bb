/** Lists that several views show: jobs, events, test failovers, what needs attention. */
import type { Event, Health, Job, Machine, Served } from '../api/types';
import { ago, bytes, full, moment, plural, words } from '../format';
import { machineName, machinesById, now, serverName, serversById } from '../live/store';
import { href } from '../router';
import { Button, Empty, State, toneIcon, toneOfHealth, toneOfSeverity } from '../ui/bits';
import { CopyField } from '../ui/copy';
import { Icon } from '../ui/icon';
import { cleanUp, may } from './actions';

const JOB_TITLES: Record<string, string> = {
  protect: 'Begin protection',
  move: 'Move',
  serve: 'Start test failover',
  stop_serving: 'Clean up test failover',
};

export function jobTitle(job: Job): string {
  return JOB_TITLES[job.kind] ?? words(job.kind);
}

export function jobText(job: Job): string {
  const from = job.source == null || job.target == null ? '' : `${serverName(job.source)} → ${serverName(job.target)}`;
  if (job.trouble != null && job.state !== 'done') return job.trouble;
  if (from !== '') return from;
  return job.state === 'running' ? words(job.step) : (job.steps_done.at(-1)?.detail ?? '');
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
              <p class="item-text strong">{event.text}</p>
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
          </p>
        </div>
        <State state={item.state} />
        {may(item, 'stop') && (
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
              <p class="issue-cause">{issue.cause}</p>
              <p class="issue-remedy">{issue.remedy}</p>
            </div>
            <code>{issue.code}</code>
          </li>
        );
      })}
    </ul>
  );
}

/** Machines that are not as they should be, worst first. */
export function Attention({ machines }: { machines: Machine[] }) {
  if (machines.length === 0) {
    return <Empty icon="check" title="Nothing needs you">Every machine is as it should be.</Empty>;
  }
  const SHOWN = 6;
  return (
    <>
      <ul class="list">
        {machines.slice(0, SHOWN).map((machine) => {
          const tone = toneOfHealth(machine.health.level);
          return (
            <li key={machine.id} class="item">
              <span class={`item-icon ${tone}`}>
                <Icon name={toneIcon(tone)} size={17} />
                <span class="unseen">{words(machine.health.level)}: </span>
              </span>
              <div class="item-main">
                <p class="item-title">
                  <a href={href('machines', machine.id)}>{machine.name}</a>
                  <span class="quiet"> {words(machine.state)}</span>
                </p>
                <p class="item-text strong">{machine.health.cause}</p>
                <p class="item-text">{machine.health.remedy}</p>
              </div>
            </li>
          );
        })}
      </ul>
      {machines.length > SHOWN && (
        <a class="more" href={href('machines', 'attention')}>
          and {plural(machines.length - SHOWN, 'more machine')}
        </a>
      )}
    </>
  );
}
