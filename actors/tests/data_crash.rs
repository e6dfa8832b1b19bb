//! Whole process servers that die, come back, lose the log to each other; a vault and a cache disk that fail.

mod data_rig;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use data_rig::{Rig, machine, until};
use farshore_actors::data::{DataEventKind, IssueCode, MachinePhase};
use farshore_actors::supervise::OsChance;
use farshore_engine::control::messages::{Command, CommandResult};
use farshore_engine::ids::{Epoch, Lsn, WriterId};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::store::StoreErrorKind;
use farshore_engine::vault::store::faulty::{Aim, Fault, FaultPlan, FaultyStore, StoreCall};
use farshore_engine::vault::store::memory::MemoryStore;

fn vault_away() -> FaultPlan {
    let away = |plan: FaultPlan, call| plan.and(Aim::all(call), Fault::ErrorBefore(StoreErrorKind::Unavailable));
    [StoreCall::Stage, StoreCall::Publish, StoreCall::Head, StoreCall::GetRange, StoreCall::List]
        .into_iter()
        .fold(FaultPlan::none(), away)
}

#[actix::test]
async fn what_was_sealed_is_sent_after_a_restart_although_no_key_has_come() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
    let rig = Rig::with_store(store.clone());
    let server = rig.server("one").await;
    let writer = WriterId::draw(&mut OsChance);
    server.assign_as(1, 1, writer).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10, 64 << 10]);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    // Segments are sealed and staged, and none is published.
    store
        .set_plan(FaultPlan::none().and(Aim::all(StoreCall::Publish), Fault::ErrorBefore(StoreErrorKind::Unavailable)));
    agent.load(|agent| agent.durable() > Lsn(400)).await;
    until("some are sealed", async || server.status(1).await.is_some_and(|status| status.uploads.failures > 2)).await;
    let (committed, durable) = (agent.committed(), agent.durable());
    assert!(committed < durable);
    assert!(server.plane.kill().await);
    let taken = agent.taken();
    drop(agent);
    store.set_plan(FaultPlan::none());

    let server = rig.server("one").await;
    until("sealed segments are sent", async || {
        server.status(1).await.is_some_and(|status| status.uploads.segments > 0)
    })
    .await;
    let status = server.status(1).await.unwrap();
    assert_eq!(status.phase, MachinePhase::Locked, "nobody has brought the key");
    let reader = rig.reader(1).await;
    assert_eq!(reader.broken(), None);
    let sent = reader.chain().last_lsn;
    assert!(committed < sent && sent < durable, "{committed} < {sent} < {durable}: an open segment has no footer yet");

    // The key comes: the log goes on behind what was sent.
    server.assign_as(1, 1, writer).await.unwrap();
    until("what was durable is committed", async || {
        server.status(1).await.is_some_and(|status| status.committed >= durable)
    })
    .await;
    let reader = rig.reader(1).await;
    assert_eq!(reader.broken(), None);
    assert!(reader.points().len() >= taken.iter().filter(|taken| taken.lsn <= durable).count());
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_crash_of_the_whole_server_loses_nothing_durable() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
    let rig = Rig::with_store(store.clone());
    let server = rig.server("one").await;
    let writer = WriterId::draw(&mut OsChance);
    server.assign_as(1, 1, writer).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10, 64 << 10]);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    // From here on nothing reaches the vault: what is durable is durable in the cache alone.
    store.set_plan(vault_away());
    agent.load(|agent| agent.durable() > Lsn(400)).await;
    let durable = agent.durable();
    assert!(agent.committed() < durable);
    assert!(server.plane.kill().await);
    // The agent is gone for good: it cannot send anything again.
    let taken = agent.taken();
    drop(agent);
    store.set_plan(FaultPlan::none());
    let server = rig.server("one").await;
    server.wait_phase(1, MachinePhase::Locked).await;
    server.assign_as(1, 1, writer).await.unwrap();
    until("what was durable is committed", async || {
        server.status(1).await.is_some_and(|status| status.committed >= durable)
    })
    .await;
    let reader = rig.reader(1).await;
    assert_eq!(reader.broken(), None);
    let expected = taken.iter().filter(|taken| taken.lsn <= durable).count();
    assert!(expected > 3);
    assert!(reader.points().len() >= expected);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_restarted_server_goes_on_without_the_configuration_server_once_the_agent_brings_the_key() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 7).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    agent.load(|agent| agent.committed() > Lsn(100)).await;
    assert!(server.plane.kill().await);
    let server = rig.server("one").await;
    agent.connect_to(server.plane.address());
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let status = server.status(1).await.unwrap();
    assert_eq!((status.epoch, status.phase), (Epoch(7), MachinePhase::Ready));
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len());
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_stale_owner_commits_nothing_after_the_fence_and_says_so() {
    let rig = Rig::new();
    let mut old = rig.server("old").await;
    let new = rig.server("new").await;
    old.assign(1, 1).await.unwrap();
    let agent = rig.agent(&old, 1, &[256 << 10, 64 << 10]);
    agent.load(|agent| agent.committed() > Lsn(100)).await;
    // The new owner fences while the old one still takes writes.
    let done = Cell::new(false);
    let moving = async {
        new.assign(1, 2).await.unwrap();
        old.wait_phase(1, MachinePhase::Fenced).await;
        let addresses = vec![new.plane.address().to_string()];
        let redirect = Command::Redirect { machine: machine(1), epoch: Epoch(2), addresses };
        old.plane.execute(redirect).await.unwrap();
        // An agent that was turned away before it could be told is found by the configuration server.
        agent.connect_to(new.plane.address());
        let before = agent.committed();
        until("the new owner commits", async || agent.committed() > before).await;
        done.set(true);
    };
    tokio::join!(agent.load(|_| done.get()), moving);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len(), "{:?}", agent.trouble());
    let reader = rig.reader(1).await;
    let epochs: Vec<u64> = reader.segments().iter().map(|segment| segment.footer.epoch.0).collect();
    assert!(epochs.is_sorted() && epochs.contains(&1) && epochs.last() == Some(&2), "{epochs:?}");
    assert!(old.told().iter().any(|kind| matches!(kind, DataEventKind::Fenced { by, .. } if by.epoch == Epoch(2))));
    let status = old.status(1).await.unwrap();
    assert_eq!((status.phase, status.backlog_bytes, status.cached_bytes), (MachinePhase::Fenced, 0, 0));
    // It does not come back by asking for the old epoch again, nor by a restart.
    assert_eq!(old.assign(1, 1).await, Ok(CommandResult::AssignStale { highest: Epoch(2) }));
    assert!(old.plane.kill().await);
    let old = rig.server("old").await;
    let stranger = rig.agent(&old, 1, &[256 << 10]);
    until("an agent is turned away", async || !stranger.refusals().is_empty()).await;
    assert_eq!(stranger.committed(), Lsn::ZERO);
    assert!(old.plane.stop().await);
    assert!(new.plane.stop().await);
}

