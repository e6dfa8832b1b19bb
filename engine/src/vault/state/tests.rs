//! The order rules of a log.

use proptest::prelude::*;

use super::*;
use crate::codec::{Put, Take};
use crate::record::{Mark, MarkKind};

const LIFE: IncarnationId = IncarnationId([1; 16]);
const NEXT_LIFE: IncarnationId = IncarnationId([2; 16]);

fn at(lsn: u64, record: Record) -> RecordAt {
    RecordAt { lsn: Lsn(lsn), record }
}

fn begin(lsn: u64, id: IncarnationId, predecessor: Option<IncarnationId>) -> RecordAt {
    at(lsn, Record::Incarnation { id, predecessor })
}

fn disk(number: u16) -> DiskInfo {
    DiskInfo { disk: DiskNo(number), name: format!("disk {number}"), size_bytes: 1 << 20, sector_bytes: 512 }
}

/// One life, two disks, disk 0 in order; the last LSN is 10.
fn running() -> LogState {
    let records = [
        begin(1, LIFE, None),
        at(2, Record::DiskAdded(disk(0))),
        at(3, Record::DiskAdded(disk(1))),
        at(9, Record::GapClosed { disk: DiskNo(0) }),
    ];
    let mut state = LogState::default();
    state.follow_run(Lsn(1), Lsn(10), &records).expect("in order");
    state
}

fn gap(state: &LogState, number: u16) -> Option<(u64, GapReason)> {
    state.disks[&DiskNo(number)].gap.map(|gap| (gap.from.0, gap.reason))
}

#[test]
fn a_disk_that_joins_has_a_gap_until_its_first_contents_are_through() {
    let state = running();
    assert_eq!(gap(&state, 0), None);
    assert_eq!(gap(&state, 1), Some((3, GapReason::InitialReplication)));
    assert_eq!(state.last_lsn, Lsn(10));
}

#[test]
fn a_missing_batch_is_noticed_and_nothing_changes() {
    let mut state = running();
    let before = state.clone();
    let missing = Err(StateError::Missing { expected: Lsn(11), found: Lsn(12) });
    assert_eq!(state.follow_run(Lsn(12), Lsn(12), &[]), missing);
    let twice = Err(StateError::NotAfter { last: Lsn(10), found: Lsn(10) });
    assert_eq!(state.follow_run(Lsn(10), Lsn(12), &[]), twice);
    let late_error = [at(11, Record::GapClosed { disk: DiskNo(1) }), at(12, Record::GapClosed { disk: DiskNo(7) })];
    assert!(state.follow_run(Lsn(11), Lsn(12), &late_error).is_err());
    assert!(state.follow_run(Lsn(11), Lsn(12), &[at(13, Record::GapClosed { disk: DiskNo(1) })]).is_err());
    assert_eq!(state, before);
}

#[test]
fn a_life_after_an_unclean_stop_opens_a_gap_on_every_disk_and_after_a_clean_one_none() {
    let mut unclean = running();
    unclean.follow_run(Lsn(5000), Lsn(5001), &[begin(5000, NEXT_LIFE, Some(LIFE))]).expect("a follower");
    assert_eq!(gap(&unclean, 0), Some((11, GapReason::UncleanStop)));
    assert_eq!(gap(&unclean, 1), Some((3, GapReason::InitialReplication)));

    let mut clean = running();
    clean.follow_run(Lsn(11), Lsn(11), &[at(11, Record::CleanStop { captured_at: Timestamp(1) })]).expect("next");
    assert!(clean.clean_stop);
    clean.follow_run(Lsn(5000), Lsn(5001), &[begin(5000, NEXT_LIFE, Some(LIFE))]).expect("a follower");
    assert_eq!(gap(&clean, 0), None);
    assert!(!clean.clean_stop);

    let mut stopped_then_wrote = running();
    let stop = at(11, Record::CleanStop { captured_at: Timestamp(1) });
    stopped_then_wrote.follow_run(Lsn(11), Lsn(12), &[stop]).expect("next");
    assert!(!stopped_then_wrote.clean_stop, "a write follows the clean stop");
}

#[test]
fn only_the_follower_of_the_last_life_may_begin() {
    for predecessor in [None, Some(NEXT_LIFE), Some(IncarnationId([3; 16]))] {
        let refused = running().apply(&begin(11, NEXT_LIFE, predecessor));
        assert!(matches!(refused, Err(StateError::Incarnation { .. })), "{predecessor:?}");
    }
    assert!(running().apply(&begin(11, LIFE, Some(LIFE))).is_err(), "a life does not follow itself");
}

#[test]
fn a_disk_number_is_never_given_to_another_disk() {
    let mut state = running();
    assert_eq!(state.apply(&at(11, Record::DiskAdded(disk(1)))), Err(StateError::DiskNumberTaken { disk: DiskNo(1) }));
    state.apply(&at(11, Record::DiskRemoved { disk: DiskNo(1) })).expect("it is there");
    assert!(state.apply(&at(12, Record::DiskAdded(disk(1)))).is_err());
    assert!(state.apply(&at(12, Record::DiskRemoved { disk: DiskNo(1) })).is_err());
}

