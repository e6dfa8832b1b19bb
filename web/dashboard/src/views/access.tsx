/** Who may join and who may call: tokens, without their texts, which are shown once. */
import type { ComponentChildren } from 'preact';
import { useState } from 'preact/hooks';
import { get, post, remove } from '../api/client';
import type { ApiToken, JoinToken, Role, VaultKeys } from '../api/types';
import { ago, full, words } from '../format';
import { useList } from '../live/list';
import { now } from '../live/store';
import { Button, Card, Empty, Fact, ViewHead } from '../ui/bits';
import { CopyField } from '../ui/copy';
import { closeDialog, DialogForm, showDialog } from '../ui/dialog';
import { ListTrouble } from '../ui/list-trouble';
import { tell, tellTrouble } from '../ui/toast';
import { showJoin } from './join';

function NewApiToken({ made }: { made: () => void }) {
  const [label, setLabel] = useState('');
  const [role, setRole] = useState<Role>('viewer');
  const act = async () => {
    const token = await post<ApiToken>('api-tokens', { label, role });
    made();
    return <Token token={token} />;
  };
  const ROLES: [Role, string][] = [['viewer', 'may look'], ['operator', 'may act on machines'], ['admin', 'may change who may act']];
  return (
    <DialogForm title="New API token" submit="Make it" act={act} disabled={label.trim() === ''}>
      <label class="labelled">
        Whose it is
        <input class="field" maxLength={100} placeholder="backup scripts" value={label} onInput={(event) => setLabel(event.currentTarget.value)} />
      </label>
      <fieldset>
        <legend>Role</legend>
        {ROLES.map(([value, text]) => (
          <label class="choice" key={value}>
            <input type="radio" name="role" checked={role === value} onChange={() => setRole(value)} />
            <span><b>{words(value)}</b><small>{text}</small></span>
          </label>
        ))}
      </fieldset>
    </DialogForm>
  );
}

function Token({ token }: { token: ApiToken }) {
  return (
    <div class="dialog-form">
      <h2 id="dialog-title">Token of {token.label}</h2>
      <div class="dialog-body">
        <p>It is shown only now. Keep it where its owner finds it.</p>
        <CopyField wrap text={token.token ?? ''} label="token" />
      </div>
      <footer><Button kind="primary" onClick={closeDialog}>Done</Button></footer>
    </div>
  );
}

function revoke(path: string, what: string, after: () => void): void {
  const act = async () => {
    await remove(path);
    after();
    tell('The token is revoked', what);
  };
  showDialog(
    <DialogForm title={`Revoke ${what}?`} submit="Revoke" danger act={act}>
      <p>Whoever uses it is refused from now on.</p>
    </DialogForm>,
  );
}

function TokenItem({ title, text, end }: { title: ComponentChildren; text: string; end: () => void }) {
  return (
    <li class="item">
      <div class="item-main">
        <p class="item-title">{title}</p>
        <p class="item-text">{text}</p>
      </div>
      <Button small kind="ghost" icon="trash" onClick={end}>Revoke</Button>
    </li>
  );
}

const SLOTS: Record<string, string> = {
  passphrase: 'A passphrase',
  recovery: 'The recovery key',
  wrapped: 'A key management service',
};

/** Who may open the vault: looked at on demand, changed at the vault alone. */
function VaultCard() {
  const [keys, setKeys] = useState<VaultKeys | null>(null);
  const look = () => void get<VaultKeys>('vault-keys').then(setKeys).catch(tellTrouble);
  return (
    <Card title="Vault" aside={<Button small onClick={look}>{keys === null ? 'Show what opens it' : 'Ask again'}</Button>}>
      <p class="quiet">
        Whoever has the vault key’s file, a passphrase or the recovery key can read every replica, with every server gone. <code>farshore vault key</code> changes who that is, at the vault: no secret that opens it goes through this page.
      </p>
      {keys !== null && (
        <dl class="facts">
          <Fact label="Vault"><code>{keys.vault}</code></Fact>
          <Fact label="Made">{full(keys.created_at)}</Fact>
          {keys.slots.map((slot, number) => <Fact key={number} label={`Slot ${number}`}>{SLOTS[slot] ?? 'Of a newer version'}</Fact>)}
        </dl>
      )}
    </Card>
  );
}

export function Access() {
  const api = useList<ApiToken>('api-tokens');
  const join = useList<JoinToken>('join-tokens');
  const at = now.value;
  const ends = (time: string | null | undefined) => (time == null ? 'never ends' : Date.parse(time) < at ? 'has ended' : `ends ${full(time)}`);
  return (
    <div class="view">
      <ViewHead title="Access" sub="Who may call the API, and who may join." />
      <div class="columns even">
        <Card title="Join" aside={<><Button small icon="plus" onClick={() => showJoin('machine')}>Machine</Button><Button small icon="plus" onClick={() => showJoin('process-server')}>Process server</Button></>} flush>
          {join.items === null ? (join.trouble === null ? <div class="skeleton-list" /> : <ListTrouble text={join.trouble} again={join.load} />) : join.items.length === 0 ? (
            <Empty icon="access" title="No join token">Make one to let a machine or a process server in.</Empty>
          ) : (
            <ul class="list">
              {join.items.map((token) => (
                <TokenItem
                  key={token.id}
                  title={<>{words(token.role)} {token.label !== '' && <span class="quiet">{token.label}</span>}</>}
                  text={`used ${token.uses} of ${token.uses_max}, ${ends(token.expires_at)}`}
                  end={() => revoke(`join-tokens/${token.id}`, `join token ${token.id.slice(0, 8)}`, join.load)}
                />
              ))}
            </ul>
          )}
        </Card>
        <Card title="API tokens" aside={<Button small icon="plus" onClick={() => showDialog(<NewApiToken made={api.load} />)}>New</Button>} flush>
          {api.items === null ? (api.trouble === null ? <div class="skeleton-list" /> : <ListTrouble text={api.trouble} again={api.load} />) : (
            <ul class="list">
              {api.items.map((token) => (
                <TokenItem
                  key={token.id}
                  title={<>{token.label} <span class="tag">{token.role}</span></>}
                  text={`made ${ago(token.created_at, at)}, ${ends(token.expires_at)}`}
                  end={() => revoke(`api-tokens/${token.id}`, token.label, api.load)}
                />
              ))}
            </ul>
          )}
        </Card>
      </div>
      <VaultCard />
    </div>
  );
}
