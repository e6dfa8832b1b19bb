/** What the browser scripts share: Chromium, a page that is watched for what must not happen, and looks at it. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium } from 'playwright-core';

export const settings = JSON.parse(process.env.SETTINGS);
const artefacts = process.env.ARTEFACTS;
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
/** Longest wait for anything that the page should show. */
export const PATIENCE = 60_000;

const CHROMIUMS = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Asks the test for something outside of the browser, and waits until it is done. */
export async function need(what, more = {}) {
  console.log(JSON.stringify({ need: what, ...more }));
  if ((await lines.next()).done) throw new Error('the test has ended');
}

export function check(holds, text) {
  if (!holds) throw new Error(`does not hold: ${text}`);
}

/** Waits until `probe` says true; fails with what it said last. */
export async function eventually(what, probe, within = PATIENCE) {
  const until = Date.now() + within;
  let last;
  do {
    last = await probe();
    if (last === true) return;
    await new Promise((resume) => setTimeout(resume, 100));
  } while (Date.now() < until);
  throw new Error(`waited ${within} ms for ${what}; last: ${last}`);
}

/** Whether the server is away: what was under way meanwhile may fail, also when it is back before the failure is seen. */
let away = false;
const underWay = new Set();
const excused = new WeakSet();
export function serverIsAway(is) {
  away = is;
  underWay.forEach((request) => excused.add(request));
}

export async function open(options = {}) {
  const executablePath = CHROMIUMS.find(existsSync);
  check(executablePath !== undefined, 'Chromium is installed (scripts/setup.sh)');
  // As root there is no sandbox; the only pages it sees are ours.
  const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
  const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light', ...options });
  const page = await context.newPage();
  const errors = [];
  page.on('pageerror', (error) => errors.push(error.message));
  page.on('console', (message) => {
    // A browser also notes each request that fails: those are judged below, where it is known when they were made.
    if (message.type() === 'error' && !/^Failed to load resource/.test(message.text())) errors.push(message.text());
  });
  page.on('request', (request) => {
    underWay.add(request);
    if (away) excused.add(request);
  });
  const failed = (request, how) => {
    if (!away && !excused.has(request)) errors.push(`${request.method()} ${request.url()}: ${how}`);
  };
  page.on('requestfinished', (request) => underWay.delete(request));
  page.on('requestfailed', (request) => {
    underWay.delete(request);
    // A view that is left gives up what it has asked for.
    if (request.failure().errorText !== 'net::ERR_ABORTED') failed(request, request.failure().errorText);
  });
  // Who is not signed in yet is told so.
  page.on('response', (response) => response.ok() || [304, 401].includes(response.status()) || failed(response.request(), response.status()));
  const end = async () => {
    await browser.close();
    check(errors.length === 0, `the page had no error: ${errors.join('; ')}`);
    process.exit(0);
  };
  return { page, end };
}

const WIDTHS = [1440, 800];
const SCHEMES = ['light', 'dark'];

/** Looks at what is shown, in light and dark, at both widths: nothing sticks out, everything can be read. */
export async function look(page, name) {
  for (const scheme of SCHEMES) {
    await page.emulateMedia({ colorScheme: scheme, reducedMotion: 'reduce' });
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      const out = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      check(out <= 0, `${name} at ${width} is as wide as the window, not ${out} px wider`);
      await fullHeight(page, width);
      await page.screenshot({ path: join(artefacts, `${name}-${width}-${scheme}.png`) });
      await page.setViewportSize({ width, height: 900 });
    }
    await accessible(page, `${name}, ${scheme}`);
  }
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' });
  await page.setViewportSize({ width: 1440, height: 900 });
}

/** A picture of everything, not of the first screen only. */
async function fullHeight(page, width) {
  const height = await page.evaluate(() => document.querySelector('.main')?.scrollHeight ?? 0);
  if (height > 900) await page.setViewportSize({ width, height: Math.min(height, 3000) });
  // Two frames: charts fit themselves to the new size in the first.
  await page.evaluate(() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn))));
}

async function accessible(page, name) {
  // The page's policy lets no foreign script in; the driver evaluates beside it.
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  const said = violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((node) => node.target.join(' ')).join(', ')}`);
  check(said.length === 0, `${name} is accessible: ${said.join('; ')}`);
}
