/** An operator's first hour, in a browser. */
import { check, eventually, look, need, open, PATIENCE, serverIsAway, settings } from './stage.mjs';

const { url, login, token, machine } = settings;
/** Most that the page may weigh, compressed. */
const WEIGHT_MAX = 300 * 1024;
/** Five times the second that the page has until it says something useful. */
const USEFUL_WITHIN_MS = 5000;
/** RPO that is clearly risen, and clearly fallen again, in seconds. */
const [RISEN, FALLEN] = [8, 6];

const { page, end } = await open();
page.setDefaultTimeout(PATIENCE);
const button = (name) => page.getByRole('button', { name, exact: true });
const dialogButton = (name) => page.getByRole('dialog').getByRole('button', { name, exact: true });
const place = (name) => page.getByRole('navigation', { name: 'Main' }).getByRole('link', { name }).click();

await signInByToken();
await signInByLink();
await nothingIsProtected();
await everyView();
await aTokenIsMade();
await somebodyIsTold();
await thePolicyChanges();
await aPointIsHeld();
await itsLogIsReadAgain();
await rpoRisesAndFalls();
await nothingMoves();
await testFailover();
await takeAPoint();
await restoreToImages();
await pauseAndResume();
await theServerIsNotHeard();
await signOut();
await end();

async function signInByToken() {
  await page.goto(url);
  await page.getByLabel('API token').fill('no-such-token');
  await button('Sign in').click();
  await page.getByRole('alert').waitFor();
  await look(page, 'login');
  await page.getByLabel('API token').fill(token);
  await button('Sign in').click();
  await page.getByRole('heading', { name: 'Nothing is protected yet' }).waitFor();
  await signOut();
}

async function signOut() {
  await page.getByRole('button', { name: /^Sign out/ }).click();
  await page.getByLabel('API token').waitFor();
  const kept = await page.evaluate(() => [document.cookie, JSON.stringify({ ...localStorage, ...sessionStorage })].join());
  check(!kept.includes('farshore-api'), `no script can read a secret: ${kept}`);
}

async function signInByLink() {
  // A link that is opened in a page that is already there changes only the part behind `#`.
  await page.goto('about:blank');
  const begun = Date.now();
  await page.goto(url + login);
  await page.getByRole('heading', { name: 'Nothing is protected yet' }).waitFor();
  const useful = Date.now() - begun;
  const paint = await page.evaluate(() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? Infinity);
  console.log(`first paint after ${Math.round(paint)} ms, useful after ${useful} ms`);
  check(useful <= USEFUL_WITHIN_MS, `useful within ${USEFUL_WITHIN_MS} ms, not ${useful}`);
  check(!page.url().includes('login='), `the code is taken out of the address: ${page.url()}`);
  await page.evaluate(() => document.fonts.ready);
  const weight = await page.evaluate(() => {
    const files = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
    return files.filter((file) => !file.name.includes('/api/')).map((file) => [file.name, file.encodedBodySize]);
  });
  const bytes = weight.reduce((sum, [, size]) => sum + size, 0);
  console.log(`the page weighs ${Math.round(bytes / 1024)} KiB in ${weight.length} files`);
  check(weight.length >= 4 && weight.every(([, size]) => size > 0), `every file is counted: ${weight}`);
  check(bytes <= WEIGHT_MAX, `the page weighs at most ${WEIGHT_MAX} bytes, not ${bytes}: ${weight}`);
}

async function nothingIsProtected() {
  await look(page, 'nothing-protected');
  await button('Make the join command').click();
  const command = page.getByLabel('join command', { exact: true });
  await command.waitFor();
  await look(page, 'nothing-protected-command');
  await need('agent', { command: (await command.textContent()).replaceAll('\\\n', ' ') });
  await eventually('the machine to be protected', async () => {
    const title = await page.locator('.verdict-title').textContent({ timeout: 1000 }).catch(() => 'no verdict');
    return title === `${machine} is protected` || title;
  });
}

