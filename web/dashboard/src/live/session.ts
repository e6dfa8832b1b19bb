/** Signing in and out. The session is a cookie; the page holds only the secret that goes with changes. */
import { signal } from '@preact/signals';
import { get, post, remove, setCsrf, Trouble } from '../api/client';
import type { Session } from '../api/types';
import { takeLoginCode } from '../router';
import { ended, start } from './feed';
import { phase, session } from './store';

/** Why the sign-in page is shown, where there is something to say. */
export const loginTrouble = signal<string | null>(null);

function begun(now: Session): void {
  session.value = now;
  setCsrf(now.csrf_token ?? null);
  loginTrouble.value = null;
  start();
}

/** Signs in with a token or a one-time code; throws what the server said where it is not good. */
export async function signIn(secret: { token: string } | { code: string }): Promise<void> {
  begun(await post<Session>('session', secret));
}

const said = (cause: unknown) => (cause instanceof Trouble ? `${cause.title}: ${cause.detail || cause.remedy}` : String(cause));

/** Takes up the session that there is, or the one that the address brings. */
export async function takeUp(): Promise<void> {
  const code = takeLoginCode();
  try {
    if (code !== null) await signIn({ code });
    else begun(await get<Session>('session'));
  } catch (cause) {
    const expected = code === null && cause instanceof Trouble && cause.status === 401;
    if (!expected) loginTrouble.value = code === null ? said(cause) : 'This login link was used before, or is too old. Ask for a new one: farshore ctl login-code';
    phase.value = 'signed-out';
  }
}

export async function signOut(): Promise<void> {
  await remove('session').catch(() => undefined);
  session.value = null;
  setCsrf(null);
  ended();
}
