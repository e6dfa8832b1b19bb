/** A list that no stream brings: fetched when it is shown, and again when it is asked for. */
import { useEffect, useState } from 'preact/hooks';
import { all, get, Trouble } from '../api/client';
import type { Page } from '../api/types';

const said = (cause: unknown) => (cause instanceof Trouble ? `${cause.title}. ${cause.remedy}` : String(cause));

export interface List<T> {
  /** Null until the first answer. */
  items: T[] | null;
  /** Why it could not be fetched, where it could not. */
  trouble: string | null;
  load: () => void;
}

/** All of it; where `everyMs` is given, again and again. */
export function useList<T>(path: string, everyMs?: number): List<T> {
  const [items, setItems] = useState<T[] | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const load = () =>
    void all<T>(path).then(
      (found) => {
        setItems(found);
        setTrouble(null);
      },
      (cause: unknown) => setTrouble(said(cause)),
    );
  useEffect(() => {
    load();
    if (everyMs === undefined) return;
    const timer = setInterval(load, everyMs);
    return () => clearInterval(timer);
  }, [path]);
  return { items, trouble, load };
}

export interface Parts<T> extends List<T> {
  /** Fetches what is older; none: there is no more. */
  older: (() => Promise<void>) | null;
}

/** Its newest part, and older ones as they are asked for. `path` has no query, or one that goes on. */
export function useParts<T>(path: string): Parts<T> {
  const [items, setItems] = useState<T[] | null>(null);
  const [trouble, setTrouble] = useState<string | null>(null);
  const [cursor, setCursor] = useState<string | null>(null);
  const part = (more: string) => get<Page<T>>(`${path}${path.includes('?') ? '&' : '?'}limit=100${more}`);
  const load = () =>
    void part('').then(
      (page) => {
        setItems(page.items);
        setCursor(page.next_cursor ?? null);
        setTrouble(null);
      },
      (cause: unknown) => setTrouble(said(cause)),
    );
  useEffect(() => {
    setItems(null);
    load();
  }, [path]);
  const older = async () => {
    const page = await part(`&cursor=${encodeURIComponent(cursor ?? '')}`);
    setItems((before) => [...(before ?? []), ...page.items]);
    setCursor(page.next_cursor ?? null);
  };
  return { items, trouble, load, older: cursor === null ? null : older };
}