async function everyView() {
  await look(page, 'overview');
  await place('Machines');
  await page.getByRole('row').filter({ hasText: machine }).waitFor();
  await look(page, 'machines');
  await keys();
  await look(page, 'machine');
  for (const [name, file] of [['Process servers', 'process-servers'], ['Jobs', 'jobs'], ['Events', 'events'], ['Webhooks', 'webhooks'], ['Access', 'access'], ['Audit', 'audit']]) {
    await place(name);
    await page.getByRole('heading', { name, level: 1 }).waitFor();
    await look(page, file);
  }
}

/** The way to a machine needs no pointer. */
async function keys() {
  await page.keyboard.press('/');
  await page.keyboard.type(machine.slice(0, 2));
  await page.locator('.rows .row.opens').first().focus();
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: machine, level: 1 }).waitFor();
  const slider = page.getByRole('slider', { name: 'Recovery points' });
  await slider.focus();
  const before = await slider.getAttribute('aria-valuetext');
  await eventually('an earlier point under the arrow key', async () => {
    await page.keyboard.press('ArrowLeft');
    return (await slider.getAttribute('aria-valuetext')) !== before || before;
  });
}

/** A token's text is shown once, in the place of the form that made it. */
async function aTokenIsMade() {
  await place('Access');
  await button('New').click();
  await page.getByLabel('Whose it is').fill('backup scripts');
  await dialogButton('Make it').click();
  await page.getByRole('dialog').getByLabel('token', { exact: true }).waitFor();
  await look(page, 'token-made');
  await dialogButton('Done').click();
  await button('Show what opens it').click();
  await page.getByText('The recovery key', { exact: true }).waitFor();
  await look(page, 'vault-keys');
}

/** A webhook whose receiver is not there: its secret is shown once, and what becomes of a test is seen. */
async function somebodyIsTold() {
  await place('Webhooks');
  await button('New webhook').click();
  await page.getByLabel('Name').fill('on-call pager');
  await page.getByLabel('Address').fill('http://127.0.0.1:9/farshore');
  await look(page, 'webhook-new');
  await dialogButton('Make it').click();
  await page.getByLabel('secret', { exact: true }).waitFor();
  await look(page, 'webhook-secret');
  await dialogButton('Done').click();
  await button('Send a test').click();
  await page.locator('.state').getByText('Retrying').first().waitFor();
  await look(page, 'webhook-retrying');
  await button('Delete').click();
  await dialogButton('Delete').click();
  await page.getByText('Nobody is told').waitFor();
}

async function thePolicyChanges() {
  await place('Machines');
  await page.getByRole('link', { name: machine }).click();
  await button('Edit').click();
  await page.getByLabel('Time between recovery points under load').fill('2000');
  await page.getByLabel('Retention, as how often').fill('all:2h,1h:1d,1d:52w');
  await button('Show what would go').click();
  await page.getByText('points would stay').waitFor();
  await look(page, 'machine-edit');
  await dialogButton('Save').click();
  await page.getByText('every 2.0').waitFor();
  await page.getByText('all:2h,1h:1d,1d:364d').first().waitFor();
}

async function aPointIsHeld() {
  await button('Hold').click();
  await page.getByLabel('Why').fill('before the upgrade');
  await look(page, 'hold');
  await dialogButton('Hold').click();
  await button('Show the plan').click();
  await page.getByText('before the upgrade').waitFor();
  await look(page, 'retention');
  await button('Release').click();
  await page.getByText('The hold has ended').waitFor();
}

async function itsLogIsReadAgain() {
  await button('Read all of it now').click();
  await page.getByText('All of it is read again').waitFor();
  await button('Show what was read').click();
  await page.getByText('All that was read is sound').waitFor();
  await look(page, 'scrub');
  await button('Resync').click();
  await look(page, 'resync');
  await dialogButton('Read them').click();
  await page.getByText('Its disks are read again').waitFor();
}

async function rpo() {
  const text = await page.locator('.strip-tile').filter({ has: page.getByRole('heading', { name: 'RPO' }) }).locator('.figure').textContent();
  const [, minutes, seconds] = /^(?:(\d+):)?([\d.]+)/.exec(text) ?? [];
  return seconds === undefined ? text : Number(minutes ?? 0) * 60 + Number(seconds);
}

