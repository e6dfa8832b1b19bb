/** What the page knows now. Views read it; only the feed writes it. */
import { computed, signal } from '@preact/signals';
import type { Event, Job, Machine, Overview, ProcessServer, Session, Served, Version } from '../api/types';

export type Phase = 'starting' | 'signed-out' | 'loading' | 'ready';

export const phase = signal<Phase>('starting');
export const machines = signal<Machine[]>([]);
export const servers = signal<ProcessServer[]>([]);
export const jobs = signal<Job[]>([]);
export const events = signal<Event[]>([]);
export const served = signal<Served[]>([]);
export const version = signal<Version | null>(null);
/** Everything at one look, as the server sums it up. */
export const overview = signal<Overview | null>(null);
/** Who is signed in. */
export const session = signal<Session | null>(null);
/** Where older jobs and events begin; null: all are here. */
export const olderJobs = signal<string | null>(null);
export const olderEvents = signal<string | null>(null);
/** Since when the server has not answered; null while it does. */
export const lostSince = signal<number | null>(null);
/** What the server said last when it refused a load. */
export const loadTrouble = signal<string | null>(null);
/** The clock that ages are told by; moves once a second. */
export const now = signal(Date.now());
setInterval(() => {
  if (document.visibilityState === 'visible') now.value = Date.now();
}, 1000);

export const machinesById = computed(() => new Map(machines.value.map((machine) => [machine.id, machine])));
export const serversById = computed(() => new Map(servers.value.map((server) => [server.id, server])));
export const runningJobs = computed(() => jobs.value.filter((job) => job.state === 'running'));

export function machineName(id: string): string {
  return machinesById.value.get(id)?.name ?? id.slice(0, 8);
}

export function serverName(id: string): string {
  return serversById.value.get(id)?.name ?? id.slice(0, 8);
}

/** The server's texts name machines and servers by their ids; people know their names. */
export function named(text: string): string {
  return text.replace(/\b[0-9a-f]{32}\b/g, (id) => machinesById.value.get(id)?.name ?? serversById.value.get(id)?.name ?? id.slice(0, 8));
}

/** What the caller may, as far as the page shows it; the server decides. */
export const mayOperate = computed(() => session.value?.role === 'operator' || session.value?.role === 'admin');
export const mayAdmin = computed(() => session.value?.role === 'admin');
