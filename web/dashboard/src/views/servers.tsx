/** Process servers: who takes machines' writes, and how much they carry. */
import { remove } from '../api/client';
import type { ProcessServer } from '../api/types';
import { ago, bytes, percent, plural } from '../format';
import { lookNow } from '../live/feed';
import { mayAdmin, now, servers } from '../live/store';
import { Button, Card, Empty, Fact, HealthMark, Meter, State, ViewHead, type Tone } from '../ui/bits';
import { DialogForm, showDialog } from '../ui/dialog';
import { tell } from '../ui/toast';
import { may } from './actions';
import { showJoin } from './join';
import { IssueList } from './lists';

const tone = (part: number | null): Tone => (part === null ? 'quiet' : part > 0.9 ? 'crit' : part > 0.75 ? 'warn' : 'ok');

function removeServer(server: ProcessServer): void {
  const act = async () => {
    await remove(`process-servers/${server.id}`);
    lookNow();
    tell('The process server was removed', server.name);
  };
  showDialog(
    <DialogForm title={`Remove ${server.name}?`} submit="Remove" danger act={act}>
      <p>It owns no machine. Its certificate is no longer accepted; to come back it has to join again.</p>
    </DialogForm>,
  );
}

function Gauge({ label, part, text }: { label: string; part: number | null; text: string }) {
  return (
    <div class="gauge">
      <span>{label}</span>
      <span class="num">{text}</span>
      <Meter part={part} tone={tone(part)} label={label} />
    </div>
  );
}

function ServerCard({ server }: { server: ProcessServer }) {
  const cache = server.cache;
  const of = (bytesNow: number) => (cache == null || cache.bytes_max === 0 ? null : bytesNow / cache.bytes_max);
  return (
    <Card
      title={server.name}
      aside={
        <>
          <HealthMark level={server.health.level} />
          <State state={server.state} />
        </>
      }
    >
      {server.health.issues.length > 0 && <IssueList health={server.health} />}
      <div class="gauges">
        <Gauge label="CPU" part={server.cpu ?? null} text={percent(server.cpu)} />
        <Gauge label="Cache" part={cache == null ? null : of(cache.used_bytes)} text={cache == null ? '–' : `${bytes(cache.used_bytes)} of ${bytes(cache.bytes_max)}`} />
        <Gauge label="Backlog" part={cache == null ? null : of(cache.backlog_bytes)} text={bytes(cache?.backlog_bytes)} />
      </div>
      <dl class="facts">
        <Fact label="Machines">{plural(server.machines, 'machine')}, {server.machines_replicating} replicating</Fact>
        <Fact label="Cache disk">{bytes(cache?.disk_free_bytes)} free</Fact>
        <Fact label="Heartbeat">{ago(server.heartbeat_at, now.value)}</Fact>
        <Fact label="Version">{server.program_version || '–'}</Fact>
        <Fact label="Address"><code>{server.addresses.join(', ')}</code></Fact>
        <Fact label="Id"><code class="ellipsis">{server.id}</code></Fact>
      </dl>
      {may(server, 'remove') && mayAdmin.value && (
        <div class="card-actions">
          <Button small kind="ghost" icon="trash" onClick={() => removeServer(server)}>Remove</Button>
        </div>
      )}
    </Card>
  );
}

export function Servers() {
  return (
    <div class="view">
      <ViewHead title="Process servers" sub="They take machines’ writes, keep them safe, and bring them into the vault.">
        <Button kind="primary" icon="plus" onClick={() => showJoin('process-server')}>Add a process server</Button>
      </ViewHead>
      {servers.value.length === 0 ? (
        <section class="card"><Empty icon="servers" title="No process server has joined">Machines’ protection begins by itself once one is there.</Empty></section>
      ) : (
        <div class="server-grid">{servers.value.map((server) => <ServerCard key={server.id} server={server} />)}</div>
      )}
    </div>
  );
}