async function rpoRisesAndFalls() {
  await place('Machines');
  await page.getByRole('link', { name: machine }).click();
  await eventually('a first RPO', async () => typeof (await rpo()) === 'number' || (await rpo()));
  await need('agent stops');
  await eventually('the RPO to rise', async () => (await rpo()) >= RISEN || (await rpo()));
  await look(page, 'machine-behind');
  await need('agent goes on');
  await eventually('the RPO to fall', async () => (await rpo()) <= FALLEN || (await rpo()));
}

/** Live figures change in place: nothing that stands around them moves. */
async function nothingMoves() {
  await place('Overview');
  await page.locator('.verdict').waitFor();
  const moved = await page.evaluate(
    () =>
      new Promise((resolve) => {
        let [sum, changes] = [0, 0];
        new PerformanceObserver((list) => list.getEntries().forEach((entry) => { sum += entry.hadRecentInput ? 0 : entry.value; })).observe({ type: 'layout-shift' });
        const figures = document.querySelector('.tiles');
        new MutationObserver(() => { changes += 1; if (changes >= 8) resolve(sum); }).observe(figures, { subtree: true, characterData: true, childList: true });
      }),
  );
  console.log(`layout shift over live changes: ${moved}`);
  check(moved <= 0.01, `live changes move nothing: ${moved}`);
}

async function testFailover() {
  await place('Machines');
  await page.getByRole('link', { name: machine }).click();
  await button('Test failover').click();
  await page.getByRole('dialog').waitFor();
  await look(page, 'test-failover-dialog');
  await dialogButton('Start test failover').click();
  const card = page.locator('.served');
  await card.getByText('Serving').waitFor();
  await look(page, 'test-failover');
  const exports = await card.locator('.served-disk').evaluateAll((disks) =>
    disks.map((disk) => ({ name: disk.querySelector('b').textContent, uri: disk.querySelector('code').textContent })),
  );
  await need('read', { exports });
  await card.getByRole('button', { name: 'Clean up' }).click();
  await page.getByRole('dialog').getByRole('textbox').fill('the orders of this morning are there');
  await dialogButton('Clean up').click();
  await card.waitFor({ state: 'detached' });
  await page.getByText('the orders of this morning are there').waitFor();
  await need('cleaned up');
}

async function takeAPoint() {
  await button('Take a point').click();
  await page.getByLabel('Name').fill('before the upgrade');
  await dialogButton('Take it').click();
  const slider = page.getByRole('slider', { name: 'Recovery points' });
  await slider.focus();
  await eventually('the named point on the line of time', async () => {
    // It is among the newest: from the end of the line a few steps back.
    await page.keyboard.press('End');
    let said;
    for (let back = 0; back < 20; back += 1) {
      said = await slider.getAttribute('aria-valuetext');
      if (said.includes('before the upgrade')) return true;
      await page.keyboard.press('ArrowLeft');
    }
    return said;
  });
  await look(page, 'machine-point');
}

async function restoreToImages() {
  await button('Restore to images').click();
  await page.getByLabel('Format').selectOption('qcow2');
  await look(page, 'restore');
  await dialogButton('Restore').click();
  await page.getByText('The restore has begun').waitFor();
  const job = page.locator('.item').filter({ hasText: 'Restore to images' }).filter({ hasText: 'Done' });
  await job.waitFor();
  await need('images', { images: await job.locator('.item-text').textContent() });
}

/** What is paused says so, and goes on when it is told to. */
async function pauseAndResume() {
  await button('Pause').click();
  await dialogButton('Pause').click();
  const state = page.locator('.view-sub .state');
  await state.getByText('Paused').waitFor();
  await look(page, 'machine-paused');
  await button('Resume').click();
  await state.getByText('Protected').waitFor();
}

async function theServerIsNotHeard() {
  serverIsAway(true);
  await need('server stops');
  const banner = page.getByRole('alert').filter({ hasText: 'Disconnected' });
  await banner.waitFor();
  await look(page, 'disconnected');
  await need('server goes on');
  await banner.waitFor({ state: 'detached' });
  // It is heard again before its process server, which was not there either, is: until then it says so to who asks.
  await eventually('the process server to answer too', () =>
    page.evaluate(async (name) => {
      const answer = await fetch(`/api/v1/machines/${encodeURIComponent(name)}/points?limit=1`);
      return answer.ok || answer.status;
    }, machine),
  );
  serverIsAway(false);
}
