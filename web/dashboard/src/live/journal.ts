/** A machine's newest jobs and events: what the stream brought, and what was there before it. */
import { useEffect, useState } from 'preact/hooks';
import { get } from '../api/client';
import type { Event, Job, Page } from '../api/types';
import { events, jobs } from './store';

const SHOWN_JOBS = 5;
const SHOWN_EVENTS = 8;

function newest<T extends { id: string }>(live: T[], before: T[], shown: number): T[] {
  const known = new Set(live.map((item) => item.id));
  const all = [...live, ...before.filter((item) => !known.has(item.id))];
  return all.sort((a, b) => Number(b.id) - Number(a.id)).slice(0, shown);
}

export function useJournal(machine: string): { jobs: Job[]; events: Event[] } {
  const [before, setBefore] = useState<{ jobs: Job[]; events: Event[] }>({ jobs: [], events: [] });
  useEffect(() => {
    const query = (limit: number) => new URLSearchParams({ machine, limit: String(limit) });
    const loaded = Promise.all([get<Page<Job>>(`jobs?${query(SHOWN_JOBS)}`), get<Page<Event>>(`events?${query(SHOWN_EVENTS)}`)]);
    // What the stream brought is shown in any case.
    void loaded.then(([jobPage, eventPage]) => setBefore({ jobs: jobPage.items, events: eventPage.items }), () => undefined);
  }, [machine]);
  return {
    jobs: newest(jobs.value.filter((job) => job.machine === machine), before.jobs, SHOWN_JOBS),
    events: newest(events.value.filter((event) => event.subject.id === machine), before.events, SHOWN_EVENTS),
  };
}
