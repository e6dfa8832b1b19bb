/** Who is told of changes of health: webhooks, how they fare, and what they were told. */
import { useState } from 'preact/hooks';
import { command, post, remove } from '../api/client';
import type { Delivery, Webhook } from '../api/types';
import { ago, full, moment, plural, span, words } from '../format';
import { useList } from '../live/list';
import { now } from '../live/store';
import { Button, Card, Empty, HealthMark, State, ViewHead } from '../ui/bits';
import { CopyField } from '../ui/copy';
import { closeDialog, DialogForm, showDialog } from '../ui/dialog';
import { ListTrouble } from '../ui/list-trouble';
import { tell, tellTrouble } from '../ui/toast';
import { sentence } from './lists';

/** How often what is shown is fetched again: no stream brings it. */
const FRESH_MS = 3000;
const DELIVERIES_SHOWN = 20;

function NewWebhook({ made }: { made: () => void }) {
  const [label, setLabel] = useState('');
  const [url, setUrl] = useState('');
  const [plain, setPlain] = useState(false);
  const act = async () => {
    const webhook = await post<Webhook>('webhooks', { label, url, allow_plain_http: plain });
    made();
    return <Secret webhook={webhook} />;
  };
  return (
    <DialogForm title="New webhook" submit="Make it" act={act} disabled={label.trim() === '' || url.trim() === ''}>
      <p>It is sent a signed POST whenever something stops being normal, gets better or worse, and is tried again until it answers.</p>
      <label class="labelled">
        Name
        <input class="field" maxLength={100} placeholder="on-call pager" value={label} onInput={(event) => setLabel(event.currentTarget.value)} />
      </label>
      <label class="labelled">
        Address
        <input class="field" type="url" maxLength={1024} placeholder="https://pager.example/farshore" value={url} onInput={(event) => setUrl(event.currentTarget.value)} />
      </label>
      <label class="choice">
        <input type="checkbox" checked={plain} onChange={(event) => setPlain(event.currentTarget.checked)} />
        <span><b>Allow plain HTTP</b><small>everybody on the way sees what is told; the server’s own host needs no leave</small></span>
      </label>
    </DialogForm>
  );
}

function Secret({ webhook }: { webhook: Webhook }) {
  return (
    <div class="dialog-form">
      <h2 id="dialog-title">Secret of {webhook.label}</h2>
      <div class="dialog-body">
        <p>Its requests are signed with this. It is shown only now: keep it where the receiver finds it.</p>
        <CopyField wrap text={webhook.secret ?? ''} label="secret" />
        <p class="quiet">The header <code>Farshore-Signature</code> holds a time <code>t</code> and <code>v1</code>, the HMAC-SHA256 of <code>t.body</code> in hex.</p>
      </div>
      <footer><Button kind="primary" onClick={closeDialog}>Done</Button></footer>
    </div>
  );
}

/** `ending`: nothing is asked of it from here on. */
function end(webhook: Webhook, ending: (id: string | null) => void, after: () => void): void {
  const act = async () => {
    ending(webhook.id);
    try {
      await remove(`webhooks/${webhook.id}`);
    } catch (trouble) {
      ending(null);
      throw trouble;
    }
    after();
    tell('The webhook is deleted', webhook.label);
  };
  showDialog(
    <DialogForm title={`Delete the webhook ${webhook.label}?`} submit="Delete" danger act={act}>
      <p>It is told nothing any more{webhook.pending > 0 ? `, and ${plural(webhook.pending, 'delivery', 'deliveries')} that wait for it are forgotten` : ''}.</p>
    </DialogForm>,
  );
}

/** How it stands, in a sentence. */
function standing(webhook: Webhook): string {
  const last = webhook.last_delivery;
  if (last == null) return `made ${ago(webhook.created_at, now.value)}, nothing to tell since`;
  if (last.state === 'pending') {
    const next = last.next_attempt_at == null ? 0 : (Date.parse(last.next_attempt_at) - now.value) / 1000;
    return `${last.trouble ?? 'not answered'}; tried ${plural(last.attempts, 'time')}, again ${next <= 0 ? 'now' : `in ${span(next)}`}`;
  }
  return last.state === 'delivered' ? `last told ${ago(last.over_at ?? last.at, now.value)}` : `given up: ${last.trouble ?? 'not answered'}`;
}

