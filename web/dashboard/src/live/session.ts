/** Signing in and out. */
import { get, setToken } from '../api/client';
import type { Installation } from '../api/types';
import { start } from './feed';

/** Signs in with a token; throws what the server said where it is not good. */
export async function signIn(token: string): Promise<void> {
  setToken(token);
  try {
    await get<Installation>('health');
  } catch (cause) {
    setToken(null);
    throw cause;
  }
  start();
}
