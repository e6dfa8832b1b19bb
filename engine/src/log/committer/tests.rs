use std::collections::{BTreeMap, HashMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::ids::{Epoch, WriterId};
use crate::log::SegmentNo;

fn owner(epoch: u64) -> Owner {
    Owner { epoch: Epoch(epoch), writer: WriterId([epoch as u8; 16]) }
}

fn digest(n: u8) -> FooterDigest {
    FooterDigest([n; 32])
}

fn place(slot: u64, previous: u8) -> FooterPlace {
    FooterPlace { slot: Slot(slot), previous: digest(previous) }
}

fn offer(n: u64) -> Offer {
    Offer { segment: SegmentNo(n), salt: Salt([n as u8; 16]), last: Lsn(n * 10), items_end: n * 1000, footer: None }
}

fn object(owner: Owner, salt: u8, items_end: u64, footer: u8) -> Found {
    Found::Object { kind: ObjectKind::Segment, owner, salt: Salt([salt; 16]), items_end, digest: digest(footer) }
}

/// An owner whose fence is the newest, at slot 5 behind footer 4.
fn open() -> Committer {
    let start = Start { place: place(5, 4), newest: Some(owner(3)) };
    let (committer, effects) = Committer::start(owner(3), start, WINDOW_DEFAULT).expect("its own fence");
    assert_eq!(effects, []);
    committer
}

/// The attempt of the only effect.
fn attempt(effects: &[Effect]) -> Attempt {
    assert_eq!(effects.len(), 1, "{effects:?}");
    attempt_of(&effects[0]).expect("an effect that is answered")
}

fn attempt_of(effect: &Effect) -> Option<Attempt> {
    match effect {
        Effect::SealFence { attempt, .. }
        | Effect::Seal { attempt, .. }
        | Effect::Stage { attempt, .. }
        | Effect::Publish { attempt, .. }
        | Effect::Look { attempt, .. }
        | Effect::RetryAfter { attempt, .. } => Some(*attempt),
        Effect::Adopted { .. } | Effect::Committed { .. } | Effect::Stopped(_) => None,
    }
}

/// Seals under footer `n` and stages; gives what follows.
fn seal_and_stage(committer: &mut Committer, seal: Attempt, n: u8) -> Vec<Effect> {
    let effects = committer.sealed(seal, digest(n));
    let stage = effects.iter().find(|effect| matches!(effect, Effect::Stage { .. })).expect("it is staged");
    let mut rest: Vec<Effect> = effects.iter().filter(|effect| *effect != stage).cloned().collect();
    rest.extend(committer.staged(attempt_of(stage).expect("answered")));
    rest
}

/// Brings segment 1 to the point where it is published; gives that attempt.
fn publishing(committer: &mut Committer) -> Attempt {
    let seal = attempt(&committer.offer(offer(1)));
    attempt(&seal_and_stage(committer, seal, 5))
}

#[test]
fn segments_are_sealed_and_staged_ahead_but_published_one_by_one() {
    let mut committer = open();
    let mut seals = VecDeque::from(committer.offer(offer(1)));
    (2..=6).for_each(|n| seals.extend(committer.offer(offer(n))));
    let mut publishes = Vec::new();
    for n in 0..WINDOW_DEFAULT as u8 {
        let Some(Effect::Seal { attempt, segment, place: at }) = seals.pop_front() else { panic!("a seal is due") };
        assert_eq!((segment.0, at), (u64::from(n) + 1, place(5 + u64::from(n), 4 + n)));
        for effect in seal_and_stage(&mut committer, attempt, 5 + n) {
            match effect {
                Effect::Seal { .. } => seals.push_back(effect),
                other => publishes.push(other),
            }
        }
    }
    assert_eq!(seals, [], "no more than the window is sealed ahead");
    assert!(matches!(publishes[..], [Effect::Publish { object: LogObject::Segment(SegmentNo(1)), slot: Slot(5), .. }]));
    let effects = committer.published(attempt(&publishes), PutOutcome::Created);
    let committed = Effect::Committed { segment: SegmentNo(1), slot: Slot(5), last: Lsn(10), digest: digest(5) };
    assert_eq!(effects[0], committed);
    assert!(matches!(effects[1], Effect::Seal { segment: SegmentNo(5), .. }), "the window moves on");
    assert!(matches!(effects[2], Effect::Publish { object: LogObject::Segment(SegmentNo(2)), slot: Slot(6), .. }));
    assert_eq!(committer.backlog(), 5);
}

#[test]
fn what_is_answered_to_attempts_of_before_the_end_was_read_again_changes_nothing() {
    let mut committer = open();
    let late = publishing(&mut committer);
    let start = Start { place: place(7, 6), newest: Some(owner(3)) };
    let (mut committer, effects) = committer.start_again(start).expect("its own fence");
    assert_eq!((effects, committer.backlog()), (Vec::new(), 0), "nothing is offered yet");
    let publish = publishing(&mut committer);
    assert_eq!(committer.published(late, PutOutcome::Created), [], "it was another segment's slot");
    assert_eq!(committer.backlog(), 1);
    let effects = committer.published(publish, PutOutcome::Created);
    assert!(matches!(effects[..], [Effect::Committed { slot: Slot(7), .. }]), "{effects:?}");
}

#[test]
fn a_lost_answer_is_looked_after_and_my_own_bytes_count() {
    for already in [true, false] {
        let mut committer = open();
        let publish = publishing(&mut committer);
        let effects = match already {
            true => committer.published(publish, PutOutcome::AlreadyExists),
            false => committer.publish_failed(publish, StoreErrorKind::Unavailable),
        };
        let look = attempt(&effects);
        assert_eq!(effects, [Effect::Look { attempt: look, slot: Slot(5) }]);
        let effects = committer.found(look, &object(owner(3), 1, 1000, 5));
        assert!(matches!(effects[..], [Effect::Committed { slot: Slot(5), .. }]), "{effects:?}");
    }
}

#[test]
fn an_absent_object_is_published_again_after_a_pause_that_grows() {
    let mut committer = open();
    let mut publish = publishing(&mut committer);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let look = attempt(&committer.publish_failed(publish, StoreErrorKind::Unavailable));
        let effects = committer.found(look, &Found::Absent);
        let Effect::RetryAfter { attempt: rest, after } = effects[0] else { panic!("{effects:?}") };
        pauses.push(after.as_millis());
        assert!(committer.is_failing());
        publish = attempt(&committer.retry(rest));
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
    committer.published(publish, PutOutcome::Created);
    assert!(!committer.is_failing());
}

#[test]
fn staged_bytes_that_vanished_are_brought_again() {
    let mut committer = open();
    let publish = publishing(&mut committer);
    let look = attempt(&committer.publish_failed(publish, StoreErrorKind::NotFound));
    let rest = attempt(&committer.found(look, &Found::Absent));
    assert!(matches!(committer.retry(rest)[..], [Effect::Stage { slot: Slot(5), .. }]));
}

#[test]
fn a_newer_owner_stops_it_and_nothing_is_published_after_that() {
    let rival = Owner { epoch: Epoch(3), writer: WriterId([99; 16]) };
    for by in [owner(4), rival] {
        let mut committer = open();
        let publish = publishing(&mut committer);
        let seal = attempt(&committer.offer(offer(2)));
        let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
        let reason = StopReason::Fenced { by, slot: Slot(5) };
        assert_eq!(committer.found(look, &object(by, 9, 9, 99)), [Effect::Stopped(reason)]);
        assert_eq!(committer.phase(), Phase::Stopped(reason));
        assert_eq!(committer.sealed(seal, digest(9)), []);
        assert_eq!(committer.offer(offer(3)), []);
        assert_eq!(committer.published(publish, PutOutcome::Created), []);
        assert_eq!(committer.fenced(owner(7), Slot(8)), [], "the first reason stays");
    }
}

#[test]
fn a_slot_taken_by_an_older_owner_moves_everything_up_under_new_footers() {
    let mut committer = open();
    let publish = publishing(&mut committer);
    let second = attempt(&committer.offer(offer(2)));
    assert_eq!(seal_and_stage(&mut committer, second, 6), []);
    let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
    let effects = committer.found(look, &object(owner(2), 77, 7, 77));
    let seal = attempt(&effects);
    assert_eq!(effects, [Effect::Seal { attempt: seal, segment: SegmentNo(1), place: place(6, 77) }]);
    assert_eq!(committer.published(publish, PutOutcome::Created), [], "an old answer means nothing now");
    let effects = seal_and_stage(&mut committer, seal, 15);
    assert!(matches!(effects[0], Effect::Seal { segment: SegmentNo(2), place: at, .. } if at == place(7, 15)));
    assert!(matches!(effects[1], Effect::Publish { slot: Slot(6), .. }));
}

#[test]
fn what_a_former_life_published_late_counts_if_it_is_the_same_segment() {
    let mut committer = open();
    let publish = publishing(&mut committer);
    let second = attempt(&committer.offer(offer(2)));
    seal_and_stage(&mut committer, second, 6);
    let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
    let effects = committer.found(look, &object(owner(3), 1, 1000, 88));
    assert!(matches!(effects[0], Effect::Committed { slot: Slot(5), digest: found, .. } if found == digest(88)));
    assert!(
        matches!(effects[1], Effect::Seal { segment: SegmentNo(2), place: at, .. } if at == place(6, 88)),
        "what was sealed behind the other footer is sealed anew"
    );
}

#[test]
fn anything_else_of_its_own_makes_it_read_the_tail_again() {
    for found in [object(owner(3), 1, 900, 88), object(owner(3), 2, 1000, 88)] {
        let mut committer = open();
        let publish = publishing(&mut committer);
        let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
        assert_eq!(committer.found(look, &found), [Effect::Stopped(StopReason::Reread { slot: Slot(5) })]);
    }
    let mut committer = open();
    let publish = publishing(&mut committer);
    let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
    assert_eq!(committer.found(look, &Found::Damaged), [Effect::Stopped(StopReason::Damaged { slot: Slot(5) })]);
}

#[test]
fn a_new_owner_fences_first_and_passes_over_what_the_old_one_still_got_in() {
    let start = Start { place: place(5, 4), newest: Some(owner(2)) };
    let (mut committer, effects) = Committer::start(owner(3), start, 4).expect("a newer epoch");
    assert!(matches!(effects[..], [Effect::SealFence { place: at, state_of: None, .. }] if at == place(5, 4)));
    assert_eq!(committer.offer(offer(1)), [], "segments wait for the fence");
    let publish = attempt(&seal_and_stage(&mut committer, attempt(&effects), 50));
    let look = attempt(&committer.published(publish, PutOutcome::AlreadyExists));
    let effects = committer.found(look, &object(owner(2), 7, 70, 70));
    let seal = attempt(&effects);
    let again = Effect::SealFence { attempt: seal, place: place(6, 70), state_of: Some(Slot(5)) };
    assert_eq!(effects, [again]);
    let publish = attempt(&seal_and_stage(&mut committer, seal, 51));
    let effects = committer.published(publish, PutOutcome::Created);
    assert_eq!(effects[0], Effect::Adopted { fence: Slot(6), state_of: Some(Slot(5)) });
    assert!(matches!(effects[1], Effect::Seal { segment: SegmentNo(1), place: at, .. } if at == place(7, 51)));
}

#[test]
fn only_a_newer_epoch_may_take_a_log_over() {
    let rival = Owner { epoch: Epoch(3), writer: WriterId([99; 16]) };
    for newest in [owner(4), rival] {
        let start = Start { place: place(5, 4), newest: Some(newest) };
        assert_eq!(Committer::start(owner(3), start, 4).err(), Some(newest));
    }
    let empty = Start { place: place(0, 0), newest: None };
    assert!(matches!(Committer::start(owner(1), empty, 4), Ok((_, effects)) if effects.len() == 1));
}

#[test]
fn a_footer_sealed_before_a_restart_is_used_while_its_place_holds() {
    let mut committer = open();
    let sealed = |n, at, footer| Offer { footer: Some((at, digest(footer))), ..offer(n) };
    let effects = committer.offer(sealed(1, place(5, 4), 5));
    assert!(matches!(effects[..], [Effect::Stage { slot: Slot(5), .. }]), "no key is needed: {effects:?}");
    let effects = committer.offer(sealed(2, place(7, 5), 6));
    assert!(matches!(effects[..], [Effect::Seal { place: at, .. }] if at == place(6, 5)), "{effects:?}");
}

/// An object in the model store.
#[derive(Clone, Debug)]
struct Stored {
    kind: ObjectKind,
    owner: Owner,
    salt: Salt,
    last: Lsn,
    digest: FooterDigest,
    previous: FooterDigest,
}

/// One life of one owner.
struct Life {
    owner: Owner,
    committer: Committer,
    todo: Vec<Effect>,
    sealed: HashMap<(LogObject, FooterDigest), Stored>,
    committed: Vec<u64>,
}

struct World {
    rng: SmallRng,
    slots: BTreeMap<Slot, Stored>,
    lives: Vec<Life>,
    /// Publishes that nobody waits for any more and that may still land.
    adrift: Vec<(Slot, Stored)>,
    footers: u64,
    next_segment: BTreeMap<Epoch, u64>,
}

impl World {
    fn fresh_digest(&mut self) -> FooterDigest {
        self.footers += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.footers.to_le_bytes());
        FooterDigest(bytes)
    }

    /// Create if absent; I4 is checked at the only place where slots are filled.
    fn fill(&mut self, slot: Slot, stored: Stored) -> PutOutcome {
        if self.slots.contains_key(&slot) {
            return PutOutcome::AlreadyExists;
        }
        let before = slot.0.checked_sub(1).map(|n| self.slots.get(&Slot(n)).expect("slots are filled in order"));
        let previous = before.map_or(FooterDigest([0; 32]), |before| before.digest);
        assert_eq!(stored.previous, previous, "the chain of footers holds at slot {slot}");
        let fence = self.slots.values().map(|before| before.owner.epoch).max().unwrap_or_default();
        assert!(stored.owner.epoch >= fence, "I4: epoch {} fills slot {slot} behind {fence}", stored.owner.epoch);
        let newcomer = stored.owner.epoch > fence;
        assert!(!newcomer || stored.kind == ObjectKind::Fence, "a new owner begins with its fence");
        self.slots.insert(slot, stored);
        PutOutcome::Created
    }

    fn begin(&mut self, owner: Owner) {
        let end = self.slots.len() as u64;
        let last = self.slots.values().next_back();
        let place = FooterPlace { slot: Slot(end), previous: last.map_or(FooterDigest([0; 32]), |last| last.digest) };
        let newest = self.slots.values().map(|stored| stored.owner).max();
        let Ok((committer, todo)) = Committer::start(owner, Start { place, newest }, 3) else { return };
        let mut life = Life { owner, committer, todo, sealed: HashMap::new(), committed: Vec::new() };
        // What the cache holds beyond the log.
        let in_log = |n: u64| self.slots.values().any(|stored| stored.salt == salt_of(owner, n));
        let cached: Vec<u64> =
            (1..self.next_segment.get(&owner.epoch).copied().unwrap_or(1)).filter(|n| !in_log(*n)).collect();
        for n in cached {
            life.todo.extend(life.committer.offer(cached_offer(owner, n)));
        }
        self.lives.push(life);
    }

    fn look(&self, slot: Slot) -> Found {
        self.slots.get(&slot).map_or(Found::Absent, |stored| Found::Object {
            kind: stored.kind,
            owner: stored.owner,
            salt: stored.salt,
            items_end: stored.last.0 * 100,
            digest: stored.digest,
        })
    }

    fn offer_one(&mut self, life: usize) {
        let owner = self.lives[life].owner;
        let next = self.next_segment.entry(owner.epoch).or_insert(1);
        let n = *next;
        *next += 1;
        let life = &mut self.lives[life];
        let effects = life.committer.offer(cached_offer(owner, n));
        life.todo.extend(effects);
    }

    fn step(&mut self) {
        let Some(life) = self.rng.random_range(0..=self.lives.len()).checked_sub(1) else { return };
        let Some(at) = self.rng.random_range(0..=self.lives[life].todo.len()).checked_sub(1) else {
            return;
        };
        let effect = self.lives[life].todo.swap_remove(at);
        let owner = self.lives[life].owner;
        let trouble = self.rng.random_range(0..10);
        let more = match effect {
            Effect::SealFence { attempt, place, .. } => {
                let digest = self.fresh_digest();
                let stored = Stored {
                    kind: ObjectKind::Fence,
                    owner,
                    salt: Salt([0xff; 16]),
                    last: Lsn(0),
                    digest,
                    previous: place.previous,
                };
                self.lives[life].sealed.insert((LogObject::Fence, digest), stored);
                self.lives[life].committer.sealed(attempt, digest)
            }
            Effect::Seal { attempt, segment, place } => {
                let digest = self.fresh_digest();
                let stored = Stored {
                    kind: ObjectKind::Segment,
                    owner,
                    salt: salt_of(owner, segment.0),
                    last: Lsn(segment.0 * 10),
                    digest,
                    previous: place.previous,
                };
                self.lives[life].sealed.insert((LogObject::Segment(segment), digest), stored);
                self.lives[life].committer.sealed(attempt, digest)
            }
            Effect::Stage { attempt, .. } if trouble == 0 => self.lives[life].committer.stage_failed(attempt),
            Effect::Stage { attempt, .. } => self.lives[life].committer.staged(attempt),
            Effect::Publish { attempt, object, slot, footer } => {
                let stored = self.lives[life].sealed[&(object, footer)].clone();
                match trouble {
                    0 => self.lives[life].committer.publish_failed(attempt, StoreErrorKind::Unavailable),
                    1 => {
                        self.fill(slot, stored);
                        self.lives[life].committer.publish_failed(attempt, StoreErrorKind::Unavailable)
                    }
                    2 => {
                        self.adrift.push((slot, stored));
                        self.lives[life].committer.publish_failed(attempt, StoreErrorKind::NotFound)
                    }
                    _ => {
                        let outcome = self.fill(slot, stored);
                        self.lives[life].committer.published(attempt, outcome)
                    }
                }
            }
            Effect::Look { attempt, .. } if trouble == 0 => self.lives[life].committer.look_failed(attempt),
            Effect::Look { attempt, slot } => {
                let found = self.look(slot);
                self.lives[life].committer.found(attempt, &found)
            }
            Effect::RetryAfter { attempt, .. } => self.lives[life].committer.retry(attempt),
            Effect::Stopped(StopReason::Reread { .. }) => {
                self.begin(owner);
                Vec::new()
            }
            Effect::Committed { .. } | Effect::Adopted { .. } | Effect::Stopped(_) => Vec::new(),
        };
        self.take(life, more);
    }

    /// Facts are noted at once, work is done in any order.
    fn take(&mut self, life: usize, effects: Vec<Effect>) {
        let owner = self.lives[life].owner;
        for effect in effects {
            if let Effect::Committed { segment, slot, .. } = effect {
                let stored = &self.slots[&slot];
                assert_eq!(stored.salt, salt_of(owner, segment.0), "what is reported committed is in the log");
                self.lives[life].committed.push(segment.0);
            } else {
                self.lives[life].todo.push(effect);
            }
        }
    }

    fn land_adrift(&mut self) {
        if let Some((slot, stored)) = self.adrift.pop() {
            self.fill(slot, stored);
        }
    }

    /// The process dies: what it was publishing may land later.
    fn crash(&mut self, life: usize) {
        let mut dead = self.lives.swap_remove(life);
        for effect in dead.todo.drain(..) {
            if let Effect::Publish { object, slot, footer, .. } = effect {
                self.adrift.push((slot, dead.sealed[&(object, footer)].clone()));
            }
        }
        self.begin(dead.owner);
    }
}