#[actix::test]
async fn a_planned_move_under_load_loses_nothing_and_hardly_pauses() {
    let rig = Rig::new();
    let servers = [rig.server("a").await, rig.server("b").await];
    servers[0].assign(1, 1).await.unwrap();
    let agent = rig.agent(&servers[0], 1, &[256 << 10]);
    let done = Cell::new(false);
    let moving = async {
        for epoch in 1..=6_u64 {
            let before = agent.committed();
            until("writes get through", async || agent.committed() > before).await;
            let (from, to) = (&servers[(epoch as usize + 1) % 2], &servers[epoch as usize % 2]);
            let release = Command::Release { machine: machine(1), epoch: Epoch(epoch), within_ms: 5000 };
            let CommandResult::Released { committed, durable } = from.plane.execute(release).await.unwrap() else {
                panic!("released")
            };
            assert_eq!(committed, durable, "there was time to upload everything");
            to.assign(1, epoch + 1).await.unwrap();
            let addresses = vec![to.plane.address().to_string()];
            let redirect = Command::Redirect { machine: machine(1), epoch: Epoch(epoch + 1), addresses };
            from.plane.execute(redirect).await.unwrap();
            assert!(from.status(1).await.is_none(), "the machine is not there any more");
        }
        done.set(true);
    };
    tokio::join!(agent.load(|_| done.get()), moving);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let acks = agent.acks();
    let largest = acks.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).max().unwrap();
    println!("largest pause in acks over 6 moves: {largest:?}");
    assert!(largest < Duration::from_secs(10), "{largest:?}");
    assert_eq!(agent.redirects(), 6, "{:?}", agent.trouble());
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len());
    for server in servers {
        assert!(server.plane.stop().await);
    }
}

