/**
 * Keeps the store like the server: loads everything once, then follows the stream of changes, and loads again where the
 * stream says that something was missed. Says when the server is not heard any more.
 *
 *   start ─► session? ─► load ─► stream ──event──► queue ─► flush (a few times a second) ─► store
 *                          ▲        │ reset, or silence and then an answer
 *                          └────────┘
 */
import { batch } from '@preact/signals';
import { all, get, Trouble } from '../api/client';
import type { Event, Job, Machine, Overview, Page, ProcessServer, Served, Version } from '../api/types';
import { forget, note } from './history';
import { events, jobs, loadTrouble, lostSince, machines, olderEvents, olderJobs, overview, phase, served, servers, version } from './store';

/** Time between two changes of the picture: quick enough to feel live, slow enough to be read. */
const FLUSH_EVERY_MS = 500;
/** A stream that says nothing for so long is asked after. A stream with a protected machine speaks every two seconds. */
const SILENT_MS = 12_000;
const LOOK_AFTER_MS = 3000;
/** Newest jobs and events that are loaded at first. */
const RECENT = 200;

interface Item {
  id: string;
}

let stream: EventSource | null = null;
let watch: ReturnType<typeof setInterval> | undefined;
let flushing: ReturnType<typeof setTimeout> | undefined;
let heardAt = 0;
let life = 0;
let loading = false;

const queue = {
  machines: new Map<string, Machine>(),
  servers: new Map<string, ProcessServer>(),
  jobs: new Map<string, Job>(),
  events: new Map<string, Event>(),
};

const byNumber = (a: Item, b: Item) => Number(b.id) - Number(a.id);

/** Puts changed items in place of what they were, and new ones beside them. */
function merge<T extends Item>(list: T[], changed: Map<string, T>): T[] {
  const merged = list.map((item) => {
    const next = changed.get(item.id);
    changed.delete(item.id);
    return next ?? item;
  });
  return [...merged, ...changed.values()];
}

function flush(): void {
  flushing = undefined;
  batch(() => {
    if (queue.machines.size > 0) {
      for (const machine of queue.machines.values()) note(machine);
      const merged = merge(machines.value, queue.machines);
      machines.value = merged.filter((machine) => machine.state !== 'removed');
    }
    if (queue.servers.size > 0) servers.value = merge(servers.value, queue.servers).filter((server) => server.state !== 'removed');
    if (queue.jobs.size > 0) {
      const serving = [...queue.jobs.values()].some((job) => job.served_point != null);
      jobs.value = merge(jobs.value, queue.jobs).sort(byNumber);
      if (serving) loadServed();
    }
    if (queue.events.size > 0) events.value = merge(events.value, queue.events).sort(byNumber);
  });
  for (const part of Object.values(queue)) part.clear();
}

function later(): void {
  flushing ??= setTimeout(flush, FLUSH_EVERY_MS);
}

function loadServed(): void {
  const of = life;
  void all<Served>('served-points').then(
    (items) => {
      if (of === life) served.value = items;
    },
    () => undefined,
  );
}

/** Loads everything anew. */
async function load(of: number): Promise<void> {
  if (loading) return;
  loading = true;
  try {
    const [summary, machineList, serverList, jobPage, eventPage, servedList] = await Promise.all([
      get<Overview>('overview'),
      all<Machine>('machines'),
      all<ProcessServer>('process-servers'),
      get<Page<Job>>(`jobs?limit=${RECENT}`),
      get<Page<Event>>(`events?limit=${RECENT}`),
      all<Served>('served-points'),
    ]);
    if (of !== life) return;
    batch(() => {
      overview.value = summary;
      machines.value = machineList;
      servers.value = serverList;
      jobs.value = jobPage.items;
      olderJobs.value = jobPage.next_cursor ?? null;
      events.value = eventPage.items;
      olderEvents.value = eventPage.next_cursor ?? null;
      served.value = servedList;
      loadTrouble.value = null;
      heard();
      phase.value = 'ready';
    });
  } catch (cause) {
    if (of === life) failed(cause);
  } finally {
    loading = false;
  }
}

