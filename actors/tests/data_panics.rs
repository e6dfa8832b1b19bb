//! A panic in any actor is healed without loss, and without the neighbours noticing.

mod data_rig;

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use data_rig::agent::Ack;
use data_rig::{Rig, machine, until};
use farshore_actors::data::{DataEventKind, IssueCode, MachinePhase};
use farshore_actors::supervise::{ActorKind, ChildState, RestartPolicy, wall_clock};
use farshore_engine::ids::Lsn;
use farshore_engine::record::MarkKind;
use farshore_engine::vault::store::folder::FolderStore;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const KINDS: [ActorKind; 5] =
    [ActorKind::AgentSession, ActorKind::Disk, ActorKind::UploadStream, ActorKind::Machine, ActorKind::ProcessServer];

#[actix::test]
async fn a_panic_in_each_kind_of_actor_under_load_is_healed_without_loss() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10, 128 << 10]);
    let done = Cell::new(false);
    let panics = async {
        for kind in KINDS.iter().chain(&KINDS) {
            let before = agent.committed();
            until("writes get through", async || agent.committed() > before).await;
            let target = (*kind != ActorKind::ProcessServer).then(|| machine(1));
            rig.chaos.arm(*kind, target).unwrap();
            until(&format!("{kind:?} panics"), async || {
                // Asking is a message too: a process server that hears nothing cannot panic at it.
                drop(server.plane.report().await);
                rig.chaos.waiting() == 0
            })
            .await;
        }
        done.set(true);
    };
    let (load, ()) = tokio::join!(agent.load(|_| done.get()), panics);
    assert!(load > Lsn(100), "there was load: {load}");
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert_eq!(rig.chaos.fired(), 10);
    assert_eq!(rig.check_points(1, &agent).await, agent.taken().len(), "every mark is a point");
    let report = server.plane.report().await.unwrap();
    assert_eq!(report.process_server.restarts, 2);
    let status = server.status(1).await.unwrap();
    for kind in &KINDS[..4] {
        let actor = &status.actors[kind];
        assert!(actor.restarts >= 2, "{kind:?}: {actor:?}");
        assert_eq!(actor.state, ChildState::Alive, "{kind:?}");
    }
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn every_mark_is_told_as_committed_though_the_upload_stream_dies_again_and_again() {
    let rig = Rig::new();
    let mut server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    let done = Cell::new(false);
    let panics = async {
        for _ in 0..25 {
            let before = agent.committed();
            until("writes get through", async || agent.committed() > before).await;
            rig.chaos.arm(ActorKind::UploadStream, Some(machine(1))).unwrap();
            until("the stream panics", async || rig.chaos.waiting() == 0).await;
        }
        done.set(true);
    };
    tokio::join!(agent.load(|_| done.get()), panics);
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    let told: Vec<_> = server
        .told()
        .into_iter()
        .filter_map(|kind| match kind {
            DataEventKind::MarkCommitted { mark, .. } => Some(mark.id),
            _ => None,
        })
        .collect();
    let taken: Vec<_> = agent.taken().iter().map(|taken| taken.id).collect();
    assert_eq!(told, taken, "each mark once, in order");
    assert!(server.plane.stop().await);
}

