//! What rots in the vault: put back from the cache, made again from what it was merged from, else told until it is put right.

mod data_rig;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use data_rig::{Rig, TIMELINE, machine, until};
use farshore_actors::data::{DataEventKind, IssueCode, MachinePhase, MachineStatus};
use farshore_actors::supervise::ActorKind;
use farshore_engine::control::messages::{Command, RefusalCode};
use farshore_engine::ids::{Lsn, Slot, WriterId};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::layout::{ObjectName, log_prefix, runs_prefix};
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::store::ObjectStore as _;
use farshore_engine::vault::store::memory::MemoryStore;

/// What lies at the log's end, and what it is named.
async fn end_of_log(store: &MemoryStore) -> (ObjectName, Bytes) {
    let objects = store.list(&log_prefix(machine(1), TIMELINE), None, 10_000).await.expect("it lists");
    let name = objects.last().expect("the log has an object").name.clone();
    let (bytes, _) = store.get(&name).await.expect("it was listed");
    (name, bytes)
}

fn with_another_last_byte(bytes: &Bytes) -> Option<Bytes> {
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().expect("no object is empty") ^= 1;
    Some(damaged.into())
}

async fn has_damage(server: &data_rig::Server) -> bool {
    let status = server.status(1).await.expect("assigned");
    status.health.iter().any(|issue| issue.code == IssueCode::VaultDamaged)
}

#[actix::test]
async fn nothing_is_built_on_damage_and_once_it_is_put_right_the_log_goes_on_by_itself() {
    let store = Arc::new(MemoryStore::new());
    let mut rig = Rig::with_store(store.clone());
    // However full this disk is: what is committed stays in the cache.
    rig.limits.cache.warning_share = 0;
    let one = rig.server("one").await;
    one.assign(1, 1).await.unwrap();
    let agent = rig.agent(&one, 1, &[256 << 10]);
    agent.load(|agent| agent.committed() > Lsn(100)).await;
    assert!(one.plane.stop().await);

    // The next owner cannot read where the log goes on.
    let (name, whole) = end_of_log(&store).await;
    store.damage(&name, with_another_last_byte(&whole));
    let two = rig.server("two").await;
    let refusal = two.assign(1, 2).await.expect_err("it cannot be adopted");
    assert_eq!(refusal.code, RefusalCode::VaultUnavailable);
    assert!(has_damage(&two).await);
    assert_eq!(end_of_log(&store).await.0, name, "no fence behind it");
    store.damage(&name, Some(whole));
    two.wait_phase(1, MachinePhase::Ready).await;
    assert!(!has_damage(&two).await);

    // A stream that begins anew cannot either, where nothing proves what is in the cache; the machine takes writes meanwhile.
    agent.connect_to(two.plane.address());
    agent.wait_committed(agent.mark(MarkKind::App)).await;
    let (name, whole) = end_of_log(&store).await;
    store.damage(&name, Some(Bytes::from(vec![0; whole.len()])));
    rig.chaos.arm(ActorKind::UploadStream, Some(machine(1))).unwrap();
    agent.wait_durable(agent.mark(MarkKind::App)).await;
    until("the damage is told", async || has_damage(&two).await).await;
    agent.wait_durable(agent.mark(MarkKind::App)).await;
    store.damage(&name, with_another_last_byte(&whole));
    until("what is left of it does, and it is put back", async || {
        store.get(&name).await.is_ok_and(|(bytes, _)| bytes == whole)
    })
    .await;
    until("the damage is gone", async || !has_damage(&two).await).await;
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert_eq!(two.status(1).await.unwrap().actors[&ActorKind::Machine].restarts, 0, "nothing had to die for it");
    rig.check_points(1, &agent).await;
    assert!(two.plane.stop().await);
}

fn damaged_objects(status: &MachineStatus) -> Option<&str> {
    let issue = status.health.iter().find(|issue| issue.code == IssueCode::ObjectsDamaged);
    issue.map(|issue| issue.text.as_str())
}

