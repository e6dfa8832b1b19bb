/** Recovery points on a line of time. A point is chosen with the pointer or with the arrow keys. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Point } from '../api/types';
import { clock, moment, words } from '../format';
import { shade } from '../theme';

interface TimelineProps {
  /** Newest first. */
  points: Point[];
  windowSeconds: number;
  now: number;
  chosen: Point | null;
  choose: (point: Point) => void;
}

const HEIGHT = 84;
/** Where the ticks stand. */
const TOP = 14;
const FOOT = 56;
/** Widths of the scale's parts that people can read, in seconds. */
const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400];

function draw(canvas: HTMLCanvasElement, props: TimelineProps, hover: Point | null): void {
  const ctx = canvas.getContext('2d');
  if (ctx === null) return;
  const ratio = devicePixelRatio;
  const width = canvas.clientWidth;
  canvas.width = width * ratio;
  canvas.height = HEIGHT * ratio;
  ctx.scale(ratio, ratio);
  const style = getComputedStyle(canvas);
  const colour = (name: string) => style.getPropertyValue(name).trim();
  const from = props.now - props.windowSeconds * 1000;
  const x = (time: number) => ((time - from) / (props.windowSeconds * 1000)) * (width - 2) + 1;

  ctx.fillStyle = colour('--well');
  ctx.beginPath();
  ctx.roundRect(0, TOP, width, FOOT - TOP, 6);
  ctx.fill();

  const step = STEPS.find((seconds) => (seconds / props.windowSeconds) * width >= 84) ?? 86_400;
  ctx.font = '11.5px "Inter Variable", system-ui, sans-serif';
  ctx.textAlign = 'center';
  for (let time = Math.ceil(from / (step * 1000)) * step * 1000; time < props.now; time += step * 1000) {
    ctx.fillStyle = colour('--line-strong');
    ctx.fillRect(Math.round(x(time)), FOOT, 1, 5);
    ctx.fillStyle = colour('--ink-3');
    if (x(time) > 24 && x(time) < width - 24) ctx.fillText(clock(time).slice(0, 5), x(time), HEIGHT - 8);
  }

  // Neighbours that fall on one pixel are drawn once: the picture costs its width, not the number of points.
  const [plain, special] = [colour('--accent'), colour('--ink')];
  let last = Number.NaN;
  for (const point of props.points) {
    const at = Math.round(x(Date.parse(point.captured_at)) * 2) / 2;
    if (at < 0) break;
    if (point.label !== '' || point.kind !== 'crash') {
      ctx.fillStyle = special;
      ctx.fillRect(at - 1, TOP - 4, 2, FOOT - TOP + 4);
      ctx.beginPath();
      ctx.moveTo(at, TOP - 10);
      ctx.lineTo(at + 5, TOP - 5);
      ctx.lineTo(at, TOP);
      ctx.lineTo(at - 5, TOP - 5);
      ctx.fill();
    } else if (at !== last) {
      ctx.globalAlpha = point.disks.length === 0 ? 0.25 : 0.8;
      ctx.fillStyle = plain;
      ctx.fillRect(at - 0.5, TOP + 9, 1, FOOT - TOP - 18);
      ctx.globalAlpha = 1;
    }
    last = at;
  }

  for (const [point, strong] of [[hover, false], [props.chosen, true]] as const) {
    if (point === null) continue;
    const at = x(Date.parse(point.captured_at));
    ctx.fillStyle = colour(strong ? '--accent-strong' : '--ink-3');
    ctx.fillRect(at - 1, TOP - 2, 2, FOOT - TOP + 4);
    if (!strong) continue;
    ctx.beginPath();
    ctx.arc(at, TOP - 2, 5, 0, 7);
    ctx.fill();
    ctx.fillStyle = colour('--surface');
    ctx.beginPath();
    ctx.arc(at, TOP - 2, 2, 0, 7);
    ctx.fill();
  }
}

function nearest(points: Point[], time: number): Point | null {
  let [best, distance]: [Point | null, number] = [null, Number.POSITIVE_INFINITY];
  for (const point of points) {
    const away = Math.abs(Date.parse(point.captured_at) - time);
    if (away < distance) [best, distance] = [point, away];
  }
  return best;
}

export function describe(point: Point, now: number): string {
  const name = point.label === '' ? '' : `, “${point.label}”`;
  return `${moment(point.captured_at, now)}, ${words(point.kind)}-consistent${name}`;
}

export function Timeline(props: TimelineProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const [hover, setHover] = useState<Point | null>(null);
  const [width, setWidth] = useState(0);
  const { points, windowSeconds, now, chosen, choose } = props;

  useEffect(() => {
    const element = canvas.current;
    if (element === null) return;
    const resized = new ResizeObserver(() => setWidth(element.clientWidth));
    resized.observe(element);
    return () => resized.disconnect();
  }, []);
  useEffect(() => {
    if (canvas.current !== null) draw(canvas.current, props, hover);
  }, [points, windowSeconds, now, chosen, hover, width, shade.value]);

  const pointed = (event: MouseEvent): Point | null => {
    const box = (event.currentTarget as HTMLElement).getBoundingClientRect();
    const part = (event.clientX - box.left) / box.width;
    return nearest(points, now - windowSeconds * 1000 * (1 - part));
  };
  const at = chosen === null ? -1 : points.findIndex((point) => point.id === chosen.id);
  const step = (event: KeyboardEvent) => {
    // Points are newest first: to the right is to a smaller index.
    const moves: Record<string, number> = {
      ArrowLeft: at + 1,
      ArrowRight: at - 1,
      PageUp: at + 30,
      PageDown: at - 30,
      Home: points.length - 1,
      End: 0,
    };
    const target = moves[event.key];
    if (target === undefined || points.length === 0) return;
    event.preventDefault();
    const point = points[Math.max(0, Math.min(points.length - 1, target))];
    if (point !== undefined) choose(point);
  };
  return (
    <div
      class="timeline"
      role="slider"
      tabIndex={0}
      aria-label="Recovery points"
      aria-valuemin={0}
      aria-valuemax={Math.max(0, points.length - 1)}
      aria-valuenow={at < 0 ? 0 : points.length - 1 - at}
      aria-valuetext={chosen === null ? 'No point chosen' : describe(chosen, now)}
      onKeyDown={step}
      onPointerMove={(event) => setHover(pointed(event))}
      onPointerLeave={() => setHover(null)}
      onClick={(event) => {
        const point = pointed(event);
        if (point !== null) choose(point);
      }}
    >
      <canvas ref={canvas} style={{ height: `${HEIGHT}px` }} />
      <p class="timeline-hover" aria-hidden="true">
        {hover === null ? '' : describe(hover, now)}
      </p>
    </div>
  );
}
