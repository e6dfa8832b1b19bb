/** A machine's recovery points, newest first: the part that is looked at, kept up to date. */
import { signal, type Signal } from '@preact/signals';
import { useEffect, useMemo } from 'preact/hooks';
import { get } from '../api/client';
import type { Page, Point } from '../api/types';

/** Parts of a list that are loaded for a window before the operator asks for more. */
const PARTS_MAX = 8;
const PART = 500;
/** Most points that are asked for when there are newer ones. */
const NEWER = 100;

export interface Points {
  items: Signal<Point[]>;
  /** There are older ones that were not loaded. */
  more: Signal<boolean>;
  loading: Signal<boolean>;
  trouble: Signal<unknown>;
}

class Loader implements Points {
  items = signal<Point[]>([]);
  more = signal(false);
  loading = signal(true);
  trouble = signal<unknown>(null);
  private cursor: string | null = null;
  private busy = false;

  constructor(private readonly machine: string) {}

  private part(limit: number, cursor: string | null): Promise<Page<Point>> {
    const query = new URLSearchParams({ limit: String(limit), ...(cursor === null ? {} : { cursor }) });
    return get(`machines/${this.machine}/points?${query}`);
  }

  private async alone(work: () => Promise<void>): Promise<void> {
    if (this.busy) return;
    this.busy = true;
    try {
      await work();
      this.trouble.value = null;
    } catch (cause) {
      this.trouble.value = cause;
    } finally {
      this.busy = false;
      this.loading.value = false;
    }
  }

  /** Loads back to a time, or as many parts as are loaded unasked. */
  reach(from: number, parts = PARTS_MAX): Promise<void> {
    return this.alone(async () => {
      for (let loaded = 0; loaded < parts; loaded += 1) {
        const oldest = this.items.value.at(-1);
        const begun = oldest !== undefined;
        if (begun && (this.cursor === null || Date.parse(oldest.captured_at) <= from)) break;
        const part = await this.part(PART, this.cursor);
        this.items.value = [...this.items.value, ...part.items];
        this.cursor = part.next_cursor ?? null;
        if (part.items.length === 0) break;
      }
      this.more.value = this.cursor !== null;
    });
  }

  /** Brings what is newer than the newest. */
  refresh(): Promise<void> {
    const newest = this.items.value[0]?.lsn;
    if (newest === undefined) return this.reach(Date.now(), 1);
    return this.alone(async () => {
      const part = await this.part(NEWER, null);
      const fresh = part.items.filter((point) => point.lsn > newest);
      if (fresh.length > 0) this.items.value = [...fresh, ...this.items.value];
    });
  }
}

/** The points of a machine back to `windowSeconds` ago; `newestLsn` moves when there is a newer one. */
export function usePoints(machine: string, windowSeconds: number, newestLsn: number | null): Points & { reach: Loader['reach'] } {
  const loader = useMemo(() => new Loader(machine), [machine]);
  useEffect(() => void loader.reach(Date.now() - windowSeconds * 1000), [loader, windowSeconds]);
  useEffect(() => {
    if (newestLsn !== null) void loader.refresh();
  }, [loader, newestLsn]);
  return loader;
}
