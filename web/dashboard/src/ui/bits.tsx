/** The small parts that every view is made of. */
import type { ComponentChildren } from 'preact';
import type { Figure } from '../format';
import { words } from '../format';
import { Icon, type IconName } from './icon';

export type Tone = 'ok' | 'warn' | 'crit' | 'quiet' | 'busy';

/** A machine's state as a tone: what is on its way is busy, what is not protected is loud. */
const STATES: Record<string, Tone> = {
  protected: 'ok',
  connected: 'ok',
  done: 'ok',
  serving: 'ok',
  active: 'ok',
  delivered: 'ok',
  pending: 'busy',
  retrying: 'warn',
  refused: 'warn',
  initial_replication: 'busy',
  catching_up: 'busy',
  comparing: 'busy',
  preparing: 'busy',
  moving: 'busy',
  running: 'busy',
  starting: 'busy',
  stopping: 'busy',
  silent: 'warn',
  paused: 'warn',
  cancelled: 'quiet',
  agent_away: 'crit',
  interrupted: 'crit',
  unassigned: 'crit',
  failed: 'crit',
  away: 'crit',
};

export function toneOf(state: string): Tone {
  return STATES[state] ?? 'quiet';
}

export function toneOfHealth(level: string): Tone {
  return level === 'critical' ? 'crit' : level === 'warning' ? 'warn' : 'ok';
}

export function toneOfSeverity(severity: string): Tone {
  return severity === 'critical' ? 'crit' : severity === 'warning' ? 'warn' : 'quiet';
}

const TONE_ICON: Record<Tone, IconName> = {
  ok: 'check',
  warn: 'warning',
  crit: 'critical',
  quiet: 'info',
  busy: 'info',
};

export function toneIcon(tone: Tone): IconName {
  return TONE_ICON[tone];
}

/** A state, with a dot of its tone. */
export function State({ state }: { state: string }) {
  return (
    <span class={`state ${toneOf(state)}`}>
      <span class="dot" aria-hidden="true" />
      {words(state)}
    </span>
  );
}

/** Health, with a sign that is told apart without its colour. */
export function HealthMark({ level, label = true }: { level: string; label?: boolean }) {
  const tone = toneOfHealth(level);
  return (
    <span class={`health ${tone}`} title={label ? undefined : words(level)}>
      <Icon name={toneIcon(tone)} size={15} />
      {label ? words(level) : <span class="unseen">{words(level)}</span>}
    </span>
  );
}

/** A figure in two sizes. */
export function Number({ figure, size = 'm' }: { figure: Figure; size?: 's' | 'm' | 'l' }) {
  return (
    <span class={`figure ${size}`}>
      {figure.value}
      {figure.unit !== '' && <span class="unit">{figure.unit}</span>}
    </span>
  );
}

interface CardProps {
  title?: ComponentChildren;
  aside?: ComponentChildren;
  class?: string;
  flush?: boolean;
  children: ComponentChildren;
}

export function Card({ title, aside, class: more = '', flush = false, children }: CardProps) {
  return (
    <section class={`card ${flush ? 'flush' : ''} ${more}`}>
      {title !== undefined && (
        <header class="card-head">
          <h2>{title}</h2>
          {aside !== undefined && <div class="card-aside">{aside}</div>}
        </header>
      )}
      {children}
    </section>
  );
}

/** A label and what stands beside it. */
export function Fact({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="fact">
      <dt>{label}</dt>
      <dd>{children}</dd>
    </div>
  );
}

export function Empty({ icon, title, children }: { icon: IconName; title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <span class="empty-icon">
        <Icon name={icon} size={22} />
      </span>
      <p class="empty-title">{title}</p>
      {children !== undefined && <div class="empty-text">{children}</div>}
    </div>
  );
}

/** A part of a whole, with a word for those who do not see it. */
export function Meter({ part, tone = 'ok', label }: { part: number | null; tone?: Tone; label: string }) {
  const width = Math.max(0, Math.min(1, part ?? 0)) * 100;
  const now = Math.round(width);
  return (
    <div class={`meter ${tone}`} role="meter" aria-label={label} aria-valuenow={now} aria-valuemin={0} aria-valuemax={100}>
      <div class="meter-fill" style={{ width: `${width}%` }} />
    </div>
  );
}

interface ButtonProps {
  icon?: IconName;
  kind?: 'primary' | 'plain' | 'danger' | 'ghost';
  small?: boolean;
  busy?: boolean;
  disabled?: boolean;
  type?: 'button' | 'submit';
  title?: string;
  onClick?: () => void;
  children?: ComponentChildren;
}

export function Button(props: ButtonProps) {
  const { icon, kind = 'plain', small = false, busy = false, disabled = false, type = 'button', children } = props;
  return (
    <button
      type={type}
      class={`button ${kind} ${small ? 'small' : ''}`}
      disabled={disabled || busy}
      aria-busy={busy}
      title={props.title}
      aria-label={children === undefined ? props.title : undefined}
      onClick={props.onClick}
    >
      {busy ? <span class="spinner" aria-hidden="true" /> : icon !== undefined && <Icon name={icon} size={16} />}
      {children}
    </button>
  );
}

/** The head of a view. */
interface ViewHeadProps {
  title: ComponentChildren;
  sub?: ComponentChildren;
  back?: { href: string; label: string };
  children?: ComponentChildren;
}

export function ViewHead({ title, sub, back, children }: ViewHeadProps) {
  return (
    <div class="view-head">
      <div class="view-title">
        {back !== undefined && (
          <a class="back" href={back.href}>
            <Icon name="back" size={14} />
            {back.label}
          </a>
        )}
        <h1>{title}</h1>
        {sub !== undefined && <div class="view-sub">{sub}</div>}
      </div>
      {children !== undefined && <div class="view-actions">{children}</div>}
    </div>
  );
}