fn salt_of(owner: Owner, n: u64) -> Salt {
    let mut bytes = [owner.epoch.0 as u8; 16];
    bytes[8..].copy_from_slice(&n.to_le_bytes());
    Salt(bytes)
}

fn cached_offer(owner: Owner, n: u64) -> Offer {
    Offer { segment: SegmentNo(n), salt: salt_of(owner, n), last: Lsn(n * 10), items_end: n * 1000, footer: None }
}

/// I4: two and more owners, restarts and lost answers in any order: each slot is filled once, the chain holds, no
/// older epoch commits behind a fence, and the newest owner gets everything through, in order.
#[test]
fn rivals_fill_each_slot_once_and_the_newest_owner_wins() {
    let mut fences_passed_over = 0;
    for seed in 0..3000 {
        let mut world = World {
            rng: SmallRng::seed_from_u64(seed),
            slots: BTreeMap::new(),
            lives: Vec::new(),
            adrift: Vec::new(),
            footers: 0,
            next_segment: BTreeMap::new(),
        };
        let mut epoch = 1;
        world.begin(owner(epoch));
        for _ in 0..400 {
            match world.rng.random_range(0..100) {
                0 => {
                    epoch += 1;
                    world.begin(owner(epoch));
                }
                1..=2 => world.land_adrift(),
                3 if !world.lives.is_empty() => {
                    let life = world.rng.random_range(0..world.lives.len());
                    world.crash(life);
                }
                4..=9 if !world.lives.is_empty() => {
                    let life = world.rng.random_range(0..world.lives.len());
                    world.offer_one(life);
                }
                _ => world.step(),
            }
        }
        epoch += 1;
        world.begin(owner(epoch));
        let last = world.lives.len() - 1;
        (0..5).for_each(|_| world.offer_one(last));
        for _ in 0..200_000 {
            if world.lives.iter().all(|life| life.todo.is_empty()) {
                break;
            }
            world.step();
        }
        let newest = world.lives.iter().rev().find(|life| life.owner == owner(epoch)).expect("it lives");
        assert_eq!(newest.committer.phase(), Phase::Open, "seed {seed}");
        assert_eq!(newest.committed, [1, 2, 3, 4, 5], "seed {seed}");
        let owners: Vec<Epoch> = world.slots.values().map(|stored| stored.owner.epoch).collect();
        assert!(owners.is_sorted(), "seed {seed}: {owners:?}");
        for epoch in owners {
            let of_epoch = world.slots.values().filter(|stored| stored.owner.epoch == epoch);
            let lasts: Vec<Lsn> = of_epoch.map(|stored| stored.last).collect();
            assert!(lasts.is_sorted_by(|a, b| a < b), "seed {seed}: {lasts:?}");
        }
        fences_passed_over += world.slots.values().filter(|stored| stored.kind == ObjectKind::Fence).count();
    }
    assert!(fences_passed_over > 6000, "the runs are about rivals");
}
