/** Which points of a machine stay: its ladder, what it would let go of, and what is held. */
import { useEffect, useState } from 'preact/hooks';
import { get, post, remove } from '../api/client';
import type { Machine, Point, Retention } from '../api/types';
import { bytes, count, full, moment, plural, words } from '../format';
import { mayOperate, now } from '../live/store';
import { Button, Card, Fact } from '../ui/bits';
import { DialogForm, showDialog } from '../ui/dialog';
import { tell, tellTrouble } from '../ui/toast';

const plan = (machine: Machine, ladder = ''): Promise<Retention> =>
  get<Retention>(`machines/${machine.id}/retention${ladder === '' ? '' : `?ladder=${encodeURIComponent(ladder)}`}`);

/** What a plan says, in a sentence. */
export function outcome(found: Retention): string {
  const stay = found.kept.reduce((sum, one) => sum + one.points, 0);
  return `${plural(stay, 'point')} would stay, ${count(found.dropped)} would go.`;
}

/** A ladder to type, with what it would do before it does. */
export function LadderField({ machine, value, set }: { machine: Machine; value: string; set: (text: string) => void }) {
  const [said, setSaid] = useState('');
  const look = () => {
    setSaid('Looking…');
    plan(machine, value.trim()).then((found) => setSaid(outcome(found))).catch((cause: unknown) => {
      setSaid('');
      tellTrouble(cause);
    });
  };
  return (
    <>
      <label class="labelled">
        Retention, as how often and how long
        <input class="field" maxLength={400} placeholder={machine.policy.retention} value={value} onInput={(event) => set(event.currentTarget.value)} />
      </label>
      <p class="quiet" role="status">
        <button type="button" class="link" onClick={look}>
          Show what would go
        </button>{' '}
        {said}
      </p>
    </>
  );
}

function HoldDialog({ machine, point }: { machine: Machine; point: Point }) {
  const [reason, setReason] = useState('');
  const [until, setUntil] = useState('');
  const act = async () => {
    await post(`machines/${machine.id}/holds`, { point: point.id, reason, expires_at: until === '' ? null : new Date(until).toISOString() });
    tell('The point is held', 'It stays, whatever retention says.');
  };
  return (
    <DialogForm title="Hold this point?" submit="Hold" act={act} disabled={reason.trim() === ''}>
      <p>{moment(point.captured_at, now.value)}: it stays until the hold ends, whatever retention says.</p>
      <label class="labelled">
        Why
        <input class="field" required maxLength={100} value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
      </label>
      <label class="labelled">
        Until (empty: until it is released)
        <input class="field" type="datetime-local" value={until} onInput={(event) => setUntil(event.currentTarget.value)} />
      </label>
    </DialogForm>
  );
}

export function hold(machine: Machine, point: Point): void {
  showDialog(<HoldDialog machine={machine} point={point} />);
}

export function RetentionCard({ machine }: { machine: Machine }) {
  const [found, setFound] = useState<Retention | null>(null);
  const look = () => void plan(machine).then(setFound).catch(tellTrouble);
  useEffect(() => setFound(null), [machine.id, machine.policy.retention]);
  const release = (id: string) => {
    remove(`machines/${machine.id}/holds/${id}`).then(() => {
      tell('The hold has ended', 'Its point goes when retention no longer wants it.');
      look();
    }, tellTrouble);
  };
  return (
    <Card title="Retention" aside={<Button onClick={look}>{found === null ? 'Show the plan' : 'Look again'}</Button>}>
      <dl class="facts">
        <Fact label="Points stay"><span class="num">{machine.policy.retention}</span></Fact>
        {found !== null && (
          <>
            <Fact label="Now">{outcome(found)}</Fact>
            <Fact label="Merged">{plural(found.runs, 'run')}, {bytes(found.run_bytes)}</Fact>
            <Fact label="Not merged yet">{plural(found.live_segments, 'segment')}, {bytes(found.live_bytes)}</Fact>
          </>
        )}
      </dl>
      {found?.holds.map((held) => (
        <div class="point" key={held.id}>
          <div class="item-main">
            <p class="item-title">{held.kind === 'hold' ? held.reason : words(held.kind)}</p>
            <p class="item-text num">
              {held.point == null ? `LSN ${count(held.lsn)}` : full(held.point.captured_at)}
              {held.expires_at == null ? '' : ` · until ${full(held.expires_at)}`}
            </p>
          </div>
          {held.allowed_operations.includes('release') && mayOperate.value && <Button onClick={() => release(held.id)}>Release</Button>}
        </div>
      ))}
    </Card>
  );
}