function heard(): void {
  heardAt = Date.now();
  lostSince.value = null;
}

function failed(cause: unknown): void {
  if (cause instanceof Trouble && cause.status === 401) return ended();
  if (cause instanceof Trouble && cause.unreachable) lostSince.value ??= heardAt === 0 ? Date.now() : heardAt;
  else loadTrouble.value = cause instanceof Trouble ? `${cause.title}. ${cause.detail}` : String(cause);
}

function follow(of: number): void {
  stream?.close();
  const source = new EventSource('/api/v1/stream');
  stream = source;
  const on = <T extends Item>(name: string, into: Map<string, T>) =>
    source.addEventListener(name, (event) => {
      heard();
      const item = JSON.parse((event as MessageEvent<string>).data) as T;
      into.set(item.id, item);
      later();
    });
  on('machine', queue.machines);
  on('process_server', queue.servers);
  on('job', queue.jobs);
  on('event', queue.events);
  source.addEventListener('overview', (event) => {
    heard();
    const before = overview.value?.served_points;
    overview.value = JSON.parse((event as MessageEvent<string>).data) as Overview;
    if (before !== overview.value.served_points) loadServed();
  });
  source.addEventListener('reset', () => {
    heard();
    void load(of);
  });
}

/** Asks after a stream that says nothing, and opens one again that was given up. */
async function look(of: number): Promise<void> {
  const closed = stream === null || stream.readyState === EventSource.CLOSED;
  const broken = stream?.readyState === EventSource.CONNECTING;
  if (!closed && !broken && Date.now() - heardAt < SILENT_MS) return;
  try {
    const summary = await get<Overview>('overview', LOOK_AFTER_MS * 2);
    if (of !== life) return;
    overview.value = summary;
    if (phase.value !== 'ready') await load(of);
    if (closed || lostSince.value !== null) follow(of);
    heard();
  } catch (cause) {
    if (of === life) failed(cause);
  }
}

/** Begins, once somebody is signed in. */
export function start(): void {
  stop();
  const of = life;
  phase.value = 'loading';
  void get<Version>('version').then((now) => (version.value = now), () => undefined);
  // The stream's first word is `reset`: that loads everything, so that nothing falls between loading and following.
  follow(of);
  watch = setInterval(() => void look(of), LOOK_AFTER_MS);
}

export function stop(): void {
  life += 1;
  clearInterval(watch);
  clearTimeout(flushing);
  flushing = undefined;
  stream?.close();
  stream = null;
  heardAt = 0;
  for (const part of Object.values(queue)) part.clear();
}

/** What is shown belongs to a session that is over. */
export function ended(): void {
  stop();
  forget();
  batch(() => {
    phase.value = 'signed-out';
    machines.value = [];
    servers.value = [];
    jobs.value = [];
    events.value = [];
    served.value = [];
    overview.value = null;
    lostSince.value = null;
    loadTrouble.value = null;
  });
}

/** Loads the next part of older jobs or events. */
export async function loadOlder(list: 'jobs' | 'events'): Promise<void> {
  const [items, cursor] = list === 'jobs' ? [jobs, olderJobs] : [events, olderEvents];
  if (cursor.value === null) return;
  const part = await get<Page<Job & Event>>(`${list}?${new URLSearchParams({ limit: String(RECENT), cursor: cursor.value })}`);
  batch(() => {
    cursor.value = part.next_cursor ?? null;
    const known = new Set(items.value.map((item) => item.id));
    items.value = [...(items.value as (Job & Event)[]), ...part.items.filter((item) => !known.has(item.id))];
  });
}

/** The server tells of changes by itself; what it serves is looked at at once, because the operator waits for it. */
export function lookNow(): void {
  loadServed();
}