interface ItemProps {
  webhook: Webhook;
  chosen: boolean;
  choose: () => void;
  ending: (id: string | null) => void;
  changed: () => void;
}

function Item({ webhook, chosen, choose, ending, changed }: ItemProps) {
  const test = async () => {
    await command(`webhooks/${webhook.id}/test`, {});
    changed();
    tell('A test is under way', `What becomes of it stands among the deliveries of ${webhook.label}.`);
  };
  return (
    <li class="item">
      <div class="item-main">
        <p class="item-title">
          <button type="button" class="link" aria-expanded={chosen} onClick={choose}>{webhook.label}</button>{' '}
          {webhook.pending > 0 && <span class="tag">{plural(webhook.pending, 'delivery', 'deliveries')} waiting</span>}
          {webhook.dropped > 0 && <span class="tag">{webhook.dropped} dropped</span>}
        </p>
        <p class="item-text"><code class="ellipsis">{webhook.url}</code></p>
        <p class="item-foot">{sentence(standing(webhook))}</p>
      </div>
      <State state={webhook.state} />
      <Button small onClick={() => void test().catch(tellTrouble)}>Send a test</Button>
      <Button small kind="ghost" icon="trash" onClick={() => end(webhook, ending, changed)}>Delete</Button>
    </li>
  );
}

function What({ delivery }: { delivery: Delivery }) {
  const change = delivery.health;
  if (change == null) return <>Test</>;
  const name = change.name === '' ? 'Installation' : change.name;
  return <>{name}: {words(change.before)} → <HealthMark level={change.level} /></>;
}

function Deliveries({ webhook }: { webhook: Webhook }) {
  const list = useList<Delivery>(`webhooks/${webhook.id}/deliveries`, FRESH_MS);
  return (
    <Card title={`Told to ${webhook.label}`} flush>
      {list.items === null ? (
        list.trouble === null ? <div class="skeleton-list" /> : <ListTrouble text={list.trouble} again={list.load} />
      ) : list.items.length === 0 ? (
        <Empty icon="webhook" title="Nothing yet">Send a test to see whether it arrives.</Empty>
      ) : (
        <ul class="list">
          {list.items.slice(0, DELIVERIES_SHOWN).map((delivery) => (
            <li class="item" key={delivery.id}>
              <div class="item-main">
                <p class="item-title"><What delivery={delivery} /></p>
                <p class="item-text">{delivery.trouble ?? delivery.health?.cause ?? 'Somebody tried whether it arrives.'}</p>
              </div>
              <div class="item-side">
                <State state={delivery.state} />
                <span class="quiet" title={full(delivery.at)}>{moment(delivery.at, now.value)}, {plural(delivery.attempts, 'attempt')}</span>
              </div>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

export function Webhooks() {
  const list = useList<Webhook>('webhooks', FRESH_MS);
  const [open, setOpen] = useState<string | null>(null);
  const [ending, setEnding] = useState<string | null>(null);
  const rest = list.items?.filter((webhook) => webhook.id !== ending) ?? [];
  const chosen = rest.find((webhook) => webhook.id === open) ?? rest[0];
  return (
    <div class="view">
      <ViewHead title="Webhooks" sub="Who is told when health changes.">
        <Button kind="primary" icon="plus" onClick={() => showDialog(<NewWebhook made={list.load} />)}>New webhook</Button>
      </ViewHead>
      <Card flush>
        {list.items === null ? (
          list.trouble === null ? <div class="skeleton-list" /> : <ListTrouble text={list.trouble} again={list.load} />
        ) : list.items.length === 0 ? (
          <Empty icon="webhook" title="Nobody is told">A webhook gets a signed request whenever a machine, a process server or the installation stops being normal, and when it is over.</Empty>
        ) : (
          <ul class="list">
            {list.items.map((webhook) => (
              <Item key={webhook.id} webhook={webhook} chosen={webhook.id === chosen?.id} choose={() => setOpen(webhook.id)} ending={setEnding} changed={list.load} />
            ))}
          </ul>
        )}
      </Card>
      {chosen !== undefined && <Deliveries key={chosen.id} webhook={chosen} />}
    </div>
  );
}
