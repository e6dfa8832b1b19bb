/** Numbers and times as people read them. Every unit is separated, every number keeps its width. */

const DASH = '–';

export function count(value: number): string {
  return value.toLocaleString('en-US');
}

/** A number and its unit, for figures that are set in two sizes. */
export interface Figure {
  value: string;
  unit: string;
}

const BYTE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

export function bytesFigure(value: number | null | undefined): Figure {
  if (value == null) return { value: DASH, unit: '' };
  let [scaled, unit] = [value, 0];
  while (scaled >= 1000 && unit < BYTE_UNITS.length - 1) {
    scaled /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || scaled >= 100 ? 0 : 1;
  return { value: scaled.toFixed(digits), unit: BYTE_UNITS[unit] ?? '' };
}

const joined = ({ value, unit }: Figure): string => (unit === '' ? value : `${value}\u202f${unit}`);

export function bytes(value: number | null | undefined): string {
  return joined(bytesFigure(value));
}

/** A span, to a precision that fits its size: 0.8 s, 42 s, 3 min 20 s, 2 h 05 min, 3 d 4 h. */
export function spanFigure(seconds: number | null | undefined): Figure {
  if (seconds == null || !Number.isFinite(seconds)) return { value: DASH, unit: '' };
  const whole = Math.max(0, Math.round(seconds));
  if (seconds < 9.95) return { value: Math.max(0, seconds).toFixed(1), unit: 's' };
  if (whole < 120) return { value: String(whole), unit: 's' };
  const two = (part: number) => String(part).padStart(2, '0');
  if (whole < 7200) return { value: `${Math.floor(whole / 60)}:${two(whole % 60)}`, unit: 'min' };
  if (whole < 172_800) return { value: `${Math.floor(whole / 3600)}:${two(Math.floor((whole % 3600) / 60))}`, unit: 'h' };
  return { value: String(Math.floor(whole / 86_400)), unit: 'd' };
}

export function span(seconds: number | null | undefined): string {
  return joined(spanFigure(seconds));
}

/** A rate of small things. */
export function rateFigure(perSecond: number | null | undefined): Figure {
  if (perSecond == null) return { value: DASH, unit: '' };
  if (perSecond >= 10_000) return { value: `${(perSecond / 1000).toFixed(1)}k`, unit: '/s' };
  return { value: perSecond >= 100 || perSecond === 0 ? count(Math.round(perSecond)) : perSecond.toFixed(1), unit: '/s' };
}

export function byteRateFigure(perSecond: number | null | undefined): Figure {
  const figure = bytesFigure(perSecond);
  return perSecond == null ? figure : { value: figure.value, unit: `${figure.unit}/s` };
}

export function byteRate(perSecond: number | null | undefined): string {
  return joined(byteRateFigure(perSecond));
}

export function percent(part: number | null | undefined): string {
  return part == null ? DASH : `${Math.round(part * 100)}\u202f%`;
}

/** How long ago, in words. */
export function ago(at: string | null | undefined, now: number): string {
  if (at == null) return 'never';
  const seconds = Math.round((now - Date.parse(at)) / 1000);
  if (seconds < 2) return 'just now';
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} d ago`;
}

const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });
const DAY = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const FULL = new Intl.DateTimeFormat('en-GB', { dateStyle: 'medium', timeStyle: 'medium' });

export function clock(at: string | number): string {
  return CLOCK.format(typeof at === 'number' ? at : Date.parse(at));
}

/** The time; with the day where it was not today. */
export function moment(at: string, now: number): string {
  const time = Date.parse(at);
  const today = new Date(time).toDateString() === new Date(now).toDateString();
  return today ? CLOCK.format(time) : `${DAY.format(time)}, ${CLOCK.format(time)}`;
}

export function full(at: string): string {
  return FULL.format(Date.parse(at));
}

/** `initial_replication` as words. */
export function words(name: string): string {
  const text = name.replaceAll('_', ' ').replaceAll('-', ' ');
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** One thing, or several. */
export function plural(number: number, one: string, many = `${one}s`): string {
  return `${count(number)} ${number === 1 ? one : many}`;
}

/** The beginning of a long id. */
export function short(id: string): string {
  return id.length > 12 ? id.slice(0, 8) : id;
}
