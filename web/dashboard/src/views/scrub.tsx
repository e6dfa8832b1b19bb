/** Reading a machine's log in the vault again: how it fares, what is damaged, and on demand. */
import { useEffect, useState } from 'preact/hooks';
import { command, get } from '../api/client';
import type { Machine, Scrub } from '../api/types';
import { bytes, count, full, plural } from '../format';
import { mayOperate } from '../live/store';
import { Button, Card, Fact } from '../ui/bits';
import { DialogForm, showDialog } from '../ui/dialog';
import { tell, tellTrouble } from '../ui/toast';

function resync(machine: Machine): void {
  const act = async () => {
    await command(`machines/${machine.id}/resync`, {});
    tell('Its disks are read again', 'Points show them when that is over.');
  };
  showDialog(
    <DialogForm title={`Read the disks of ${machine.name} again?`} submit="Read them" act={act}>
      <p>What its log in the vault does not have, or cannot be read there, is sent again. Until that is over no new point shows these disks. Points of before stay as they are.</p>
    </DialogForm>,
  );
}

/** How often it is asked after while it runs, in milliseconds. */
const AGAIN_MS = 2000;

export function ScrubCard({ machine }: { machine: Machine }) {
  const [found, setFound] = useState<Scrub | null>(null);
  const path = `machines/${machine.id}/scrub`;
  const look = () => void get<Scrub>(path).then(setFound).catch(tellTrouble);
  useEffect(() => setFound(null), [machine.id]);
  useEffect(() => {
    if (found?.running !== true) return undefined;
    const timer = setTimeout(look, AGAIN_MS);
    return () => clearTimeout(timer);
  }, [found]);
  const begin = () => {
    command(path).then(() => {
      tell('All of it is read again', 'Damaged objects are put back where the cache still has them.');
      setTimeout(look, AGAIN_MS);
    }, tellTrouble);
  };
  return (
    <Card
      title="Scrub"
      aside={
        <>
          <Button onClick={look}>{found === null ? 'Show what was read' : 'Ask again'}</Button>
          {mayOperate.value && <Button onClick={begin}>Read all of it now</Button>}
          {mayOperate.value && <Button onClick={() => resync(machine)}>Resync</Button>}
        </>
      }
    >
      {found === null ? (
        <p class="quiet">Its log in the vault is read again slice by slice, so that damage is found while it can be mended.</p>
      ) : (
        <dl class="facts">
          <Fact label="Now">{found.running ? 'Reading' : found.damaged_objects === 0 ? 'All that was read is sound' : `${plural(found.damaged_objects, 'object')} damaged`}</Fact>
          <Fact label="Read last">{found.ended_at == null ? 'Not yet' : full(found.ended_at)}</Fact>
          <Fact label="Read">{plural(found.objects, 'object')}, {bytes(found.bytes)}, slice {count(found.slices)} of {count(found.slices_per_cycle)}</Fact>
          <Fact label="Put back">{plural(found.repaired, 'object')}</Fact>
        </dl>
      )}
      {found?.damaged.map((one) => (
        <div class="point" key={one.object}>
          <div class="item-main">
            <p class="item-title">{one.problem}</p>
            <p class="item-text">
              {one.object}: touches {plural(one.touched_points, 'point')}; {one.stays}
            </p>
          </div>
        </div>
      ))}
    </Card>
  );
}
