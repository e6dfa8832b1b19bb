//! Each claim of the kit, shown on a child that can be told to fail in every way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use actix::prelude::*;
use parking_lot::Mutex;
use slog::{Discard, Logger, o};

use super::*;

/// Stands for what is durable: a child finds its state here again.
#[derive(Default)]
struct Durable {
    written: Mutex<Vec<u32>>,
    born: Mutex<Vec<(u64, Instant, std::thread::ThreadId)>>,
    dies_at_birth: AtomicBool,
    /// While it is set, a child that was told to block holds its thread.
    blocks: AtomicBool,
}

struct Volume {
    durable: Arc<Durable>,
    life: Life,
    scratch: Vec<u32>,
}

impl Actor for Volume {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
    }
}

impl Ward for Volume {
    type Id = u32;
    type Spec = Arc<Durable>;
    const KIND: &'static str = "volume";

    fn revive(durable: Arc<Durable>, life: Life, _: &mut Context<Self>) -> Self {
        durable.born.lock().push((life.incarnation, Instant::now(), std::thread::current().id()));
        assert!(!durable.dies_at_birth.load(SeqCst), "cannot open the journal");
        let scratch = durable.written.lock().clone();
        Self { durable, life, scratch }
    }
}

#[derive(Message, Clone, Copy)]
#[rtype(result = "Vec<u32>")]
enum Do {
    Write(u32),
    Dirty(u32),
    Panic,
    PanicLater,
    Hang,
    Block,
    HoldUp,
    Look,
}

impl Handler<Do> for Volume {
    type Result = Vec<u32>;

    fn handle(&mut self, msg: Do, ctx: &mut Self::Context) -> Vec<u32> {
        match msg {
            Do::Write(n) => {
                self.scratch.push(n);
                self.durable.written.lock().push(n);
            }
            Do::Dirty(n) => self.scratch.push(n),
            Do::Panic => panic!("checksum mismatch"),
            Do::PanicLater => drop(ctx.run_later(Duration::ZERO, |_, _| panic!("in a timer"))),
            Do::Hang => ctx.wait(std::future::pending::<()>().into_actor(self)),
            Do::Block => {
                while self.durable.blocks.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            Do::HoldUp => std::thread::sleep(2 * policy().stall_max),
            Do::Look => {}
        }
        self.scratch.clone()
    }
}

impl Handler<Retire> for Volume {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Retire, _: &mut Self::Context) -> Self::Result {
        let flush = tokio::time::sleep(Duration::from_millis(if self.scratch.contains(&666) { 60_000 } else { 5 }));
        AtomicResponse::new(Box::pin(flush.into_actor(self).map(|(), volume, ctx| {
            *volume.durable.written.lock() = volume.scratch.clone();
            ctx.stop();
        })))
    }
}

/// The parent of the tests.
struct Root {
    volumes: Warden<Volume>,
    losses: Arc<Mutex<Vec<(u32, Loss)>>>,
    blocked: Arc<Mutex<Vec<u32>>>,
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        attend::<Self, Volume>(self, ctx);
    }
}

impl Parent<Volume> for Root {
    fn warden(&mut self) -> &mut Warden<Volume> {
        &mut self.volumes
    }

    fn child_lost(&mut self, child: &u32, loss: Loss, _: &mut Context<Self>) {
        self.losses.lock().push((*child, loss));
    }

    fn child_blocked(&mut self, child: &u32, _: &mut Context<Self>) {
        self.blocked.lock().push(*child);
    }
}

impl Handler<Ended<Volume>> for Root {
    type Result = ();

