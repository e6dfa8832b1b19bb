/** The way in: a token. */
import { useState } from 'preact/hooks';
import { loginTrouble, signIn } from '../live/session';
import { Trouble } from '../api/client';
import { Button } from '../ui/bits';
import { Icon, Logo } from '../ui/icon';

export function Login() {
  const [token, setToken] = useState('');
  const [busy, setBusy] = useState(false);
  const [trouble, setTrouble] = useState<string | null>(null);
  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    setBusy(true);
    setTrouble(null);
    await signIn({ token: token.trim() }).catch((cause: unknown) => {
      setTrouble(cause instanceof Trouble ? `${cause.title}: ${cause.detail || cause.remedy}` : String(cause));
    });
    setBusy(false);
  };
  const shown = trouble ?? loginTrouble.value;
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
        {shown !== null && (
          <p class="login-trouble" role="alert">
            <Icon name="critical" size={16} />
            {shown}
          </p>
        )}
        <Button type="submit" kind="primary" busy={busy} disabled={token.trim() === ''}>
          Sign in
        </Button>
        <p class="quiet" id="login-help">
          On the server, <code>farshore ctl login-code</code> prints a link that needs no token. The first admin’s token is the file{' '}
          <code>admin.token</code> in the state directory.
        </p>
      </form>
    </main>
  );
}
