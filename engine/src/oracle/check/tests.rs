use std::path::Path;

use super::*;
use crate::oracle::journal::{Event, EventAt, JournalDisk, JournalHeader};
use crate::oracle::stamp::Numbers;

const BLOCK: usize = 512;

/// A machine whose writes, answers and disks a test makes up.
struct Machine {
    header: JournalHeader,
    events: Vec<EventAt>,
    next_seq: u64,
    disks: Vec<Vec<u8>>,
}

impl Machine {
    fn new(disks: usize, blocks: usize) -> Self {
        let disk = |number| JournalDisk { name: format!("d{number}"), size_bytes: (blocks * BLOCK) as u64 };
        let header = JournalHeader { seed: 5, block_bytes: BLOCK as u32, disks: (0..disks).map(disk).collect() };
        Self { header, events: Vec::new(), next_seq: 1, disks: vec![vec![0; blocks * BLOCK]; disks] }
    }

    fn event(&mut self, event: Event, seq: u64) {
        let time = Timestamp(self.events.len() as i64 + 1);
        self.events.push(EventAt { event, seq, time });
    }

    fn submit(&mut self, kind: WriteKind, disk: u16, block: u64) -> u64 {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.event(Event::Submitted { kind, disk, block, blocks: 1 }, seq);
        seq
    }

    fn ack(&mut self, seq: u64) {
        self.event(Event::Acknowledged, seq);
    }

    fn put(&mut self, disk: u16, block: u64, seq: u64) {
        let (seed, at) = (self.header.seed, block as usize * BLOCK);
        let out = &mut self.disks[usize::from(disk)][at..at + BLOCK];
        if seq == 0 { out.fill(0) } else { Stamp { seed, disk, block, seq }.fill(out) }
    }

    /// A write that is submitted, done and acknowledged.
    fn write(&mut self, disk: u16, block: u64) -> u64 {
        let seq = self.submit(WriteKind::Stamped, disk, block);
        self.put(disk, block, seq);
        self.ack(seq);
        seq
    }

    fn history(&self) -> History {
        History::of(self.header.clone(), &self.events, Path::new("made up")).expect("consistent events")
    }

    fn check_within(&self, bounds: &Bounds) -> Findings {
        let mut disks = self.disks.clone();
        let mut subjects: Vec<_> = disks.iter_mut().map(|image| Subject { image, base: None }).collect();
        check(&self.history(), &mut subjects, bounds).expect("as many images as disks, of their sizes")
    }

    fn check(&self) -> Findings {
        self.check_within(&Bounds::default())
    }

    fn faults(&self) -> Vec<(u16, u64, Fault)> {
        self.check().violations.into_iter().map(|found| (found.disk, found.block, found.fault)).collect()
    }
}

/// Two disks written in turn, all acknowledged.
fn written() -> Machine {
    let mut machine = Machine::new(2, 16);
    for round in 0..40 {
        machine.write(round % 2, u64::from(round * 7 % 16));
    }
    machine
}

#[test]
fn the_disks_as_they_were_written_are_a_state_with_everything_in_it() {
    let found = written().check();
    assert!(found.is_consistent(), "{:?}", found.violations);
    assert_eq!((found.cut_seq, found.disk_seqs, found.required_writes), (40, vec![39, 40], 39));
    assert_eq!(found.blocks, 32);
}

#[test]
fn a_write_dropped_in_the_middle_is_named() {
    let mut machine = written();
    let (older, dropped) = (machine.write(0, 3), machine.write(0, 3));
    let newest = machine.write(1, 9);
    machine.put(0, 3, older);
    let lost = Fault::Lost { seq: dropped, shows_seq: older, since_seq: newest, since_disk: 1, since_block: 9 };
    assert_eq!(machine.faults(), [(0, 3, lost)]);
    let text = machine.check().violations[0].to_string();
    assert!(text.contains("d0") && text.contains("block 3") && text.contains(&dropped.to_string()), "{text}");
}

#[test]
fn a_single_disk_rolled_back_is_named_and_both_rolled_back_are_fine() {
    let mut machine = written();
    let old = machine.disks.clone();
    let first_after = machine.write(0, 1);
    machine.write(1, 1);
    let new = machine.disks.clone();
    machine.disks = vec![old[0].clone(), new[1].clone()];
    assert!(matches!(machine.faults()[..], [(0, 1, Fault::Lost { seq, .. })] if seq == first_after));
    machine.disks = old;
    assert!(machine.check().is_consistent());
}

