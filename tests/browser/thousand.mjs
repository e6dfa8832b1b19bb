/** A thousand machines, each changing every second. The server's answers are made here: the page is what is tested. */
import { check, eventually, look, open, PATIENCE, settings } from './stage.mjs';

const { url, login, machines: count } = settings;
/** Rows that may exist at a time, whatever the list's length. */
const ROWS_MAX = 60;
/** Five times what looks smooth on a machine with a graphics card, for the frame that 95 of 100 are quicker than. */
const FRAME_MAX_MS = 250;

const health = (level) => ({ level, code: null, cause: null, remedy: null, issues: [] });
function item(at) {
  const behind = at % 40 === 7;
  const trouble = { code: 'rpo_warning', severity: 'warning', cause: 'The newest recovery point is old.', remedy: 'Look at its process server.' };
  return {
    id: (at + 1).toString(16).padStart(32, '0'),
    name: `${['db', 'web', 'mail', 'erp'][at % 4]}-${String(at).padStart(4, '0')}`,
    timeline: '0'.repeat(32),
    enrolled_at: '2026-01-01T00:00:00Z',
    state: behind ? 'catching_up' : 'protected',
    health: behind ? { ...trouble, level: 'warning', issues: [trouble] } : health('normal'),
    rpo_seconds: 1 + (at % 30) / 10,
    assignment: { process_server: 'f'.repeat(32), process_server_name: 'built-in', epoch: 1, stage: 'active', since: '2026-01-01T00:00:00Z' },
    disks: [],
    agent: { connected: true },
    log: { state: 'replicating', durable: at, committed: at, backlog_bytes: at * 1000 },
    rates: { shipped_bytes_per_second: at * 500, write_bytes_per_second: at * 500, uploaded_bytes_per_second: at * 300 },
    policy: { rpo_warning_seconds: 30, rpo_critical_seconds: 300, own: false, retention: 'all:2h,1h:1d,2h:7d,4h:15d' },
    etag: '"1"',
    allowed_operations: [],
  };
}
const items = Array.from({ length: count }, (_, at) => item(at));

const { page, end } = await open();
page.setDefaultTimeout(PATIENCE);
await page.route(/\/api\/v1\/machines\?/, (route) => route.fulfill({ json: { items, next_cursor: null } }));
await page.route(/\/api\/v1\/machines\/[^?]*\/history/, (route) => route.fulfill({ json: { machine: null, step_seconds: 5, samples: [] } }));
// A stream that says what a real one says at its busiest: a tenth of all machines, ten times a second.
await page.addInitScript((list) => {
  window.EventSource = class extends EventTarget {
    static CONNECTING = 0;
    static OPEN = 1;
    static CLOSED = 2;
    readyState = 1;
    constructor() {
      super();
      setTimeout(() => this.say('reset', { reason: 'begun' }), 0);
      let turn = 0;
      this.timer = setInterval(() => {
        turn += 1;
        for (let at = turn % 10; at < list.length; at += 10) this.say('machine', { ...list[at], rpo_seconds: 1 + ((at + turn) % 50) / 10 });
      }, 100);
    }
    say(name, data) {
      this.dispatchEvent(new MessageEvent(name, { data: JSON.stringify(data) }));
    }
    close() {
      clearInterval(this.timer);
      this.readyState = 2;
    }
  };
}, items);

await page.goto(url + login);
await page.locator('.verdict').waitFor();
await look(page, 'thousand-overview');
await page.goto(`${url}/#/machines`);
await eventually('the list', async () => (await page.locator('.row.opens').count()) > 5);
await look(page, 'thousand-machines');

const seen = await page.evaluate(
  () =>
    new Promise((resolve) => {
      const body = document.querySelector('.rows-body');
      const [frames, names] = [[], new Set()];
      let [most, before] = [0, performance.now()];
      const step = (now) => {
        frames.push(now - before);
        before = now;
        const rows = [...document.querySelectorAll('.rows-body .row')];
        most = Math.max(most, rows.length);
        rows.forEach((row) => names.add(row.textContent.slice(0, 10)));
        if (body.scrollTop + body.clientHeight >= body.scrollHeight - 1) resolve({ frames, most, last: rows.at(-1).getAttribute('aria-rowindex'), names: names.size });
        else {
          body.scrollTop += 400;
          requestAnimationFrame(step);
        }
      };
      requestAnimationFrame(step);
    }),
);
const sorted = seen.frames.sort((a, b) => a - b);
const p95 = sorted[Math.floor(sorted.length * 0.95)];
console.log(`${sorted.length} frames, p50 ${sorted[Math.floor(sorted.length / 2)].toFixed(1)} ms, p95 ${p95.toFixed(1)} ms; at most ${seen.most} rows at a time`);
check(seen.most <= ROWS_MAX, `at most ${ROWS_MAX} rows exist, not ${seen.most}`);
check(Number(seen.last) === count + 1, `the last machine was reached, not row ${seen.last}`);
check(p95 <= FRAME_MAX_MS, `95 of 100 frames take at most ${FRAME_MAX_MS} ms, not ${p95}`);

await page.getByLabel('Find a machine').fill('erp-0999');
await eventually('one machine to fit', async () => (await page.locator('.row.opens').count()) === 1 || (await page.locator('.row.opens').count()));
await end();
