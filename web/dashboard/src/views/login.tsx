/** The way in: a token. */
import { useState } from 'preact/hooks';
import { signIn } from '../live/session';
import { Trouble } from '../api/client';
import { Button } from '../ui/bits';
import { Icon, Logo } from '../ui/icon';

export function Login({ said }: { said: string | null }) {
  const [token, setToken] = useState('');
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState(said);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    setTrouble(null);
    await signIn(token.trim()).catch((cause: unknown) => {
      setTrouble(cause instanceof Trouble ? `${cause.title}: ${cause.detail || cause.remedy}` : String(cause));
    });
    setBusy(false);
  };
  return (
    <main class="login">
      <form class="card login-card" onSubmit={(event) => void submit(event)}>
        <Logo size={44} />
        <h1>Sign in to Farshore</h1>
        <label class="labelled">
          API token
          <input
            class="field"
            type="password"
            autocomplete="current-password"
            autofocus
            spellcheck={false}
            value={token}
            aria-describedby="login-help"
            onInput={(event) => setToken(event.currentTarget.value)}
          />
        </label>
        {trouble !== null && (
          <p class="login-trouble" role="alert">
            <Icon name="critical" size={16} />
            {trouble}
          </p>
        )}
        <Button type="submit" kind="primary" busy={busy} disabled={token.trim() === ''}>
          Sign in
        </Button>
        <p class="quiet" id="login-help">
          The first admin’s token lies in <code>admin.token</code> in the state directory of the configuration server.
        </p>
      </form>
    </main>
  );
}