    fn handle(&mut self, msg: Ended<Volume>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Admit(u32, Arc<Durable>);

impl Handler<Admit> for Root {
    type Result = ();

    fn handle(&mut self, msg: Admit, ctx: &mut Self::Context) {
        Warden::admit(self, msg.0, msg.1, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "Option<(Addr<Volume>, u64)>")]
struct Locate(u32, u64);

impl Handler<Locate> for Root {
    type Result = Option<(Addr<Volume>, u64)>;

    fn handle(&mut self, msg: Locate, _: &mut Self::Context) -> Self::Result {
        self.volumes.locate(&msg.0, msg.1)
    }
}

#[derive(Message)]
#[rtype(result = "Option<VitalsReport>")]
struct Look(u32);

impl Handler<Look> for Root {
    type Result = Option<VitalsReport>;

    fn handle(&mut self, msg: Look, _: &mut Self::Context) -> Self::Result {
        self.volumes.vitals(&msg.0).map(|vitals| vitals.report())
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ResumeChild(u32);

impl Handler<ResumeChild> for Root {
    type Result = ();

    fn handle(&mut self, msg: ResumeChild, ctx: &mut Self::Context) {
        Warden::resume(self, &msg.0, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct Replace(u32, Arc<Durable>);

impl Handler<Replace> for Root {
    type Result = ();

    fn handle(&mut self, msg: Replace, ctx: &mut Self::Context) {
        self.volumes.dismiss(&msg.0);
        Warden::admit(self, msg.0, msg.1, ctx);
    }
}

#[derive(Message)]
#[rtype(result = "Retirement")]
struct RetireChild(u32, Duration);

impl Handler<RetireChild> for Root {
    type Result = ResponseFuture<Retirement>;

    fn handle(&mut self, msg: RetireChild, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.volumes.retire(&msg.0, msg.1))
    }
}

struct Rig {
    root: Addr<Root>,
    end: Abort,
    losses: Arc<Mutex<Vec<(u32, Loss)>>>,
    blocked: Arc<Mutex<Vec<u32>>>,
}

fn policy() -> RestartPolicy {
    RestartPolicy {
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        restarts_max: 3,
        window: Duration::from_secs(600),
        stall_max: Duration::from_millis(400),
        ..RestartPolicy::default()
    }
}

impl Rig {
    fn new(placement: Placement) -> Self {
        let losses = Arc::new(Mutex::new(Vec::new()));
        let blocked = Arc::new(Mutex::new(Vec::new()));
        let (told, seen) = (losses.clone(), blocked.clone());
        let log = Logger::root(Discard, o!());
        let make = move |_: &mut Context<Root>| Root {
            volumes: Warden::new(log, placement, policy()),
            losses: told,
            blocked: seen,
        };
        let (root, end) = start_root(make, |_| ());
        Self { root, end, losses, blocked }
    }

    fn admit(&self, child: u32) -> Arc<Durable> {
        let durable = Arc::new(Durable::default());
        self.root.do_send(Admit(child, durable.clone()));
        durable
    }

    /// The first life after `after` that answers.
    async fn locate(&self, child: u32, after: u64) -> (Addr<Volume>, u64) {
        for _ in 0..2000 {
            if let Some(found) = self.root.send(Locate(child, after)).await.unwrap()
                && found.0.send(Do::Look).await.is_ok()
            {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("child {child} never came back");
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

#[actix::test]
async fn a_panic_ends_one_life_and_the_next_is_made_from_what_is_durable() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    let (first, incarnation) = rig.locate(1, 0).await;
    assert_eq!(incarnation, 1);
    first.send(Do::Write(10)).await.unwrap();
    assert_eq!(first.send(Do::Dirty(99)).await.unwrap(), [10, 99]);
    assert!(first.send(Do::Panic).await.is_err());
    let (second, incarnation) = rig.locate(1, 1).await;
    assert_eq!(incarnation, 2);
    assert_eq!(second.send(Do::Write(11)).await.unwrap(), [10, 11], "the scratch state is gone");
    assert!(first.send(Do::Write(1)).await.is_err(), "the old address stays dead");
    let report = rig.root.send(Look(1)).await.unwrap().unwrap();
    assert_eq!((report.state, report.restarts, report.incarnation), (ChildState::Alive, 1, 2));
    assert!(report.last_failure.unwrap().contains("checksum mismatch"));
}

#[actix::test]
async fn a_panic_in_a_timer_is_healed_and_siblings_keep_their_lives() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    rig.admit(2);
    let (sibling, _) = rig.locate(2, 0).await;
    let (child, _) = rig.locate(1, 0).await;
    child.send(Do::PanicLater).await.unwrap();
    rig.locate(1, 1).await;
    assert!(sibling.send(Do::Look).await.is_ok());
    assert_eq!(rig.root.send(Look(2)).await.unwrap().unwrap().restarts, 0);
}

#[actix::test]
async fn a_child_that_stands_still_is_aborted_and_started_again() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    child.do_send(Do::Hang);
    rig.locate(1, 1).await;
    let report = rig.root.send(Look(1)).await.unwrap().unwrap();
    assert!(report.last_failure.unwrap().contains("no progress"));
}

#[actix::test]
async fn nobody_is_blamed_for_a_thread_that_was_held_up() {
    let rig = Rig::new(Placement::WithParent);
    for child in 1..=8 {
        rig.admit(child);
    }
    for _ in 0..3 {
        let (child, _) = rig.locate(1, 0).await;
        child.send(Do::HoldUp).await.unwrap();
        let looked = Instant::now();
        until("more looks", || looked.elapsed() > policy().stall_max / 2).await;
    }
    for child in 1..=8 {
        assert_eq!(rig.root.send(Look(child)).await.unwrap().unwrap().restarts, 0, "{child}");
    }
}

#[actix::test]
async fn a_child_that_blocks_its_thread_is_told_once_and_started_again_when_it_lets_go() {
    let arbiters = Arbiters::start(1).unwrap();
    let rig = Rig::new(Placement::Spread(arbiters.clone()));
    let durable = rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    durable.blocks.store(true, SeqCst);
    child.do_send(Do::Block);
    until("it is told", || !rig.blocked.lock().is_empty()).await;
    assert!(rig.losses.lock().is_empty(), "it cannot be ended");
    // Several looks later it is still told once.
    let looked = Instant::now();
    until("more looks", || looked.elapsed() > 2 * policy().stall_max).await;
    assert_eq!(*rig.blocked.lock(), [1]);
    durable.blocks.store(false, SeqCst);
    let (_, incarnation) = rig.locate(1, 1).await;
    assert_eq!(incarnation, 2);
    arbiters.stop_and_join(Duration::from_secs(5));
}

#[actix::test]
async fn children_of_a_lost_arbiter_are_started_on_one_that_lives() {
    let arbiters = Arbiters::start(2).unwrap();
    let rig = Rig::new(Placement::Spread(arbiters.clone()));
    let durable = rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    let home = durable.born.lock()[0].2;
    arbiters.for_key(&1_u32).unwrap().stop();
    until("the child's thread is gone", || !child.connected()).await;
    let (_, incarnation) = rig.locate(1, 1).await;
    assert_eq!(incarnation, 2);
    assert_ne!(durable.born.lock().last().unwrap().2, home);
    assert!(matches!(rig.losses.lock()[0].1, Loss::Restarting { ending: Ending::ArbiterLost, .. }));
    assert!(arbiters.stop_and_join(Duration::from_secs(10)));
}

#[actix::test]
async fn restarts_wait_longer_each_time_and_end_in_giving_up() {
    let rig = Rig::new(Placement::WithParent);
    let durable = Arc::new(Durable::default());
    durable.dies_at_birth.store(true, SeqCst);
    rig.root.do_send(Admit(3, durable.clone()));
    until("it gives up", || matches!(rig.losses.lock().last(), Some((3, Loss::GaveUp { .. })))).await;
    let born: Vec<_> = durable.born.lock().iter().map(|(_, at, _)| *at).collect();
    let pauses: Vec<_> = born.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()).collect();
    assert!(pauses.len() == 3 && pauses[0] >= 20 && pauses[1] >= 40 && pauses[2] >= 80, "{pauses:?}");
    let last = rig.losses.lock().last().cloned().unwrap();
    assert_eq!(last, (3, Loss::GaveUp { ending: Ending::Panicked("cannot open the journal".into()) }));
    let report = rig.root.send(Look(3)).await.unwrap().unwrap();
    assert_eq!(report.state, ChildState::GivenUp);
    durable.dies_at_birth.store(false, SeqCst);
    rig.root.do_send(ResumeChild(3));
    assert_eq!(rig.locate(3, 4).await.1, 5, "a child that was given up can be resumed");
}

#[actix::test]
async fn a_parent_that_ends_leaves_no_orphans() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    rig.end.abort();
    until("the child is gone", || !child.connected()).await;
    assert!(child.send(Do::Look).await.is_err());
}

#[actix::test]
async fn the_end_of_a_dismissed_child_is_not_taken_for_that_of_its_namesake() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    let (old, _) = rig.locate(1, 0).await;
    let durable = Arc::new(Durable::default());
    rig.root.send(Replace(1, durable.clone())).await.unwrap();
    until("the old child is gone", || !old.connected()).await;
    let (new, incarnation) = rig.locate(1, 0).await;
    assert_eq!(incarnation, 1);
    new.send(Do::Write(1)).await.unwrap();
    assert_eq!(rig.losses.lock().len(), 0, "the parent heard of no loss: {:?}", rig.losses.lock());
    assert_eq!(durable.born.lock().len(), 1, "it lives once");
}

#[actix::test]
async fn an_abort_before_the_beginning_holds() {
    let arbiters = Arbiters::start(1).unwrap();
    let arbiter = arbiters.handles()[0].clone();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    arbiter.spawn_fn(move || assert!(held.recv().is_err()));
    let (told, ending) = tokio::sync::oneshot::channel();
    let durable = Arc::new(Durable::default());
    let unborn = durable.clone();
    let life = Life::new(1, Arc::default(), &policy());
    let (addr, abort) =
        start_watched(&arbiter, move |ctx| Volume::revive(unborn, life, ctx), move |ending| drop(told.send(ending)));
    abort.abort();
    drop(hold);
    assert_eq!(ending.await.unwrap(), Ending::Killed);
    assert!(!addr.connected());
    assert!(arbiters.stop_and_join(Duration::from_secs(10)));
}

#[actix::test]
async fn retiring_flushes_what_came_before_and_is_final() {
    let rig = Rig::new(Placement::WithParent);
    let durable = rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    (0..100).for_each(|n| child.do_send(Do::Dirty(n)));
    let retired = rig.root.send(RetireChild(1, Duration::from_secs(10)));
    assert_eq!(retired.await.unwrap(), Retirement::Flushed);
    assert_eq!(durable.written.lock().len(), 100);
    assert!(child.send(Do::Look).await.is_err());
    until("the parent has heard", || rig.losses.lock().contains(&(1, Loss::Finished))).await;
    assert!(rig.root.send(Locate(1, 0)).await.unwrap().is_none());
}

#[actix::test]
async fn retiring_past_its_limit_aborts_and_is_final_too() {
    let rig = Rig::new(Placement::WithParent);
    rig.admit(1);
    let (child, _) = rig.locate(1, 0).await;
    child.do_send(Do::Dirty(666));
    let retired = rig.root.send(RetireChild(1, Duration::from_millis(20)));
    assert_eq!(retired.await.unwrap(), Retirement::Aborted);
    until("the parent has heard", || rig.losses.lock().contains(&(1, Loss::Finished))).await;
}

#[actix::test]
async fn a_panic_in_an_offloaded_job_is_an_answer_and_the_pool_goes_on() {
    let pool = OffloadPool::new("test", 1, 2).unwrap();
    let panicked: Result<(), _> = pool.run(|| panic!("bad frame")).await;
    assert_eq!(panicked, Err(OffloadError::Panicked { pool: "test", text: "bad frame".into() }));
    for n in 0..50 {
        assert_eq!(pool.run(move || n * 2).await, Ok(n * 2));
    }
    pool.drain().await;
    assert_eq!(pool.run(|| 1).await, Err(OffloadError::Closed { pool: "test" }));
}

#[actix::test]
async fn a_pool_never_has_more_jobs_than_its_bound() {
    let pool = OffloadPool::new("test", 1, 3).unwrap();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let mut jobs = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (pool, gate) = (pool.clone(), gate.clone());
        jobs.spawn(async move { pool.run(move || assert!(gate.lock().recv().is_err())).await });
    }
    let seen = pool.clone();
    until("the pool is full", || seen.jobs_under_way() == 3).await;
    drop(go);
    while let Some(done) = jobs.join_next().await {
        assert_eq!(done.unwrap(), Ok(()));
    }
    assert_eq!(pool.jobs_under_way(), 0);
}

#[actix::test]
async fn a_lane_lets_no_earlier_life_write_beside_its_successor() {
    let pool = OffloadPool::new("test", 2, 8).unwrap();
    let lane = Lane::default();
    let written = Arc::new(Mutex::new(Vec::new()));
    let old = lane.take_turn();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let (begun, beginning) = tokio::sync::oneshot::channel();
    let log = written.clone();
    let mut running = tokio::task::JoinSet::new();
    let (first, threads) = (old.clone(), pool.clone());
    running.spawn(async move {
        let job = move || {
            begun.send(()).unwrap();
            assert!(gate.recv().is_err());
            log.lock().push("old, begun");
        };
        first.run(&threads, job).await
    });
    beginning.await.unwrap();
    let new = lane.take_turn();
    let log = written.clone();
    let queued = new.run(&pool, move || log.lock().push("new"));
    drop(go);
    assert_eq!(queued.await, Ok(()));
    assert_eq!(running.join_next().await.unwrap().unwrap(), Ok(()));
    assert_eq!(old.run(&pool, || ()).await, Err(TurnError::Superseded));
    assert_eq!(*written.lock(), ["old, begun", "new"]);
}

#[actix::test]
async fn credit_bounds_what_is_under_way_and_comes_back_when_a_message_dies() {
    let pool = CreditPool::new(64 << 10);
    let all = pool.take(1 << 30).await;
    assert_eq!(pool.free_bytes(), 0, "a request larger than the pool takes all of it");
    let waits = tokio::time::timeout(Duration::from_millis(20), pool.take(1)).await;
    assert!(waits.is_err());
    drop(all);
    let _some = pool.take(4097).await;
    assert_eq!(pool.free_bytes(), (64 << 10) - 8192);
}

#[test]
fn chaos_goes_off_once_at_its_target_and_never_where_it_was_not_enabled() {
    use farshore_engine::ids::MachineId;
    let (a, b) = (MachineId([1; 16]), MachineId([2; 16]));
    assert!(Chaos::new(false).arm(ActorKind::Disk, None).is_err());
    let chaos = Chaos::new(true);
    chaos.arm(ActorKind::Disk, Some(a)).unwrap();
    chaos.check(ActorKind::Machine, Some(a));
    chaos.check(ActorKind::Disk, Some(b));
    let hit = std::panic::AssertUnwindSafe(|| chaos.check(ActorKind::Disk, Some(a)));
    assert!(std::panic::catch_unwind(hit).is_err());
    chaos.check(ActorKind::Disk, Some(a));
    assert_eq!((chaos.fired(), chaos.waiting()), (1, 0));
}