#[test]
fn a_torn_block_is_named_with_its_sectors_and_whose_they_are() {
    let mut machine = Machine::new(1, 0);
    machine.header.block_bytes = 4096;
    machine.header.disks[0].size_bytes = 8192;
    machine.disks[0] = vec![0; 8192];
    let (old, new) = (machine.submit(WriteKind::Stamped, 0, 1), 2);
    machine.ack(old);
    machine.submit(WriteKind::Stamped, 0, 1);
    machine.ack(new);
    let mut halves = [vec![0; 4096], vec![0; 4096]];
    for (seq, half) in [new, old].into_iter().zip(&mut halves) {
        Stamp { seed: 5, disk: 0, block: 1, seq }.fill(half);
    }
    machine.disks[0][4096..6144].copy_from_slice(&halves[0][..2048]);
    machine.disks[0][6144..].copy_from_slice(&halves[1][2048..]);
    let torn = Fault::Torn { head_seq: new, sectors: vec![4, 5, 6, 7], sectors_seq: Some(old) };
    assert_eq!(machine.faults(), [(0, 1, torn)]);
}

#[test]
fn a_block_at_the_wrong_place_or_of_no_write_or_of_nobody_is_named() {
    let mut machine = written();
    let seq = machine.write(0, 2);
    let moved = machine.disks[0][2 * BLOCK..3 * BLOCK].to_vec();
    machine.disks[0][5 * BLOCK..6 * BLOCK].copy_from_slice(&moved);
    assert_eq!(machine.faults(), [(0, 5, Fault::Misplaced { of_disk: 0, of_block: 2, seq })]);

    let mut machine = written();
    machine.put(1, 4, 999);
    assert_eq!(machine.faults(), [(1, 4, Fault::NeverSubmitted { seq: 999 })]);

    let mut machine = Machine::new(1, 4);
    machine.disks[0][3 * BLOCK] = 0xab;
    assert!(matches!(&machine.faults()[..], [(0, 3, Fault::Foreign { front })] if front.starts_with("ab00")));
}

#[test]
fn what_was_in_flight_at_the_cut_may_be_there_or_not() {
    let mut machine = written();
    let before = machine.disks.clone();
    let flying = machine.submit(WriteKind::Stamped, 0, 8);
    let other = machine.write(1, 8);
    assert!(machine.check().is_consistent(), "write {flying} is not there, though {other} is");
    machine.put(0, 8, flying);
    assert!(machine.check().is_consistent(), "write {flying} is there");
    machine.ack(flying);
    machine.disks[0] = before[0].clone();
    assert!(machine.check().is_consistent(), "acknowledged later: still in flight when {other} was submitted");
    machine.write(1, 0);
    assert!(!machine.check().is_consistent(), "but before this one");
}

#[test]
fn bounds_from_below_and_above_are_checked() {
    let mut machine = written();
    let old = machine.disks.clone();
    let seq = machine.write(0, 1);
    let acked_at = machine.events.last().expect("some").time;
    let new = std::mem::replace(&mut machine.disks, old);
    assert!(machine.check().is_consistent());
    let before = |time| Bounds { acked_before: Some(Timestamp(time)), ..Bounds::default() };
    assert!(machine.check_within(&before(acked_at.0)).is_consistent());
    let missing = machine.check_within(&before(acked_at.0 + 1)).violations;
    assert!(
        matches!(missing[..], [Violation { disk: 0, block: 1, fault: Fault::Missing { seq: lost, .. }, .. }] if lost == seq)
    );
    let at_least = Bounds { at_least_seq: Some(seq), ..Bounds::default() };
    assert!(!machine.check_within(&at_least).is_consistent());
    machine.disks = new;
    assert!(machine.check_within(&at_least).is_consistent());
    let none_after = |time| Bounds { none_after: Some(Timestamp(time)), ..Bounds::default() };
    assert!(machine.check_within(&none_after(acked_at.0)).is_consistent());
    let too_new = machine.check_within(&none_after(acked_at.0 - 1)).violations;
    assert!(matches!(too_new[..], [Violation { fault: Fault::TooNew { .. }, .. }]));
}

