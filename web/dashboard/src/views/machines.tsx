/** Every machine, in one list that stays quick with thousands. */
import { signal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import type { Machine } from '../api/types';
import { byteRate, count, bytes, plural, span } from '../format';
import { useTrend } from '../live/history';
import { machines } from '../live/store';
import { go, href, route } from '../router';
import { Button, Empty, HealthMark, State, ViewHead } from '../ui/bits';
import { Spark } from '../ui/chart';
import { Icon } from '../ui/icon';
import { Rows, type Column } from '../ui/rows';
import { showJoin } from './join';

const text = signal('');
type Filter = 'all' | 'attention' | 'protected';
const RANK: Record<string, number> = { critical: 0, warning: 1, normal: 2 };

const rate = (machine: Machine) => machine.rates.shipped_bytes_per_second;

function Trend({ id }: { id: string }) {
  return <Spark values={useTrend(id)} />;
}

const COLUMNS: Column<Machine>[] = [
  {
    key: 'name',
    title: 'Machine',
    width: 'minmax(130px, 2fr)',
    sort: (machine) => machine.name,
    cell: (machine) => (
      <a class="row-name" href={href('machines', machine.id)} tabIndex={-1} onClick={(event) => event.stopPropagation()}>
        {machine.name}
      </a>
    ),
  },
  { key: 'state', title: 'State', width: 'minmax(132px, 1.2fr)', sort: (machine) => machine.state, cell: (machine) => <State state={machine.state} /> },
  { key: 'health', title: 'Health', width: '104px', sort: (machine) => RANK[machine.health.level] ?? 3, cell: (machine) => <HealthMark level={machine.health.level} /> },
  { key: 'rpo', title: 'RPO', width: '92px', right: true, sort: (machine) => machine.rpo_seconds ?? 1e15, cell: (machine) => <b class="num">{span(machine.rpo_seconds)}</b> },
  { key: 'trend', title: 'RPO over time', width: 'minmax(96px, 1fr)', wide: true, cell: (machine) => <Trend key={machine.id} id={machine.id} /> },
  {
    key: 'rate',
    title: 'Replication',
    width: '104px',
    right: true,
    sort: (machine) => rate(machine) ?? -1,
    cell: (machine) => <span class="num">{byteRate(rate(machine))}</span>,
  },
  { key: 'backlog', title: 'Backlog', width: '100px', right: true, wide: true, sort: (machine) => machine.log?.backlog_bytes ?? -1, cell: (machine) => <span class="num">{bytes(machine.log?.backlog_bytes)}</span> },
  { key: 'server', title: 'Process server', width: 'minmax(104px, 1fr)', wide: true, sort: (machine) => machine.assignment?.process_server_name ?? '', cell: (machine) => <span class="quiet ellipsis">{machine.assignment?.process_server_name ?? 'none'}</span> },
];

function keeps(filter: Filter, machine: Machine): boolean {
  if (filter === 'attention') return machine.health.level !== 'normal';
  return filter === 'all' || machine.state === 'protected';
}

export function Machines() {
  const search = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const focus = (event: KeyboardEvent) => {
      const typing = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
      if (event.key !== '/' || typing || event.metaKey || event.ctrlKey) return;
      event.preventDefault();
      search.current?.focus();
    };
    addEventListener('keydown', focus);
    return () => removeEventListener('keydown', focus);
  }, []);
  const wanted = route.value[1];
  const filter: Filter = wanted === 'attention' || wanted === 'protected' ? wanted : 'all';
  const all = machines.value;
  const words = text.value.trim().toLowerCase();
  const shown = all.filter((machine) => keeps(filter, machine) && (words === '' || machine.name.toLowerCase().includes(words) || machine.id.startsWith(words)));
  const tab = (value: Filter, label: string) => (
    <a href={value === 'all' ? href('machines') : href('machines', value)} aria-current={filter === value ? 'true' : undefined}>
      {label}
      <span class="count">{count(all.filter((machine) => keeps(value, machine)).length)}</span>
    </a>
  );
  return (
    <div class="view fill">
      <ViewHead title="Machines" sub={`${plural(all.length, 'machine')}. Arrow keys go through the list, Enter opens, / finds.`}>
        <Button kind="primary" icon="plus" onClick={() => showJoin('machine')}>
          Protect a machine
        </Button>
      </ViewHead>
      <div class="toolbar">
        <nav class="tabs" aria-label="Filter">
          {tab('all', 'All')}
          {tab('attention', 'Needs attention')}
          {tab('protected', 'Protected')}
        </nav>
        <label class="search">
          <Icon name="search" size={16} />
          <span class="unseen">Find a machine</span>
          <input ref={search} type="search" placeholder="Find a machine" value={text.value} onInput={(event) => (text.value = event.currentTarget.value)} />
          <kbd aria-hidden="true">/</kbd>
        </label>
      </div>
      <section class="card flush grow">
        <Rows
          label="Machines"
          items={shown}
          columns={COLUMNS}
          id={(machine) => machine.id}
          open={(machine) => go('machines', machine.id)}
          order={{ key: 'health', down: false }}
          empty={all.length === 0 ? <Empty icon="machines" title="Nothing is protected yet" /> : <Empty icon="search" title="No machine fits" />}
        />
      </section>
    </div>
  );
}
