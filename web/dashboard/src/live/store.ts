/** What the page knows now. Views read it; only the feed writes it. */
import { computed, signal } from '@preact/signals';
import type { Event, Job, Machine, ProcessServer, Role, Served, Version } from '../api/types';

export type Phase = 'starting' | 'signed-out' | 'loading' | 'ready';

export const phase = signal<Phase>('starting');
export const machines = signal<Machine[]>([]);
export const servers = signal<ProcessServer[]>([]);
export const jobs = signal<Job[]>([]);
export const events = signal<Event[]>([]);
export const served = signal<Served[]>([]);
export const version = signal<Version | null>(null);
/** The caller's role where it is known. */
export const role = signal<Role | null>(null);
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

/** Whether the caller may act on machines, as far as the page knows; the server decides. */
export const mayOperate = computed(() => role.value !== 'viewer');
export const mayAdmin = computed(() => role.value === null || role.value === 'admin');