#[actix::test]
async fn a_vault_that_is_away_stops_nothing_but_commits_and_is_caught_up_with() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
    let rig = Rig::with_store(store.clone());
    let mut server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    agent.load(|agent| agent.committed() > Lsn(50)).await;
    store.set_plan(vault_away());
    let committed = agent.committed();
    agent.load(|agent| agent.durable() > Lsn(committed.0 + 300)).await;
    until("the operator is told", async || {
        let status = server.status(1).await.unwrap();
        status.health.iter().any(|issue| issue.code == IssueCode::VaultAway)
    })
    .await;
    assert!(!server.plane.report().await.unwrap().vault_reachable);
    store.set_plan(FaultPlan::none());
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let told = server.told();
    let away = |kind: &DataEventKind| matches!(kind, DataEventKind::Trouble { code: IssueCode::VaultAway, .. });
    let back = |kind: &DataEventKind| matches!(kind, DataEventKind::Over { code: IssueCode::VaultAway });
    assert!(told.iter().any(away) && told.iter().any(back), "{told:?}");
    assert_eq!(server.status(1).await.unwrap().health, []);
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len());
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_full_vault_is_named_as_such() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
    let rig = Rig::with_store(store.clone());
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[128 << 10]);
    store.set_plan(FaultPlan::none().and(Aim::all(StoreCall::Stage), Fault::ErrorBefore(StoreErrorKind::Full)));
    let last = agent.mark(MarkKind::App);
    agent.wait_durable(last).await;
    until("the operator is told", async || {
        let status = server.status(1).await.unwrap();
        status.health.iter().any(|issue| issue.code == IssueCode::VaultFull)
    })
    .await;
    store.set_plan(FaultPlan::none());
    agent.wait_committed(last).await;
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_full_cache_throttles_the_agent_then_refuses_and_recovers() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new()), FaultPlan::none()));
    let mut rig = Rig::with_store(store.clone());
    rig.limits.cache.budget_bytes = 2 << 20;
    let mut server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    let last = agent.write(4);
    agent.wait_committed(last).await;
    store.set_plan(vault_away());
    let full = Cell::new(false);
    let watching = async {
        until("nothing is accepted any more", async || {
            let report = server.plane.report().await.unwrap();
            report.cache.pressure == farshore_engine::cache::limits::Pressure::Refusing
        })
        .await;
        full.set(true);
    };
    tokio::join!(agent.load(|_| full.get()), watching);
    let cached = server.plane.report().await.unwrap().cache.used_bytes;
    assert!(cached < (2 << 20) + (4 << 20), "the budget and one window bound it: {cached}");
    store.set_plan(FaultPlan::none());
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let told = server.told();
    let full = |kind: &DataEventKind| matches!(kind, DataEventKind::Trouble { code: IssueCode::CacheFull, .. });
    assert!(told.iter().any(full), "{told:?}");
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len());
    assert_eq!(agent.sessions(), 1, "it was throttled, not thrown out: {:?}", agent.trouble());
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn an_agent_of_a_machine_that_is_not_assigned_here_is_told_so() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    let agent = rig.agent(&server, 9, &[128 << 10]);
    until("it is refused", async || !agent.refusals().is_empty()).await;
    assert_eq!(agent.refusals()[0].code, farshore_engine::protocol::RefusalCode::NotOwner);
    server.assign(9, 1).await.unwrap();
    let last = agent.write(1);
    agent.wait_committed(last).await;
    assert!(server.plane.stop().await);
}
