/** A chart over time. uPlot draws it; its size never depends on what it shows, so nothing around it moves. */
import { useEffect, useMemo, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import 'uplot/dist/uPlot.min.css';
import { clock } from '../format';
import { shade } from '../theme';

export interface Line {
  label: string;
  /** Name of the colour's CSS variable. */
  colour: string;
  fill?: boolean;
}

interface ChartProps {
  /** What it is, for those who do not see it. */
  label: string;
  lines: Line[];
  times: number[];
  columns: (number | null)[][];
  /** Seconds shown, up to the newest. */
  window: number;
  height: number;
  format: (value: number) => string;
  /** Upper end of the scale is at least this. */
  least?: number;
  /** Values are bytes: the scale goes in powers of two. */
  binary?: boolean;
  /** Values with a line of their own across the chart. */
  limits?: { value: number; colour: string }[];
}

function css(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Data, cut to the window; uPlot wants plain arrays. */
function cut(times: number[], columns: (number | null)[][], window: number): uPlot.AlignedData {
  const newest = times.at(-1) ?? 0;
  const from = times.findIndex((time) => time >= newest - window);
  const start = from < 0 ? 0 : from;
  return [times.slice(start), ...columns.map((column) => column.slice(start))];
}

/** Shows the values under the pointer in a box beside it. */
function readout(props: ChartProps): uPlot.Plugin {
  const box = document.createElement('div');
  box.className = 'chart-readout';
  const row = (label: string, text: string, colour: string | null) => {
    const line = document.createElement('div');
    const key = document.createElement('span');
    if (colour !== null) {
      const swatch = document.createElement('i');
      swatch.style.background = `var(${colour})`;
      key.append(swatch);
    }
    key.append(label);
    const value = document.createElement('b');
    value.textContent = text;
    line.append(key, value);
    return line;
  };
  return {
    hooks: {
      init: (plot) => void plot.over.append(box),
      setCursor: (plot) => {
        const at = plot.cursor.idx;
        const left = plot.cursor.left ?? -1;
        const time = at == null ? undefined : plot.data[0]?.[at];
        if (at == null || time === undefined || left < 0) {
          box.style.display = 'none';
          return;
        }
        const rows = props.lines.map((line, index) => {
          const value = plot.data[index + 1]?.[at];
          return row(line.label, value == null ? '–' : props.format(value), line.colour);
        });
        box.replaceChildren(row(clock(time * 1000), '', null), ...rows);
        box.style.display = 'block';
        const room = plot.over.clientWidth;
        const width = box.offsetWidth;
        const x = left + 14 + width > room ? left - width - 14 : left + 14;
        box.style.transform = `translate(${Math.max(0, x)}px, 6px)`;
      },
    },
  };
}

function limitLines(limits: NonNullable<ChartProps['limits']>): uPlot.Plugin {
  return {
    hooks: {
      drawAxes: (plot) => {
        const { ctx } = plot;
        for (const limit of limits) {
          const y = plot.valToPos(limit.value, 'y', true);
          if (!Number.isFinite(y) || y < plot.bbox.top || y > plot.bbox.top + plot.bbox.height) continue;
          ctx.save();
          ctx.strokeStyle = css(limit.colour);
          ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
          ctx.lineWidth = devicePixelRatio;
          ctx.beginPath();
          ctx.moveTo(plot.bbox.left, y);
          ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
          ctx.stroke();
          ctx.restore();
        }
      },
    },
  };
}

/** 1, 2, 5, 10, 20, 50 ... of each power of 1024. */
const BINARY_STEPS = Array.from({ length: 5 }, (_, power) => [1, 2, 5, 10, 20, 50, 100, 200, 500].map((step) => step * 1024 ** power)).flat();

function options(props: ChartProps, width: number): uPlot.Options {
  const [ink, line] = [css('--ink-3'), css('--line')];
  const font = '11.5px "Inter Variable", system-ui, sans-serif';
  const axis = { stroke: ink, font, ticks: { show: false }, grid: { stroke: line, width: 1 } };
  return {
    width,
    height: props.height,
    legend: { show: false },
    padding: [8, 16, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
    scales: {
      x: { time: true, range: (_, __, max) => [max - props.window, max] },
      y: { range: (_, __, max) => [0, Math.max(props.least ?? 1, (max ?? 0) * 1.15)] },
    },
    axes: [
      { ...axis, grid: { show: false }, space: 90, size: 24, values: (_, times) => times.map((time) => clock(time * 1000).slice(0, 5)) },
      { ...axis, size: 64, gap: 8, space: 34, ...(props.binary === true ? { incrs: BINARY_STEPS } : {}), values: (_, values) => values.map((value) => props.format(value)) },
    ],
    series: [
      {},
      ...props.lines.map((entry) => {
        const stroke = css(entry.colour);
        const fill = entry.fill === true ? `${stroke}1f` : undefined;
        return { label: entry.label, stroke, width: 1.75, points: { show: false }, ...(fill === undefined ? {} : { fill }) };
      }),
    ],
    plugins: [readout(props), ...(props.limits === undefined ? [] : [limitLines(props.limits)])],
  };
}

export function Chart(props: ChartProps) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const data = useMemo(() => cut(props.times, props.columns, props.window), [props.times, props.window]);
  const look = shade.value;
  const shape = `${look} ${props.limits?.map((limit) => limit.value).join()} ${props.window} ${props.height} ${props.lines.map((line) => line.label).join()}`;

  useEffect(() => {
    const element = host.current;
    if (element === null) return;
    const made = new uPlot(options(props, element.clientWidth), data, element);
    plot.current = made;
    const resized = new ResizeObserver(() => {
      if (element.clientWidth > 0) made.setSize({ width: element.clientWidth, height: props.height });
    });
    resized.observe(element);
    return () => {
      resized.disconnect();
      made.destroy();
      plot.current = null;
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(data);
  }, [data]);

  const newest = props.lines.map((line, at) => {
    const value = props.columns[at]?.at(-1);
    return `${line.label}: ${value == null ? 'unknown' : props.format(value)}`;
  });
  return (
    <div class="chart" role="img" aria-label={`${props.label}. Now ${newest.join(', ')}`} style={{ height: `${props.height}px` }}>
      <div ref={host} />
      {props.times.length < 2 && <p class="chart-none">Collecting figures…</p>}
    </div>
  );
}

/** Which line is which. */
export function Legend({ lines }: { lines: Line[] }) {
  return (
    <ul class="legend" aria-hidden="true">
      {lines.map((line) => (
        <li key={line.label}>
          <i style={{ background: `var(${line.colour})` }} />
          {line.label}
        </li>
      ))}
    </ul>
  );
}

/** A line without axes, for the foot of a figure. */
export function Spark({ values, colour = '--accent' }: { values: (number | null)[]; colour?: string }) {
  const [width, height, shown] = [240, 36, 120];
  const part = values.slice(-shown);
  const top = Math.max(1e-9, ...part.map((value) => value ?? 0)) * 1.1;
  const at = (index: number) => (part.length < 2 ? 0 : (index / (part.length - 1)) * width);
  let path = '';
  let drawing = false;
  part.forEach((value, index) => {
    if (value == null) {
      drawing = false;
      return;
    }
    path += `${drawing ? 'L' : 'M'}${at(index).toFixed(1)} ${(height - 2 - (value / top) * (height - 4)).toFixed(1)}`;
    drawing = true;
  });
  return (
    <svg class="spark" viewBox={`0 0 ${width} ${height}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
      <path d={path} style={{ stroke: `var(${colour})` }} />
    </svg>
  );
}
