/** Jobs and events: what runs, what ran, what happened. */
import { useState } from 'preact/hooks';
import type { Event, Job } from '../api/types';
import { ago, full, moment, span } from '../format';
import { loadOlder } from '../live/feed';
import { events, jobs, machineName, named, now, olderEvents, olderJobs, runningJobs } from '../live/store';
import { href } from '../router';
import { Button, Empty, State, toneIcon, toneOfSeverity, ViewHead } from '../ui/bits';
import { Icon } from '../ui/icon';
import { Rows, type Column } from '../ui/rows';
import { tellTrouble } from '../ui/toast';
import { JobControls, jobText, jobTitle, sentence, Subject } from './lists';

const took = (job: Job) => (Date.parse(job.state === 'running' ? new Date(now.value).toISOString() : job.updated_at) - Date.parse(job.created_at)) / 1000;

/** More of a list, as long as there is more. */
function Older({ list }: { list: 'jobs' | 'events' }) {
  const [busy, setBusy] = useState(false);
  const cursor = list === 'jobs' ? olderJobs : olderEvents;
  if (cursor.value === null) return null;
  const load = async () => {
    setBusy(true);
    await loadOlder(list).catch(tellTrouble);
    setBusy(false);
  };
  return <Button busy={busy} onClick={() => void load()}>Load older</Button>;
}

const JOBS: Column<Job>[] = [
  { key: 'id', title: 'Job', width: '64px', cell: (job) => <span class="num quiet">{job.id}</span> },
  { key: 'kind', title: 'What', width: 'minmax(160px, 1fr)', cell: (job) => <b>{jobTitle(job)}</b> },
  { key: 'machine', title: 'Machine', width: 'minmax(120px, 1fr)', cell: (job) => <a href={href('machines', job.machine)}>{machineName(job.machine)}</a> },
  { key: 'state', title: 'State', width: '104px', cell: (job) => <State state={job.state} /> },
  { key: 'text', title: 'Step', width: 'minmax(160px, 2fr)', wide: true, cell: (job) => <><span class="quiet ellipsis" title={jobText(job)}>{jobText(job)}</span><JobControls job={job} /></> },
  { key: 'took', title: 'Took', width: '84px', right: true, cell: (job) => <span class="num">{span(took(job))}</span> },
  { key: 'by', title: 'By', width: 'minmax(80px, 0.6fr)', wide: true, cell: (job) => <span class="quiet ellipsis">{job.by}</span> },
  { key: 'at', title: 'Begun', width: '112px', right: true, cell: (job) => <span class="quiet num" title={full(job.created_at)}>{ago(job.created_at, now.value)}</span> },
];

export function Jobs() {
  return (
    <div class="view fill">
      <ViewHead title="Jobs" sub={runningJobs.value.length === 0 ? 'Nothing runs now.' : `${runningJobs.value.length} running.`}>
        <Older list="jobs" />
      </ViewHead>
      <section class="card flush grow">
        <Rows label="Jobs" items={jobs.value} columns={JOBS} id={(job) => job.id} empty={<Empty icon="jobs" title="No job has run yet" />} />
      </section>
    </div>
  );
}

const EVENTS: Column<Event>[] = [
  {
    key: 'severity',
    title: 'Severity',
    bare: true,
    width: '28px',
    cell: (event) => {
      const tone = toneOfSeverity(event.severity);
      return (
        <span class={`item-icon ${tone}`} title={event.severity}>
          <Icon name={toneIcon(tone)} size={16} />
          <span class="unseen">{event.severity}</span>
        </span>
      );
    },
  },
  { key: 'at', title: 'When', width: '136px', cell: (event) => <span class="num quiet" title={full(event.at)}>{moment(event.at, now.value)}</span> },
  { key: 'subject', title: 'About', width: 'minmax(110px, 0.8fr)', cell: (event) => <Subject event={event} /> },
  { key: 'text', title: 'What happened', width: 'minmax(220px, 4fr)', cell: (event) => <span class="clamp" title={event.text}>{sentence(named(event.text))}</span> },
  { key: 'code', title: 'Code', width: 'minmax(140px, 1fr)', wide: true, cell: (event) => <code class="ellipsis">{event.code}</code> },
];

type Least = 'info' | 'warning' | 'critical';
const LEVELS: Least[] = ['info', 'warning', 'critical'];

export function Events() {
  const [least, setLeast] = useState<Least>('info');
  const shown = events.value.filter((event) => LEVELS.indexOf(event.severity as Least) >= LEVELS.indexOf(least));
  const label = { info: 'All', warning: 'Warnings and worse', critical: 'Critical' };
  return (
    <div class="view fill">
      <ViewHead title="Events" sub="What happened, newest first.">
        <Older list="events" />
        <div class="segments" role="group" aria-label="Severity">
          {LEVELS.map((level) => (
            <button key={level} type="button" aria-pressed={least === level} onClick={() => setLeast(level)}>{label[level]}</button>
          ))}
        </div>
      </ViewHead>
      <section class="card flush grow">
        <Rows label="Events" items={shown} columns={EVENTS} id={(event) => event.id} rowHeight={52} empty={<Empty icon="events" title="Nothing happened yet" />} />
      </section>
    </div>
  );
}
