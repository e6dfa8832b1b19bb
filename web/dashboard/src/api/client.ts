/** The one way to the server: REST under /api/v1, as any other client would. */
import type { Page, ProblemDocument } from './types';

const BASE = '/api/v1/';
/** Longest wait for an answer. A test failover may take 35 s to open; nothing takes longer. */
const ANSWER_WITHIN_MS = 45_000;

/** What the server refused, or why it could not be asked. */
export class Trouble extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    readonly title: string,
    readonly detail: string,
    readonly remedy: string,
  ) {
    super(title);
  }

  /** The server was not reached at all. */
  get unreachable(): boolean {
    return this.status === 0;
  }
}

const unreachable = (detail: string) =>
  new Trouble(0, 'unreachable', 'The server does not answer', detail, 'Check that farshore runs, and the way to it.');

/** The session's second secret: goes with everything that changes something. The first is a cookie that no script sees. */
let csrf: string | null = null;

export function setCsrf(next: string | null): void {
  csrf = next;
}

async function problem(answer: Response): Promise<Trouble> {
  const body = (await answer.json().catch(() => ({}))) as Partial<ProblemDocument>;
  const title = body.title ?? `The server answered ${answer.status}`;
  return new Trouble(answer.status, body.code ?? 'unknown', title, body.detail ?? '', body.remedy ?? '');
}

async function ask(method: string, path: string, body?: unknown, withinMs = ANSWER_WITHIN_MS, ifMatch?: string): Promise<Response> {
  const headers: Record<string, string> = { accept: 'application/json' };
  if (csrf !== null && method !== 'GET') headers['x-farshore-csrf'] = csrf;
  if (body !== undefined) headers['content-type'] = 'application/json';
  if (ifMatch !== undefined) headers['if-match'] = ifMatch;
  const request: RequestInit = { method, headers, signal: AbortSignal.timeout(withinMs), cache: 'no-store' };
  if (body !== undefined) request.body = JSON.stringify(body);
  const answer = await fetch(BASE + path, request).catch((cause: unknown) => {
    throw unreachable(String(cause));
  });
  if (!answer.ok) throw await problem(answer);
  return answer;
}

export async function get<T>(path: string, withinMs?: number): Promise<T> {
  return (await ask('GET', path, undefined, withinMs)).json() as Promise<T>;
}

export async function post<T>(path: string, body: unknown): Promise<T> {
  return (await ask('POST', path, body)).json() as Promise<T>;
}

/** A command whose answer says nothing but that it was taken. */
export async function command(path: string, body?: unknown): Promise<void> {
  await ask('POST', path, body);
}

/** Changes an item that is still the version that the caller saw. */
export async function edit(path: string, etag: string, body: unknown): Promise<void> {
  await ask('PATCH', path, body, ANSWER_WITHIN_MS, etag);
}

export async function remove(path: string): Promise<void> {
  await ask('DELETE', path);
}

/** Every item of a list, part by part. */
export async function all<T>(path: string): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | null | undefined;
  do {
    const query = new URLSearchParams({ limit: '500', ...(cursor == null ? {} : { cursor }) });
    const part: Page<T> = await get(`${path}?${query}`);
    items.push(...part.items);
    cursor = part.next_cursor;
  } while (cursor != null);
  return items;
}