#[actix::test]
async fn damage_is_put_back_from_the_cache_and_else_told_over_restarts_until_it_is_put_right() {
    let store = Arc::new(MemoryStore::new());
    let mut rig = Rig::with_store(store.clone());
    rig.limits.scrubbing.tick = Duration::from_millis(20);
    rig.limits.scrubbing.suspects_every = Duration::from_millis(100);
    // However full this disk is: what is committed stays in the cache.
    rig.limits.cache.warning_share = 0;
    let mut one = rig.server("one").await;
    one.assign(1, 1).await.unwrap();
    let agent = rig.agent(&one, 1, &[256 << 10]);
    agent.load(|agent| agent.committed() > Lsn(200)).await;
    until("the day's slice was read", async || one.status(1).await.unwrap().scrub.slices == 1).await;

    // What was committed still lies in the cache.
    let name = ObjectName::log(machine(1), TIMELINE, Slot(2));
    let (whole, _) = store.get(&name).await.expect("there");
    store.damage(&name, with_another_last_byte(&whole));
    one.plane.execute(Command::Scrub { machine: machine(1) }).await.expect("it is taken");
    until("it is put back", async || store.get(&name).await.is_ok_and(|(bytes, _)| bytes == whole)).await;
    until("it is told", async || one.status(1).await.unwrap().scrub.repaired == 1).await;
    assert_eq!(damaged_objects(&one.status(1).await.unwrap()), None);
    let repaired = |kind: &DataEventKind| matches!(kind, DataEventKind::ObjectsRepaired { objects, .. } if objects == &[name.to_string()]);
    assert!(one.told().iter().any(repaired));
    assert!(one.plane.stop().await);

    // The next owner has no copy; it tells, and remembers when it is started again.
    let two = rig.server("two").await;
    two.assign_as(1, 2, WriterId([2; 16])).await.unwrap();
    agent.connect_to(two.plane.address());
    agent.wait_committed(agent.mark(MarkKind::App)).await;
    store.damage(&name, with_another_last_byte(&whole));
    two.plane.execute(Command::Scrub { machine: machine(1) }).await.expect("it is taken");
    until("the damage is told", async || damaged_objects(&two.status(1).await.unwrap()).is_some()).await;
    let status = two.status(1).await.unwrap();
    assert_eq!((status.scrub.damaged_objects, &status.scrub.damaged[0].object), (1, &name.to_string()));
    assert!(status.scrub.touched_points > 0 && status.scrub.damaged[0].newest_touched.is_some(), "{:?}", status.scrub);
    assert!(
        damaged_objects(&status).is_some_and(|text| text.contains("there is no copy of it")),
        "{:?}",
        status.health
    );
    assert!(two.plane.stop().await);

    let two = rig.server("two").await;
    two.assign_as(1, 2, WriterId([2; 16])).await.unwrap();
    until("it is still known", async || damaged_objects(&two.status(1).await.unwrap()).is_some()).await;
    store.damage(&name, Some(whole));
    until("it is put right", async || damaged_objects(&two.status(1).await.unwrap()).is_none()).await;
    rig.chaos.arm(ActorKind::Scrubber, Some(machine(1))).unwrap();
    until("it lives again", async || two.status(1).await.unwrap().actors[&ActorKind::Scrubber].restarts == 1).await;
    agent.connect_to(two.plane.address());
    agent.wait_committed(agent.mark(MarkKind::App)).await;
    assert_eq!(two.status(1).await.unwrap().actors[&ActorKind::Machine].restarts, 0);
    rig.check_points(1, &agent).await;
    assert!(two.plane.stop().await);
}

#[actix::test]
async fn a_damaged_run_is_made_again_from_what_it_was_merged_from() {
    let store = Arc::new(MemoryStore::new());
    let mut rig = Rig::with_store(store.clone());
    rig.limits.scrubbing.tick = Duration::from_millis(20);
    rig.limits.merging.tick = Duration::from_millis(20);
    rig.limits.merging.policy.live_segments_max = 8;
    let mut one = rig.server("one").await;
    one.assign(1, 1).await.unwrap();
    one.plane
        .execute(Command::SetRetention { machine: machine(1), ladder: Ladder::default() })
        .await
        .expect("it is taken");
    let agent = rig.agent(&one, 1, &[256 << 10]);
    let runs = async || {
        let parts = store.list(&runs_prefix(machine(1), TIMELINE), None, 1000).await.expect("it lists");
        parts.into_iter().map(|line| line.name).collect::<Vec<_>>()
    };
    while one.status(1).await.unwrap().merging.merges == 0 {
        agent.write(1);
        agent.wait_committed(agent.mark(MarkKind::App)).await;
    }
    let name = runs().await[0].clone();
    let (whole, _) = store.get(&name).await.expect("there");
    store.damage(&name, with_another_last_byte(&whole));
    one.plane.execute(Command::Scrub { machine: machine(1) }).await.expect("it is taken");
    let told = |kind: &DataEventKind| matches!(kind, DataEventKind::ObjectsRepaired { objects, how } if objects == &[name.to_string()] && how.starts_with("made again"));
    until("it is made again", async || one.told().iter().any(told)).await;
    until("nothing is damaged", async || damaged_objects(&one.status(1).await.unwrap()).is_none()).await;
    let (found, _) = store.get(&name).await.expect("it waits for its grace");
    assert_eq!(Some(found), with_another_last_byte(&whole), "and is not what is read");
    rig.check_points(1, &agent).await;
    assert!(one.plane.stop().await);
}

#[actix::test]
async fn what_an_owner_before_found_damaged_is_looked_at_first() {
    let store = Arc::new(MemoryStore::new());
    let mut rig = Rig::with_store(store.clone());
    rig.limits.scrubbing.tick = Duration::from_millis(20);
    // Its slice will not come soon.
    rig.limits.scrubbing.slices = 1 << 20;
    let one = rig.server("one").await;
    one.assign(1, 1).await.unwrap();
    let agent = rig.agent(&one, 1, &[256 << 10]);
    agent.load(|agent| agent.committed() > Lsn(200)).await;
    assert!(one.plane.stop().await);
    let name = ObjectName::log(machine(1), TIMELINE, Slot(2));
    let (whole, _) = store.get(&name).await.expect("there");
    store.damage(&name, with_another_last_byte(&whole));
    let two = rig.server("two").await;
    let doubted = vec![name.to_string(), "no such thing".into()];
    two.assign_doubting(1, 2, WriterId([2; 16]), doubted).await.unwrap();
    until("the damage is told", async || damaged_objects(&two.status(1).await.unwrap()).is_some()).await;
    store.damage(&name, Some(whole));
    until("it is put right", async || damaged_objects(&two.status(1).await.unwrap()).is_none()).await;
    assert!(two.plane.stop().await);
}
