/** Who asked for which change, when, from where, with which outcome. */
import { useState } from 'preact/hooks';
import type { Audit as Entry } from '../api/types';
import { full, moment, words } from '../format';
import { useParts } from '../live/list';
import { now } from '../live/store';
import { Button, Empty, State, ViewHead } from '../ui/bits';
import { ListTrouble } from '../ui/list-trouble';
import { Rows, type Column } from '../ui/rows';
import { tellTrouble } from '../ui/toast';

const COLUMNS: Column<Entry>[] = [
  { key: 'at', title: 'When', width: '148px', cell: (entry) => <span class="num quiet" title={full(entry.at)}>{moment(entry.at, now.value)}</span> },
  { key: 'by', title: 'Who', width: 'minmax(150px, 1.2fr)', cell: (entry) => <span class="ellipsis" title={`${entry.by} (${entry.role})`}>{entry.by}</span> },
  { key: 'role', title: 'As', width: '84px', wide: true, cell: (entry) => <span class="tag">{entry.role}</span> },
  { key: 'action', title: 'What', width: 'minmax(150px, 1fr)', cell: (entry) => <b class="ellipsis">{words(entry.action)}</b> },
  { key: 'outcome', title: 'Outcome', width: '108px', cell: (entry) => <State state={entry.outcome} /> },
  { key: 'target', title: 'Where', width: 'minmax(160px, 1.6fr)', wide: true, cell: (entry) => <code class="ellipsis" title={entry.target}>{entry.target.replace('/api/v1/', '')}</code> },
  { key: 'code', title: 'Why', width: 'minmax(110px, 0.9fr)', wide: true, cell: (entry) => (entry.code == null ? <span class="quiet">–</span> : <code class="ellipsis" title={entry.code}>{entry.code}</code>) },
  { key: 'from', title: 'From', width: '112px', wide: true, cell: (entry) => <span class="quiet num ellipsis">{entry.from}</span> },
];

export function Audit() {
  const [refused, setRefused] = useState(false);
  const [busy, setBusy] = useState(false);
  const list = useParts<Entry>('audit-log');
  const older = async () => {
    setBusy(true);
    await list.older?.().catch(tellTrouble);
    setBusy(false);
  };
  const shown = (list.items ?? []).filter((entry) => !refused || entry.outcome === 'refused');
  return (
    <div class="view fill">
      <ViewHead title="Audit" sub="Every change that was asked for, newest first.">
        {list.older !== null && <Button busy={busy} onClick={() => void older()}>Load older</Button>}
        <Button onClick={list.load}>Refresh</Button>
        <div class="segments" role="group" aria-label="Outcome">
          <button type="button" aria-pressed={!refused} onClick={() => setRefused(false)}>All</button>
          <button type="button" aria-pressed={refused} onClick={() => setRefused(true)}>Refused</button>
        </div>
      </ViewHead>
      <section class="card flush grow">
        {list.items === null ? (
          list.trouble === null ? <div class="skeleton-list" /> : <ListTrouble text={list.trouble} again={list.load} />
        ) : (
          <Rows label="Audit log" items={shown} columns={COLUMNS} id={(entry) => entry.id} empty={<Empty icon="audit" title={refused ? 'Nothing was refused' : 'Nothing was changed yet'} />} />
        )}
      </section>
    </div>
  );
}