#[test]
fn a_base_image_is_what_unwritten_blocks_must_show() {
    let mut machine = Machine::new(1, 4);
    machine.disks[0].fill(0x11);
    let (mut image, mut base) = (machine.disks[0].clone(), machine.disks[0].clone());
    machine.write(0, 2);
    image[2 * BLOCK..3 * BLOCK].copy_from_slice(&machine.disks[0][2 * BLOCK..3 * BLOCK]);
    let found = |image: &mut Vec<u8>, base: &mut Vec<u8>| {
        check(&machine.history(), &mut [Subject { image, base: Some(base) }], &Bounds::default()).expect("runs")
    };
    assert!(found(&mut image, &mut base).is_consistent());
    image[0] = 0x12;
    assert!(matches!(found(&mut image, &mut base).violations[0].fault, Fault::Foreign { .. }));
}

#[test]
fn images_that_are_not_the_journals_disks_are_not_checked_at_all() {
    let machine = written();
    let mut disk = machine.disks[0].clone();
    let mut subjects = [Subject { image: &mut disk, base: None }];
    assert!(matches!(check(&machine.history(), &mut subjects, &Bounds::default()), Err(CheckError::Count { .. })));
    let (mut short, mut disk) = (vec![0; BLOCK], machine.disks[1].clone());
    let mut subjects = [Subject { image: &mut short, base: None }, Subject { image: &mut disk, base: None }];
    assert!(matches!(check(&machine.history(), &mut subjects, &Bounds::default()), Err(CheckError::Size { .. })));
}

/// Whether any set of writes explains the disks: by trying all of them.
fn is_explained(machine: &Machine, history: &History) -> bool {
    let writes: Vec<_> = history.writes().copied().collect();
    (0_u32..1 << writes.len()).any(|set| {
        let has = |at: usize| set & (1 << at) != 0;
        let follows = |done: &WriteAt, later: &WriteAt| {
            matches!(done.answer, Answer::Acknowledged { before, .. } if before <= later.seq)
        };
        let closed = writes.iter().enumerate().filter(|(at, _)| has(*at)).all(|(_, later)| {
            writes.iter().enumerate().all(|(at, done)| has(at) || !follows(done, later))
        });
        closed && (0..machine.disks.len()).all(|disk| {
            (0..machine.disks[disk].len() / BLOCK).all(|block| {
                let mut contents = vec![0];
                let here = |write: &WriteAt| usize::from(write.disk) == disk && write.block == block as u64;
                for (_, write) in writes.iter().enumerate().filter(|(at, write)| has(*at) && here(write)) {
                    match write.kind {
                        WriteKind::Stamped => contents = vec![write.seq],
                        WriteKind::Zeroes => contents = vec![0],
                        WriteKind::Trim => contents.push(0),
                    }
                }
                let data = &machine.disks[disk][block * BLOCK..(block + 1) * BLOCK];
                contents.contains(&Stamp::read(data).map_or(0, |stamp| stamp.seq))
            })
        })
    })
}

#[test]
fn the_checker_agrees_with_trying_every_set_of_writes() {
    let mut verdicts = [0, 0];
    for seed in 0..4000 {
        let mut numbers = Numbers::new(seed);
        let mut machine = Machine::new(2, 2);
        let mut flying: Vec<(u64, u16, u64)> = Vec::new();
        while machine.next_seq <= 8 {
            let (disk, block) = (numbers.below(2) as u16, numbers.below(2));
            if let Some(at) = flying.iter().position(|write| (write.1, write.2) == (disk, block)) {
                let (seq, ..) = flying.remove(at);
                let event = if numbers.percent(20) { Event::Failed } else { Event::Acknowledged };
                machine.event(event, seq);
            } else {
                let kinds = [WriteKind::Stamped, WriteKind::Stamped, WriteKind::Zeroes, WriteKind::Trim];
                flying.push((machine.submit(kinds[numbers.below(4) as usize], disk, block), disk, block));
            }
        }
        let history = machine.history();
        for disk in 0..2 {
            for block in 0..2 {
                let stamped = |write: &&WriteAt| write.kind == WriteKind::Stamped;
                let seqs: Vec<_> = history.of_block(disk, block).filter(stamped).map(|write| write.seq).collect();
                let choice = numbers.below(seqs.len() as u64 + 1) as usize;
                machine.put(disk, block, seqs.get(choice).copied().unwrap_or(0));
            }
        }
        let (expected, found) = (is_explained(&machine, &history), machine.check());
        assert_eq!(found.is_consistent(), expected, "seed {seed}: {:?}", found.violations);
        verdicts[usize::from(expected)] += 1;
    }
    assert!(verdicts.iter().all(|count| *count > 400), "both verdicts are tried: {verdicts:?}");
}
