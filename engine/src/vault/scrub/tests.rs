use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::*;
use crate::ids::{IncarnationId, Slot};
use crate::record::Record;
use crate::vault::merge::FullSpeed;
use crate::vault::read::test_log::{Seeded, TestLog};
use crate::vault::repair::{NoCopies, StoreCopies};
use crate::vault::segment::Control;
use crate::vault::store::ObjectStore;
use crate::vault::store::memory::MemoryStore;

async fn log() -> TestLog {
    let mut log = TestLog::new(&[64 << 10]).await;
    for n in 0..20 {
        log.write(0, u64::from(n) % 4 * 4096, &[n + 1; 4096]);
        log.mark();
        log.end_segment().await;
    }
    log
}

async fn damage(log: &TestLog, slot: u64) -> String {
    let name = log.name(Slot(slot));
    let mut bytes = log.object(&name).await.to_vec();
    bytes[150] ^= 1;
    log.store.damage(&name, Some(bytes.into()));
    name.to_string()
}

#[tokio::test]
async fn a_cycle_of_slices_reads_each_object_once() {
    let log = log().await;
    let mut read = 0;
    for number in 0..7 {
        let slice = Slice { number, of: 7 };
        let done = scrub(&log.source(), Some(slice), &[], (&NoCopies, Proof::Required), &FullSpeed)
            .await
            .expect("the store answers");
        assert!(done.damaged.is_empty() && done.repaired.is_empty() && !done.cut_off, "{done:?}");
        read += done.objects;
    }
    assert_eq!(read, 21, "a fence and twenty segments");
}

#[tokio::test]
async fn damage_is_told_with_the_points_that_it_touches_and_put_back_where_there_is_a_copy() {
    let log = log().await;
    let copy = Arc::new(MemoryStore::new());
    let (kept, lost) = (log.name(Slot(5)), log.name(Slot(18)));
    copy.put_if_absent(&kept, "copy", log.object(&kept).await).await.expect("a copy");
    let (mended, stays) = (damage(&log, 5).await, damage(&log, 18).await);
    assert_eq!((mended.as_str(), stays.as_str()), (kept.as_str(), lost.as_str()));
    let copies = StoreCopies { source: LogSource::new(copy, log.machine, log.key.clone()) };
    let done = scrub(&log.source(), Some(Slice::ALL), &[], (&copies, Proof::Required), &FullSpeed)
        .await
        .expect("the store answers");
    assert_eq!(done.repaired, [mended]);
    let [damaged] = &done.damaged[..] else { panic!("one object stays damaged: {done:?}") };
    assert_eq!((damaged.found.object.as_str(), damaged.stays.as_str()), (stays.as_str(), "there is no copy of it"));
    let points: Vec<_> = damaged.found.points.iter().map(|point| point.point).collect();
    let needing: Vec<_> = log.taken[17..20].iter().map(|taken| taken.id).collect();
    assert_eq!(points, needing, "its bytes are overwritten by nothing that follows");

    // Where its slice is not the one that is read, a suspect is read all the same.
    let elsewhere = (0..5).map(|number| Slice { number, of: 5 }).find(|slice| !slice.takes(&lost)).expect("one");
    let suspects = [stays.clone()];
    let done = scrub(&log.source(), Some(elsewhere), &suspects, (&NoCopies, Proof::Required), &FullSpeed)
        .await
        .expect("the store answers");
    assert_eq!(done.damaged.len(), 1, "{done:?}");
}

/// A log of the same machine that went another way.
async fn another_history(log: &TestLog) -> TestLog {
    let mut other = TestLog::bare(Arc::default(), log.machine, log.timeline);
    (other.key, other.chance) = (log.key.clone(), Seeded::new(11));
    other.control(Control::Fence).await;
    other.record(Record::Incarnation { id: IncarnationId([1; 16]), predecessor: None });
    other.add_disk(0, 64 << 10);
    for n in 0..20 {
        other.write(0, 0, &[0xf0 ^ n; 4096]);
        other.end_segment().await;
    }
    other
}

// I3
#[tokio::test]
async fn an_object_that_was_exchanged_for_another_sound_one_is_found_and_put_back() {
    let log = log().await;
    let other = another_history(&log).await;
    let copy = Arc::new(MemoryStore::new());
    let copies = StoreCopies { source: LogSource::new(copy.clone(), log.machine, log.key.clone()) };
    for slot in [0, 7, 19, 20] {
        let name = log.name(Slot(slot));
        let sound = log.object(&name).await;
        copy.damage(&name, Some(sound.clone()));
        log.store.damage(&name, Some(other.object(&name).await));
        let done = scrub(&log.source(), Some(Slice::ALL), &[], (&copies, Proof::Required), &FullSpeed)
            .await
            .expect("the store answers");
        let found: Vec<&str> = done.damaged.iter().map(|damaged| damaged.found.object.as_str()).collect();
        // Nothing tells which of the last two is the right one, but that the one before fits the rest.
        match slot < 19 {
            true => assert_eq!((&done.repaired[..], &found[..]), (&[name.to_string()][..], &[][..])),
            false => assert!(found.contains(&log.name(Slot(20)).as_str()), "slot {slot}: {done:?}"),
        }
        log.store.damage(&name, Some(sound));
    }
}

struct Until(AtomicU64);

#[async_trait::async_trait]
impl Pace for Until {
    async fn go_on(&self, _: u64) -> bool {
        self.0.fetch_sub(1, Relaxed) > 1
    }
}

#[tokio::test]
async fn a_scrub_ends_where_its_pace_ends_and_says_so() {
    let log = log().await;
    let done = scrub(&log.source(), Some(Slice::ALL), &[], (&NoCopies, Proof::Required), &Until(AtomicU64::new(5)))
        .await
        .expect("the store answers");
    assert_eq!((done.objects, done.cut_off), (4, true));
}
