use super::*;
use crate::ids::{IncarnationId, MachineId};
use crate::record::Record;
use crate::vault::read::test_log::{Seeded, TestLog};
use crate::vault::segment::Control;

const DISK_BYTES: u64 = 128 << 10;

/// A fence and three segments, and a copy of all of it.
async fn log_and_copy() -> (TestLog, StoreCopies) {
    let mut log = TestLog::new(&[DISK_BYTES]).await;
    for n in 1..4 {
        log.write(0, 0, &[n; 4096]);
        log.mark();
        log.end_segment().await;
    }
    let copy = Arc::new(MemoryStore::new());
    for slot in 0..4 {
        let name = log.name(Slot(slot));
        copy.damage(&name, Some(log.object(&name).await));
    }
    let source = LogSource::new(copy, log.machine, log.key.clone());
    (log, StoreCopies { source })
}

fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 0x10;
    bytes.into()
}

async fn mended(log: &TestLog, slot: u64, copies: &dyn Copies, proof: Proof) -> Result<(), RepairError> {
    let place = ObjectPlace::Slot(Slot(slot));
    repair(&log.source(), log.timeline, place, copies, proof).await.expect("the store answers")
}

// I3: what is put back is what was written, or nothing is.
#[tokio::test]
async fn what_is_damaged_anywhere_in_a_log_is_put_back_byte_for_byte() {
    let (log, copies) = log_and_copy().await;
    for slot in 0..4 {
        let name = log.name(Slot(slot));
        let sound = log.object(&name).await;
        let third = flipped(&sound, sound.len() / 3);
        let cut = sound.slice(..sound.len() - 1);
        let zeroed = Bytes::from(vec![0; sound.len()]);
        let damages = [Some(third), Some(flipped(&sound, sound.len() - 40)), None, Some(cut), Some(zeroed)];
        for (kind, damage) in damages.into_iter().enumerate() {
            log.store.damage(&name, damage);
            let done = mended(&log, slot, &copies, Proof::Required).await;
            if slot == 3 && kind >= 2 {
                assert_eq!(done, Err(RepairError::Unproven), "nothing follows the last object");
                assert_eq!(mended(&log, slot, &copies, Proof::SoundCopyIsEnough).await, Ok(()));
            } else {
                assert_eq!(done, Ok(()), "slot {slot}, damage {kind}");
            }
            assert_eq!(log.object(&name).await, sound);
        }
    }
}

// I2
#[tokio::test]
async fn at_a_logs_end_only_the_object_whose_footer_is_still_there_in_most_of_its_bytes_is_put_back() {
    let (log, copies) = log_and_copy().await;
    // Another segment lost the race for the slot; it is sound, and follows the same object.
    let mut rival = TestLog::new(&[DISK_BYTES]).await;
    for n in 1..4 {
        if n == 3 {
            rival.chance = Seeded::new(9);
        }
        rival.write(0, 0, &[n; 4096]);
        rival.mark();
        rival.end_segment().await;
    }
    assert_eq!(rival.object(&log.name(Slot(2))).await, log.object(&log.name(Slot(2))).await);
    let elsewhere = StoreCopies { source: rival.source() };
    let name = log.name(Slot(3));
    let sound = log.object(&name).await;
    log.store.damage(&name, Some(flipped(&sound, sound.len() - 40)));
    assert_eq!(mended(&log, 3, &elsewhere, Proof::Required).await, Err(RepairError::Unproven));
    assert_eq!(mended(&log, 3, &copies, Proof::Required).await, Ok(()));
    assert_eq!(log.object(&name).await, sound);
}

#[tokio::test]
async fn no_copy_a_damaged_one_and_one_of_another_history_change_nothing() {
    let (log, copies) = log_and_copy().await;
    let name = log.name(Slot(2));
    let sound = log.object(&name).await;
    let damaged = flipped(&sound, sound.len() - 40);
    log.store.damage(&name, Some(damaged.clone()));
    assert_eq!(mended(&log, 2, &NoCopies, Proof::SoundCopyIsEnough).await, Err(RepairError::NoCopy));

    let mut other = TestLog::bare(Arc::default(), log.machine, log.timeline);
    (other.key, other.chance) = (log.key.clone(), Seeded::new(8));
    other.control(Control::Fence).await;
    other.record(Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None });
    other.add_disk(0, DISK_BYTES);
    for n in 1..4 {
        other.write(0, 0, &[0xf0 | n; 4096]);
        other.end_segment().await;
    }
    let elsewhere = StoreCopies { source: other.source() };
    assert_eq!(mended(&log, 2, &elsewhere, Proof::SoundCopyIsEnough).await, Err(RepairError::OtherObject));

    let place = ObjectPlace::Slot(Slot(2));
    let bad = copies.source.store().head(&name).await.expect("there").etag;
    copies.source.store().put_if_match(&name, Some(&bad), damaged.clone()).await.expect("a copy that is damaged too");
    let done = repair(&log.source(), log.timeline, place, &copies, Proof::Required).await.expect("the store answers");
    assert!(matches!(done, Err(RepairError::CopyDamaged(_))), "{done:?}");
    assert_eq!(log.object(&name).await, damaged, "and it stays as it was");

    let foreign = LogSource::new(log.store.clone(), MachineId([7; 16]), log.key.clone());
    let done = repair(&foreign, log.timeline, place, &copies, Proof::SoundCopyIsEnough).await.expect("it answers");
    assert!(done.is_err(), "an object of another machine is no copy: {done:?}");
}
