/** What machines and the installation looked like over the last hour, as far as this page has seen it. */
import { signal } from '@preact/signals';
import type { Machine } from '../api/types';
import { Series } from './series';

/** Columns of a machine's history. */
export const RPO = 0;
export const BACKLOG = 1;
export const RATE = 2;

const machines = new Map<string, Series>();
const lastLsn = new Map<string, { lsn: number; at: number }>();
/** RPO of the worst machine, backlog of all, entries of all logs a second. */
const installation = new Series(3);
/** Moves when there is more to show. */
export const historyTick = signal(0);

function rate(machine: Machine, at: number): number | null {
  const lsn = machine.agent.last_lsn;
  if (lsn == null) return null;
  const before = lastLsn.get(machine.id);
  if (before === undefined || lsn < before.lsn) {
    lastLsn.set(machine.id, { lsn, at });
    return null;
  }
  // Agents report at their own pace: a rate is told between two reports that differ.
  if (at - before.at < 1.5) return machines.get(machine.id)?.last(RATE) ?? null;
  lastLsn.set(machine.id, { lsn, at });
  return (lsn - before.lsn) / (at - before.at);
}

export function record(all: Machine[], at: number): void {
  let [worst, backlog, rates]: [number | null, number, number] = [null, 0, 0];
  const known = new Set<string>();
  for (const machine of all) {
    known.add(machine.id);
    const series = machines.get(machine.id) ?? new Series(3);
    machines.set(machine.id, series);
    const row = [machine.rpo_seconds ?? null, machine.log?.backlog_bytes ?? null, rate(machine, at)];
    series.push(at, row);
    if (row[0] != null) worst = Math.max(worst ?? 0, row[0]);
    backlog += row[1] ?? 0;
    rates += row[2] ?? 0;
  }
  for (const id of machines.keys()) if (!known.has(id)) machines.delete(id);
  installation.push(at, [worst, backlog, rates]);
  historyTick.value += 1;
}

export function machineHistory(id: string): Series {
  return machines.get(id) ?? new Series(3);
}

export function installationHistory(): Series {
  return installation;
}
