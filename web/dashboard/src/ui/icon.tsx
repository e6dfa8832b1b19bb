/** Icons of 20 by 20, drawn with one stroke. They say nothing that the text beside them does not. */

const PATHS = {
  overview: 'M3 11.5 10 4l7 7.5M5 9.8V16h10V9.8',
  machines: 'M3.5 4.5h13v4.6h-13zM3.5 11h13v4.6h-13zM6.3 6.8h.01M6.3 13.3h.01',
  servers: 'M10 3 3.5 6.2v7.6L10 17l6.5-3.2V6.2zM3.7 6.4 10 9.5l6.3-3.1M10 9.5V17',
  jobs: 'M4 5.5h8M4 10h12M4 14.5h6',
  events: 'M10 4.2a4.2 4.2 0 0 1 4.2 4.2c0 3.6 1.5 4.7 1.5 4.7H4.3s1.5-1.1 1.5-4.7A4.2 4.2 0 0 1 10 4.2zM8.6 15.6a1.6 1.6 0 0 0 2.8 0',
  access: 'M12.7 3.5a3.8 3.8 0 1 0-3.5 5.4L4 14v2.5h2.6l.7-1.7 1.7-.4.4-1.8 1.4-1.3A3.8 3.8 0 0 0 12.7 3.5zM13.2 6.3h.01',
  audit: 'M5.5 4.5h9V17h-9zM8 3h4v3H8M8 9.6h4M8 12.8h4',
  webhook: 'm3.5 9.7 13-6.2-4.6 13-2.6-5.4zM9.3 11.1l7.2-7.6',
  check: 'm4.5 10.5 3.6 3.6 7.4-8',
  warning: 'M10 3.6 2.9 16h14.2zM10 8.3v3.6M10 13.9h.01',
  critical: 'M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 6.4v4.4M10 13.4h.01',
  info: 'M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14zM10 9.4v4.2M10 6.6h.01',
  copy: 'M7.5 7.5V4h8.5v8.5h-3.5M4 7.5h8.5V16H4z',
  plus: 'M10 4.5v11M4.5 10h11',
  close: 'm5 5 10 10M15 5 5 15',
  chevron: 'm8 5 5 5-5 5',
  up: 'm5.5 12 4.5-4.5 4.5 4.5',
  down: 'm5.5 8 4.5 4.5L14.5 8',
  search: 'M8.8 3.8a5 5 0 1 0 0 10 5 5 0 0 0 0-10zM12.4 12.4l3.8 3.8',
  play: 'M6 4.2v11.6l9.4-5.8z',
  flag: 'M5 17V3.8M5 4.3h9.5l-2 3.2 2 3.2H5',
  move: 'M3.5 7h11.2M12 4l3 3-3 3M16.5 13H5.3M8 10l-3 3 3 3',
  pause: 'M7 4.5v11M13 4.5v11',
  trash: 'M4 5.8h12M8 5.8V4h4v1.8M5.5 5.8l.7 10.2h7.6l.7-10.2M8.4 8.8v4.4M11.6 8.8v4.4',
  edit: 'M12.8 4.4 15.6 7.2 7.2 15.6H4.4v-2.8z',
  sun: 'M10 6.7a3.3 3.3 0 1 0 0 6.6 3.3 3.3 0 0 0 0-6.6zM10 2.5v1.4M10 16.1v1.4M2.5 10h1.4M16.1 10h1.4M4.7 4.7l1 1M14.3 14.3l1 1M15.3 4.7l-1 1M5.7 14.3l-1 1',
  moon: 'M16 11.8A6.6 6.6 0 0 1 8.2 4a6.6 6.6 0 1 0 7.8 7.8z',
  system: 'M3 4.5h14v8.7H3zM7.5 16h5M10 13.2V16',
  out: 'M8 4H4.5v12H8M12.5 6.5 16 10l-3.5 3.5M16 10H8',
  disk: 'M4 10.8 5.8 4.5h8.4l1.8 6.3M4 10.8v4.7h12v-4.7zM13 13.2h.01',
  lab: 'M8 3.5h4M8.6 3.5v4.2L4.4 15a1.1 1.1 0 0 0 1 1.5h9.2a1.1 1.1 0 0 0 1-1.5l-4.2-7.3V3.5M6.5 12.2h7',
  back: 'm12 5-5 5 5 5',
} as const;

export type IconName = keyof typeof PATHS;

export function Icon({ name, size = 18 }: { name: IconName; size?: number }) {
  return (
    <svg class="icon" width={size} height={size} viewBox="0 0 20 20" aria-hidden="true" focusable="false">
      <path d={PATHS[name]} />
    </svg>
  );
}

/** The house's sign. */
export function Logo({ size = 26 }: { size?: number }) {
  return (
    <svg class="logo" width={size} height={size} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <rect width="32" height="32" rx="8" />
      <path d="M6.5 12.5c2.4-2.6 4.8-2.6 7.1 0s4.8 2.6 7.1 0 3.6-2.1 4.8-1.2" />
      <path d="M6.5 18.5c2.4-2.6 4.8-2.6 7.1 0s4.8 2.6 7.1 0 3.6-2.1 4.8-1.2" opacity="0.7" />
      <path d="M10.5 24h11" opacity="0.45" />
    </svg>
  );
}
