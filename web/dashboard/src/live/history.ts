/** How things fared lately. The server keeps it; the newest moment is what the stream just said. */
import { signal } from '@preact/signals';
import { useEffect, useState } from 'preact/hooks';
import { get } from '../api/client';
import type { History, Machine } from '../api/types';

/** Columns over time, the oldest first. Times are in seconds. */
export interface Curves {
  times: number[];
  rpo: (number | null)[];
  backlog: (number | null)[];
  write: (number | null)[];
  shipped: (number | null)[];
  uploaded: (number | null)[];
}

const NOTHING: Curves = { times: [], rpo: [], backlog: [], write: [], shipped: [], uploaded: [] };

function curves(history: History): Curves {
  const { samples } = history;
  const of = <T,>(pick: (sample: History['samples'][number]) => T) => samples.map(pick);
  return {
    times: of((sample) => Date.parse(sample.at) / 1000),
    rpo: of((sample) => sample.rpo_seconds ?? null),
    backlog: of((sample) => sample.backlog_bytes),
    write: of((sample) => sample.write_bytes_per_second ?? null),
    shipped: of((sample) => sample.shipped_bytes_per_second ?? null),
    uploaded: of((sample) => sample.uploaded_bytes_per_second ?? null),
  };
}

/** Samples are 5 seconds apart up to a quarter of an hour, a minute beyond it. */
const everyMs = (minutes: number) => (minutes <= 15 ? 5000 : 30_000);

/** The history of a machine, or of everything together; empty until it is there. */
export function useHistory(machine: string | null, minutes: number): Curves {
  const [shown, setShown] = useState(NOTHING);
  useEffect(() => {
    let over = false;
    const path = machine === null ? 'history' : `machines/${machine}/history`;
    const load = () => {
      if (document.visibilityState === 'hidden') return;
      // A chart that cannot be brought up to date stays as it is; the banner says that the line is down.
      void get<History>(`${path}?minutes=${minutes}`).then((history) => over || setShown(curves(history)), () => undefined);
    };
    load();
    const timer = setInterval(load, everyMs(minutes));
    return () => {
      over = true;
      clearInterval(timer);
    };
  }, [machine, minutes]);
  return shown;
}

/** RPO of machines over the last minutes, for the small lines of the list. */
interface Trend {
  values: (number | null)[];
}

const TREND_VALUES = 90;
const TREND_MINUTES = 15;
const trends = new Map<string, Trend>();
/** Time that a row must be in sight before its trend is asked for: who scrolls past asks for nothing. */
const SETTLED_MS = 200;

/** A machine's newest figures. */
export function note(machine: Machine): void {
  const trend = trends.get(machine.id);
  if (trend === undefined) return;
  if (machine.state === 'removed') trends.delete(machine.id);
  else trend.values = [...trend.values.slice(1 - TREND_VALUES), machine.rpo_seconds ?? null];
}

export function forget(): void {
  trends.clear();
}

export function useTrend(machine: string): (number | null)[] {
  const loaded = useState(() => signal(0))[0];
  useEffect(() => {
    if (trends.has(machine)) return;
    const timer = setTimeout(() => {
      const take = (history: History) => {
        const values = history.samples.map((sample) => sample.rpo_seconds ?? null).slice(-TREND_VALUES);
        trends.set(machine, { values });
        loaded.value += 1;
      };
      void get<History>(`machines/${machine}/history?minutes=${TREND_MINUTES}`).then(take, () => undefined);
    }, SETTLED_MS);
    return () => clearTimeout(timer);
  }, [machine]);
  loaded.value;
  return trends.get(machine)?.values ?? [];
}