#[test]
fn an_invalid_activity_log_counts_again_only_after_a_full_compare() {
    let mut state = running();
    let number = DiskNo(0);
    state.apply(&at(11, Record::ActivityLogInvalid { disk: number })).expect("known");
    let open = |from, reason| Record::GapOpened { disk: number, from: Lsn(from), reason };
    state.apply(&at(12, open(12, GapReason::Overload))).expect("known");
    state.apply(&at(13, Record::GapClosed { disk: number })).expect("known");
    assert!(state.disks[&number].activity_log_invalid);
    state.apply(&at(14, open(14, GapReason::Overload))).expect("known");
    state.apply(&at(15, open(9, GapReason::ActivityLogLost))).expect("known");
    assert_eq!(gap(&state, 0), Some((9, GapReason::ActivityLogLost)));
    state.apply(&at(16, Record::GapClosed { disk: number })).expect("known");
    assert!(!state.disks[&number].activity_log_invalid);
}

#[test]
fn a_batch_with_a_section_of_a_stranger_is_refused_whole() {
    let mut state = running();
    let section = bytes::Bytes::from_static(b"section");
    let batch = |disks: &[u16], records: Vec<RecordAt>| Batch {
        first: Lsn(11),
        last: Lsn(12),
        sections: disks.iter().map(|disk| (DiskNo(*disk), section.clone())).collect(),
        records,
    };
    let before = state.clone();
    assert!(state.follows(&batch(&[0, 2], vec![])).is_err());
    assert!(state.follows(&batch(&[1, 0], vec![])).is_err());
    assert_eq!(state, before);
    state.follows(&batch(&[0, 2], vec![at(11, Record::DiskAdded(disk(2)))])).expect("the disk joins in this batch");
    assert_eq!(state.last_lsn, Lsn(12));
}

#[test]
fn a_state_reads_back_as_it_was_written_and_no_cut_of_it_does() {
    let mut state = running();
    let mark = Mark {
        id: MarkId([9; 16]),
        kind: MarkKind::Crash,
        captured_at: Timestamp(77),
        members: vec![],
        label: String::new(),
    };
    state.apply(&at(11, Record::Mark(mark))).expect("in order");
    state.apply(&at(12, Record::DiskRemoved { disk: DiskNo(0) })).expect("in order");
    state.apply(&at(13, Record::CleanStop { captured_at: Timestamp(78) })).expect("in order");
    for state in [state, LogState::default()] {
        let mut out = Put::default();
        state.put(&mut out);
        let bytes = out.into_bytes();
        assert_eq!(LogState::take(&mut Take::new(&bytes)).as_ref(), Ok(&state));
        for cut in 0..bytes.len() {
            assert!(LogState::take(&mut Take::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn no_log_reaches_the_last_number() {
    let mut state = running();
    let end = Lsn(u64::MAX);
    assert_eq!(state.follow_run(Lsn(11), end, &[]), Err(StateError::Exhausted { found: end }));
    state.follow_run(Lsn(11), Lsn(u64::MAX - 1), &[]).expect("the one before");
    assert_eq!(state.apply_run(end, end), Err(StateError::Exhausted { found: end }));
}

/// Any record, over few disks and lives so that many of them fit.
fn any_record() -> impl Strategy<Value = Record> {
    let number = || (0..4_u16).prop_map(DiskNo);
    let life = || (0..4_u8).prop_map(|n| IncarnationId([n; 16]));
    let reason = prop_oneof![Just(GapReason::Overload), Just(GapReason::ActivityLogLost), Just(GapReason::UncleanStop)];
    prop_oneof![
        (life(), prop::option::of(life())).prop_map(|(id, predecessor)| Record::Incarnation { id, predecessor }),
        (number(), 1..9_u64, reason).prop_map(|(disk, from, reason)| Record::GapOpened {
            disk,
            from: Lsn(from),
            reason
        }),
        number().prop_map(|disk| Record::GapClosed { disk }),
        (0..4_u16).prop_map(|number| Record::DiskAdded(disk(number))),
        (number(), 0..4_u64).prop_map(|(disk, n)| Record::DiskResized { disk, size_bytes: n * 512 }),
        number().prop_map(|disk| Record::DiskRemoved { disk }),
        Just(Record::CleanStop { captured_at: Timestamp(1) }),
        number().prop_map(|disk| Record::ActivityLogInvalid { disk }),
    ]
}

proptest! {
    /// A batch is taken whole or not at all, one step at a time comes to the same, and every state reads back.
    #[test]
    fn whatever_comes_the_state_is_the_one_before_or_the_one_after(
        steps in prop::collection::vec((0..3_u64, prop::collection::vec((0..3_u64, any_record()), 0..3), 0..3_u64), 0..40),
    ) {
        let mut state = LogState::default();
        for (hole, records, rest) in steps {
            let first = Lsn(state.last_lsn.0 + hole);
            let mut lsn = first.0;
            let mut placed = Vec::new();
            for (step, record) in records {
                lsn += step;
                placed.push(at(lsn, record));
            }
            let last = Lsn(lsn + rest);
            let (before, mut alone) = (state.clone(), state.clone());
            match state.follow_run(first, last, &placed) {
                Err(_) => prop_assert_eq!(&state, &before),
                Ok(()) => {
                    placed.iter().for_each(|record| alone.apply(record).expect("it was taken together"));
                    if alone.last_lsn < last {
                        alone.apply_run(alone.last_lsn.next(), last).expect("it was taken together");
                    }
                    prop_assert_eq!(&state, &alone);
                    prop_assert!(state.last_lsn == last && last > before.last_lsn);
                }
            }
            let mut out = Put::default();
            state.put(&mut out);
            let bytes = out.into_bytes();
            let mut input = Take::new(&bytes);
            prop_assert_eq!(&LogState::take(&mut input).expect("just written"), &state);
            prop_assert_eq!(input.end("state"), Ok(()));
        }
    }
}
