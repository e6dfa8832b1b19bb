/** A long list of which only the rows in sight exist. Every row has one height, so scrolling never jumps. */
import type { ComponentChildren } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { Icon } from './icon';

export interface Column<T> {
  key: string;
  title: string;
  /** A part of CSS `grid-template-columns`. */
  width: string;
  /** What to sort by; none: the column does not sort. */
  sort?: (item: T) => number | string;
  right?: boolean;
  /** The title is there, but not seen. */
  bare?: boolean;
  /** Left out where there is little room. */
  wide?: boolean;
  cell: (item: T) => ComponentChildren;
}

interface RowsProps<T> {
  label: string;
  items: T[];
  columns: Column<T>[];
  id: (item: T) => string;
  open?: (item: T) => void;
  rowHeight?: number;
  /** Begins sorted by this. */
  order?: { key: string; down: boolean };
  empty: ComponentChildren;
}

/** Rows kept above and below what is in sight. */
const SPARE = 6;
/** Made once: making one for each comparison costs more than the comparison. */
const NAMES = new Intl.Collator('en', { numeric: true });

function sorted<T>(items: T[], column: Column<T> | undefined, down: boolean): T[] {
  const by = column?.sort;
  if (by === undefined) return items;
  const keyed = items.map((item) => [by(item), item] as const);
  const compare = (a: number | string, b: number | string) =>
    typeof a === 'string' && typeof b === 'string' ? NAMES.compare(a, b) : Number(a) - Number(b);
  keyed.sort(([a], [b]) => compare(a, b) * (down ? -1 : 1));
  return keyed.map(([, item]) => item);
}

export function Rows<T>(props: RowsProps<T>) {
  const { items, columns, rowHeight = 46, label, id, open } = props;
  const body = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, height: 800 });
  const [order, setOrder] = useState(props.order ?? { key: '', down: false });
  const [active, setActive] = useState(0);

  useEffect(() => {
    const element = body.current;
    if (element === null) return;
    const look = () => setView({ top: element.scrollTop, height: element.clientHeight });
    const resized = new ResizeObserver(look);
    resized.observe(element);
    element.addEventListener('scroll', look, { passive: true });
    return () => {
      resized.disconnect();
      element.removeEventListener('scroll', look);
    };
  }, []);

  const list = sorted(items, columns.find((column) => column.key === order.key), order.down);
  const first = Math.max(0, Math.floor(view.top / rowHeight) - SPARE);
  const last = Math.min(list.length, Math.ceil((view.top + view.height) / rowHeight) + SPARE);

  const focusRow = (at: number) => {
    const target = Math.max(0, Math.min(list.length - 1, at));
    setActive(target);
    const element = body.current;
    if (element === null) return;
    if (target * rowHeight < element.scrollTop) element.scrollTop = target * rowHeight;
    const foot = (target + 1) * rowHeight - element.clientHeight;
    if (foot > element.scrollTop) element.scrollTop = foot;
    requestAnimationFrame(() => element.querySelector<HTMLElement>(`[data-at="${target}"]`)?.focus());
  };
  const keys = (event: KeyboardEvent, at: number, item: T) => {
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 1);
    const moves: Record<string, number> = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: list.length - 1 };
    const target = moves[event.key];
    if (target !== undefined) {
      event.preventDefault();
      focusRow(target);
    } else if (event.key === 'Enter' && event.target === event.currentTarget) {
      open?.(item);
    }
  };
  const head = (column: Column<T>) => {
    const sorts = column.sort !== undefined;
    const mine = order.key === column.key;
    const state = !mine ? 'none' : order.down ? 'descending' : 'ascending';
    const classes = `${column.right === true ? 'right' : ''} ${column.wide === true ? 'wide' : ''}`;
    return (
      <div key={column.key} role="columnheader" class={classes} {...(sorts ? { 'aria-sort': state as 'none' } : {})}>
        {sorts ? (
          <button type="button" onClick={() => setOrder({ key: column.key, down: mine ? !order.down : false })}>
            {column.title}
            <span class="sort" aria-hidden="true">{mine && <Icon name={order.down ? 'down' : 'up'} size={12} />}</span>
          </button>
        ) : (
          <span class={column.bare === true ? 'unseen' : ''}>{column.title}</span>
        )}
      </div>
    );
  };
  const widths = { '--columns': columns.map((column) => column.width).join(' '), '--columns-narrow': columns.filter((column) => column.wide !== true).map((column) => column.width).join(' ') };
  const tabRow = Math.max(first, Math.min(active, last - 1));
  return (
    <div class="rows" role="table" aria-label={label} aria-rowcount={list.length + 1} style={widths}>
      <div role="rowgroup" class="rows-head">
        <div role="row" class="row head">{columns.map(head)}</div>
      </div>
      <div role="rowgroup" class="rows-body" ref={body}>
        {list.length === 0 && <div class="rows-empty">{props.empty}</div>}
        <div class="rows-all" style={{ height: `${list.length * rowHeight}px` }}>
          {list.slice(first, last).map((item, index) => {
            const at = first + index;
            return (
              <div
                key={id(item)}
                role="row"
                class={`row ${open === undefined ? '' : 'opens'}`}
                aria-rowindex={at + 2}
                data-at={at}
                tabIndex={at === tabRow ? 0 : -1}
                style={{ transform: `translateY(${at * rowHeight}px)`, height: `${rowHeight}px` }}
                onKeyDown={(event) => keys(event, at, item)}
                onFocus={() => setActive(at)}
                onClick={open === undefined ? undefined : () => open(item)}
              >
                {columns.map((column) => (
                  <div key={column.key} role="cell" class={`${column.right === true ? 'right' : ''} ${column.wide === true ? 'wide' : ''}`}>
                    {column.cell(item)}
                  </div>
                ))}
              </div>
            );
          })}
        </div>
      </div>
    </div>
  );
}
