/** Brings what the server knows into the store, again and again, and says when it cannot. */
import { batch } from '@preact/signals';
import { all, get, hasToken, setToken, Trouble } from '../api/client';
import type { Event, Job, Machine, Page, ProcessServer, Served, Version } from '../api/types';
import { record } from './history';
import { events, jobs, loadTrouble, lostSince, machines, phase, served, servers, version } from './store';

const LOOK_EVERY_MS = 2000;
const RETRY_MAX_MS = 10_000;
/** Newest jobs and events that the page holds. */
const RECENT = 200;

let timer: ReturnType<typeof setTimeout> | undefined;
let failures = 0;
let life = 0;

async function look(): Promise<void> {
  const recent = `limit=${RECENT}`;
  const [machineList, serverList, jobPage, eventPage, servedList] = await Promise.all([
    all<Machine>('machines'),
    all<ProcessServer>('process-servers'),
    get<Page<Job>>(`jobs?${recent}`),
    get<Page<Event>>(`events?${recent}`),
    all<Served>('served-points'),
  ]);
  batch(() => {
    machines.value = machineList;
    servers.value = serverList;
    jobs.value = jobPage.items;
    events.value = eventPage.items;
    served.value = servedList;
    lostSince.value = null;
    loadTrouble.value = null;
    phase.value = 'ready';
    record(machineList, Date.now() / 1000);
  });
}

async function turn(of: number): Promise<void> {
  try {
    await look();
    failures = 0;
  } catch (cause) {
    if (of !== life) return;
    if (cause instanceof Trouble && cause.status === 401) return signOut();
    failures += 1;
    batch(() => {
      if (cause instanceof Trouble && cause.unreachable) lostSince.value ??= Date.now();
      else loadTrouble.value = cause instanceof Trouble ? `${cause.title}. ${cause.detail}` : String(cause);
    });
  }
  if (of !== life) return;
  const wait = failures === 0 ? LOOK_EVERY_MS : Math.min(RETRY_MAX_MS, 1000 * 2 ** (failures - 1));
  timer = setTimeout(() => void turn(of), wait);
}

/** Begins to look, from the start. */
export function start(): void {
  stop();
  if (!hasToken()) {
    phase.value = 'signed-out';
    return;
  }
  phase.value = 'loading';
  void get<Version>('version').then((now) => (version.value = now), () => undefined);
  void turn(life);
}

/** Looks now, because something was changed. */
export function lookNow(): void {
  if (phase.value !== 'ready') return;
  stop();
  void turn(life);
}

function stop(): void {
  clearTimeout(timer);
  life += 1;
}

export function signOut(): void {
  stop();
  setToken(null);
  batch(() => {
    phase.value = 'signed-out';
    machines.value = [];
    lostSince.value = null;
  });
}