/// Replay: `FARSHORE_SEED=<the printed seed> cargo test -p farshore-actors --test data_panics fifty`.
#[actix::test]
async fn fifty_random_panics_under_load_over_a_folder_vault_are_healed_without_loss() {
    let drawn = std::env::var("FARSHORE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = drawn.unwrap_or_else(|| wall_clock().0.unsigned_abs());
    println!("FARSHORE_SEED={seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let vault = tempfile::TempDir::new().unwrap();
    let store = FolderStore::open(vault.path(), tokio::runtime::Handle::current()).unwrap();
    let rig = Rig::with_store(Arc::new(store));
    let server = rig.server("one").await;
    let mut agents = Vec::new();
    for n in [1, 2] {
        server.assign(n, 1).await.unwrap();
        agents.push(rig.agent(&server, n, &[128 << 10, 64 << 10]));
    }
    let done = Cell::new(false);
    let panics = async {
        until("both write", async || agents.iter().all(|agent| agent.committed() > Lsn(20))).await;
        for _ in 0..50 {
            let kind = KINDS[rng.random_range(0..KINDS.len())];
            let target = (kind != ActorKind::ProcessServer).then(|| machine(rng.random_range(1..=2)));
            rig.chaos.arm(kind, target).unwrap();
            until(&format!("{kind:?} of {target:?} panics"), async || {
                drop(server.plane.report().await);
                rig.chaos.waiting() == 0
            })
            .await;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..60))).await;
        }
        done.set(true);
    };
    tokio::join!(agents[0].load(|_| done.get()), agents[1].load(|_| done.get()), panics);
    for (n, agent) in [1, 2].into_iter().zip(&agents) {
        let last = agent.mark(MarkKind::App);
        agent.wait_committed(last).await;
        assert_eq!(rig.check_points(n, agent).await, agent.taken().len(), "machine {n}: {:?}", agent.trouble());
    }
    assert_eq!(rig.chaos.fired(), 50);
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn killing_one_machines_actors_leaves_the_acks_of_another_uninterrupted() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    server.assign(2, 1).await.unwrap();
    let victim = rig.agent(&server, 1, &[128 << 10]);
    let neighbour = rig.agent(&server, 2, &[128 << 10]);
    let (began, done) = (Cell::new(0), Cell::new(false));
    let panics = async {
        until("both write", async || victim.committed() > Lsn(50) && neighbour.committed() > Lsn(50)).await;
        // The same load without a panic, to compare with.
        let calm = neighbour.acks().len();
        until("a while passes", async || neighbour.acks().len() > calm + 20).await;
        began.set(neighbour.acks().len());
        for kind in KINDS[..4].iter().cycle().take(20) {
            rig.chaos.arm(*kind, Some(machine(1))).unwrap();
            until(&format!("{kind:?} panics"), async || rig.chaos.waiting() == 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        done.set(true);
    };
    tokio::join!(victim.load(|_| done.get()), neighbour.load(|_| done.get()), panics);
    let acks = neighbour.acks();
    let largest_gap = |acks: &[Ack]| acks.windows(2).map(|pair| pair[1].at.duration_since(pair[0].at)).max();
    let before = largest_gap(&acks[..began.get()]).unwrap();
    let largest = largest_gap(&acks[began.get() - 1..]).unwrap();
    println!("largest gap in a neighbour's acks: {before:?} before, {largest:?} while 20 actors were killed");
    assert!(largest < Duration::from_secs(5), "{largest:?}");
    assert_eq!(neighbour.sessions(), 1, "{:?}", neighbour.trouble());
    let status = server.status(2).await.unwrap();
    assert!(status.actors.values().all(|actor| actor.restarts == 0), "{:?}", status.actors);
    for agent in [&victim, &neighbour] {
        let last = agent.mark(MarkKind::App);
        agent.wait_committed(last).await;
    }
    assert_eq!(rig.check_points(1, &victim).await, victim.taken().len());
    assert_eq!(rig.check_points(2, &neighbour).await, neighbour.taken().len());
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn every_committed_frame_passed_the_disk_and_upload_stream_actors_of_its_machine() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    for n in [1, 2] {
        server.assign(n, 1).await.unwrap();
    }
    let agents = [rig.agent(&server, 1, &[256 << 10, 64 << 10]), rig.agent(&server, 2, &[128 << 10])];
    for agent in &agents {
        for _ in 0..100 {
            agent.write(5);
        }
        let last = agent.mark(MarkKind::App);
        agent.wait_committed(last).await;
    }
    for (n, agent) in [1, 2].into_iter().zip(&agents) {
        assert_eq!(agent.sessions(), 1);
        let reader = rig.reader(n).await;
        let mut in_vault = std::collections::BTreeMap::<_, u64>::new();
        for frame in reader.segments().iter().flat_map(|segment| &segment.footer.frames) {
            *in_vault.entry(frame.disk).or_default() += 1;
        }
        let status = server.status(n).await.unwrap();
        let sealed: std::collections::BTreeMap<_, u64> =
            status.disks.iter().map(|(disk, counts)| (*disk, counts.frames)).collect();
        assert!(in_vault.values().sum::<u64>() >= 100, "{in_vault:?}");
        assert_eq!(sealed, in_vault, "the disk actors sealed each frame, once");
        assert_eq!(status.uploads.frames, in_vault.values().sum::<u64>(), "the upload stream committed each frame");
    }
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn a_restart_storm_escalates_to_critical_health_and_rests_before_it_is_tried_again() {
    let mut rig = Rig::new();
    rig.limits.restarts = RestartPolicy { restarts_max: 2, ..RestartPolicy::default() };
    rig.limits.storm_rest = Duration::from_millis(1500);
    let mut server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[128 << 10]);
    let last = agent.write(4);
    agent.wait_committed(last).await;
    for _ in 0..3 {
        rig.chaos.arm(ActorKind::Machine, Some(machine(1))).unwrap();
    }
    agent.write(1);
    until("the machine is given up", async || {
        server.status(1).await.is_some_and(|status| status.health.iter().any(|i| i.code == IssueCode::RestartStorm))
    })
    .await;
    let storm = |kind: &DataEventKind| {
        matches!(kind, DataEventKind::Restarted { kind: ActorKind::Machine, given_up: true, .. })
    };
    assert!(server.told().iter().any(storm));
    server.wait_phase(1, MachinePhase::Ready).await;
    until("health is normal again", async || server.status(1).await.is_some_and(|status| status.health.is_empty()))
        .await;
    let last = agent.mark(MarkKind::App);
    agent.wait_committed(last).await;
    assert_eq!(rig.check_points(1, &agent).await, 1);
    assert!(server.plane.stop().await);
}
