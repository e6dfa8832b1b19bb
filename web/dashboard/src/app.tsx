/** The frame of the page: the way around, the state of the line, and the view that was asked for. */
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { signOut } from './live/session';
import { loadTrouble, lostSince, machines, mayAdmin, now, phase, runningJobs, session, version } from './live/store';
import { href, route } from './router';
import { nextTheme, theme } from './theme';
import { Empty } from './ui/bits';
import { DialogHost } from './ui/dialog';
import { Icon, Logo, type IconName } from './ui/icon';
import { Toasts } from './ui/toast';
import { Access } from './views/access';
import { Audit } from './views/audit';
import { Events, Jobs } from './views/journal';
import { Login } from './views/login';
import { Machine } from './views/machine';
import { Machines } from './views/machines';
import { Overview } from './views/overview';
import { Servers } from './views/servers';
import { Webhooks } from './views/webhooks';

const MACHINE_FILTERS = ['attention', 'protected'];

function View() {
  const [room, id] = route.value;
  switch (room) {
    case undefined:
      return <Overview />;
    case 'machines':
      return id === undefined || MACHINE_FILTERS.includes(id) ? <Machines /> : <Machine key={id} id={id} />;
    case 'process-servers':
      return <Servers />;
    case 'jobs':
      return <Jobs />;
    case 'events':
      return <Events />;
    case 'webhooks':
      return <Webhooks />;
    case 'access':
      return <Access />;
    case 'audit':
      return <Audit />;
    default:
      return (
        <div class="view">
          <section class="card"><Empty icon="search" title="There is nothing here"><a href={href()}>To the overview</a></Empty></section>
        </div>
      );
  }
}

interface Place {
  room: string;
  label: string;
  icon: IconName;
  badge?: number;
}

function Navigation() {
  const here = route.value[0] ?? '';
  const attention = machines.value.filter((machine) => machine.health.level !== 'normal').length;
  const places: Place[] = [
    { room: '', label: 'Overview', icon: 'overview' },
    { room: 'machines', label: 'Machines', icon: 'machines', badge: attention },
    { room: 'process-servers', label: 'Process servers', icon: 'servers' },
    { room: 'jobs', label: 'Jobs', icon: 'jobs', badge: runningJobs.value.length },
    { room: 'events', label: 'Events', icon: 'events' },
  ];
  if (mayAdmin.value) {
    places.push({ room: 'webhooks', label: 'Webhooks', icon: 'webhook' });
    places.push({ room: 'access', label: 'Access', icon: 'access' });
    places.push({ room: 'audit', label: 'Audit', icon: 'audit' });
  }
  return (
    <nav class="nav" aria-label="Main">
      {places.map(({ room, label, icon, badge = 0 }) => (
        <a key={room} href={room === '' ? href() : href(room)} aria-current={here === room ? 'page' : undefined} title={label}>
          <Icon name={icon} />
          <span class="nav-label">{label}</span>
          {badge > 0 && <span class={`badge ${room === 'machines' ? 'loud' : ''}`}>{badge}</span>}
        </a>
      ))}
    </nav>
  );
}

const THEMES = { system: ['system', 'Theme: as the system'], light: ['sun', 'Theme: light'], dark: ['moon', 'Theme: dark'] } as const;

function Sidebar() {
  const [icon, label] = THEMES[theme.value];
  const lost = lostSince.value !== null;
  return (
    <aside class="sidebar">
      <a class="brand" href={href()} aria-label="Farshore, overview">
        <Logo />
        <span>Farshore</span>
      </a>
      <Navigation />
      <div class="side-foot">
        <p class={`line ${lost ? 'lost' : ''}`} title={lost ? 'Disconnected' : 'Live'}>
          <span class="dot" aria-hidden="true" />
          <span class="nav-label">{lost ? 'Disconnected' : 'Live'}</span>
          <span class="nav-label quiet version">{version.value === null ? '' : `v${version.value.version}`}</span>
        </p>
        <button type="button" class="side-button" onClick={nextTheme} title={label}>
          <Icon name={icon} />
          <span class="nav-label">{label}</span>
        </button>
        <button type="button" class="side-button" onClick={() => void signOut()} title={`Sign out ${session.value?.name ?? ''}`}>
          <Icon name="out" />
          <span class="nav-label">Sign out</span>
        </button>
      </div>
    </aside>
  );
}

function LineBanner() {
  const since = lostSince.value;
  const said = loadTrouble.value;
  if (since === null && said === null) return null;
  const seconds = since === null ? 0 : Math.max(0, Math.round((now.value - since) / 1000));
  return (
    <div class="banner" role="alert">
      <Icon name="warning" />
      <p>
        {since === null ? (
          <>The server cannot show everything: {said}</>
        ) : (
          <>
            <b>Disconnected.</b> What you see is {seconds} s old. Replication does not depend on this page; trying again.
          </>
        )}
      </p>
    </div>
  );
}

function Loading() {
  return (
    <div class="view" aria-busy="true">
      <p class="unseen" role="status">Loading</p>
      <div class="skeleton title" />
      <div class="skeleton verdict-skeleton" />
      <div class="tiles">
        <div class="skeleton tile-skeleton" />
        <div class="skeleton tile-skeleton" />
        <div class="skeleton tile-skeleton" />
      </div>
      <div class="skeleton chart-skeleton" />
    </div>
  );
}

function Shell({ children }: { children: ComponentChildren }) {
  const main = useRef<HTMLElement>(null);
  const path = route.value.join('/');
  useEffect(() => {
    main.current?.scrollTo(0, 0);
  }, [path]);
  return (
    <div class={`shell ${lostSince.value === null ? '' : 'stale'}`}>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); main.current?.focus(); }}>To the content</a>
      <Sidebar />
      <main id="main" class="main" ref={main} tabIndex={-1}>
        <LineBanner />
        {children}
      </main>
    </div>
  );
}

export function App() {
  const frame = () => {
    switch (phase.value) {
      case 'starting':
        return <div class="login"><Logo size={44} /></div>;
      case 'signed-out':
        return <Login />;
      case 'loading':
        return <Shell><Loading /></Shell>;
      case 'ready':
        return <Shell><View /></Shell>;
    }
  };
  return (
    <>
      {frame()}
      <DialogHost />
      <Toasts />
    </>
  );
}
