//! What a process server asks of its vault, counted: an idle machine costs next to nothing, an active one a segment per
//! seal interval.

mod data_rig;

use std::time::{Duration, Instant};

use data_rig::{Rig, Server, agent::Agent, machine, until};
use farshore_actors::data::{MachinePhase, MergingLimits};
use farshore_engine::control::messages::Command;
use farshore_engine::record::MarkKind;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::store::metered::StoreCounts;

/// Requests that an idle machine may cost in an hour.
const IDLE_PER_HOUR_MAX: f64 = 60.0;

async fn protected(rig: &Rig) -> (Server, Agent) {
    let server = rig.server("one").await;
    server.assign(1, 1).await.expect("assigned");
    server.wait_phase(1, MachinePhase::Ready).await;
    let agent = rig.agent(&server, 1, &[256 << 10]);
    agent.write(8);
    agent.wait_committed(agent.mark(MarkKind::App)).await;
    let keep = Command::SetRetention { machine: machine(1), ladder: Ladder::default() };
    server.plane.execute(keep).await.expect("retention set");
    (server, agent)
}

/// What the process server has asked of its vault.
async fn asked(server: &Server) -> StoreCounts {
    server.plane.heartbeat().await.expect("it answers").store
}

/// Waits until the vault was looked at once more.
async fn one_more_look(server: &Server) {
    let looked = async || server.status(1).await.and_then(|status| status.merging.looked_at);
    let before = looked().await;
    until("the vault is looked at once more", async || looked().await > before).await;
}

#[actix::test]
async fn an_idle_machine_asks_the_vault_for_nothing_between_looks_and_a_look_costs_little() {
    let mut rig = Rig::new();
    rig.limits.merging.tick = Duration::from_millis(20);
    let (server, agent) = protected(&rig).await;
    one_more_look(&server).await;
    // What the last segment made due may take another look; after that there is nothing to ask for a hundred ticks of the
    // compactor and forty of the process server, whose default periods are 10 s and 1 s.
    let mut asked_in = Vec::new();
    for _ in 0..3 {
        let (before, began) = (asked(&server).await, Instant::now());
        until("a hundred ticks have passed", async || {
            agent.say_idle();
            began.elapsed() >= 100 * rig.limits.merging.tick
        })
        .await;
        asked_in.push(asked(&server).await.since(&before).calls());
    }
    assert_eq!(asked_in[2], 0, "an idle machine asks nothing between looks: {asked_in:?}");
    assert!(server.plane.stop().await);

    let mut rig = Rig::new();
    rig.limits.merging.tick = Duration::from_millis(20);
    rig.limits.merging.idle = Duration::from_millis(100);
    let (server, _agent) = protected(&rig).await;
    one_more_look(&server).await;
    let before = asked(&server).await;
    let looks = 10;
    for _ in 0..looks {
        one_more_look(&server).await;
    }
    let calls = asked(&server).await.since(&before);
    let per_look = calls.calls() as f64 / f64::from(looks);
    let per_hour = per_look * 3600.0 / MergingLimits::default().idle.as_secs_f64();
    println!("{per_look} calls per look, {per_hour} per machine-hour: {calls:?}");
    assert!(calls.calls() > 0, "looks that ask nothing are not counted");
    assert!(per_hour <= IDLE_PER_HOUR_MAX, "{per_look} calls per look are {per_hour} per hour: {calls:?}");
    assert!(server.plane.stop().await);
}

#[actix::test]
async fn an_active_machine_creates_at_most_one_object_per_seal_interval_and_asks_nothing_else() {
    let mut rig = Rig::new();
    // What is written here closes no segment by its size.
    rig.limits.sequencer.segment_bytes_max = 4 << 20;
    let interval = rig.limits.sequencer.seal_interval;
    let (server, agent) = protected(&rig).await;
    one_more_look(&server).await;
    let (before, began) = (asked(&server).await, Instant::now());
    while began.elapsed() < 20 * interval {
        agent.write(1);
        agent.wait_durable(agent.mark(MarkKind::Crash)).await;
    }
    agent.wait_committed(agent.mark(MarkKind::Crash)).await;
    let calls = asked(&server).await.since(&before);
    let intervals = began.elapsed().as_nanos() / interval.as_nanos() + 1;
    println!("{intervals} seal intervals: {calls:?}");
    assert!(calls.publishes > 0);
    assert!(u128::from(calls.publishes) <= intervals, "more than one object per seal interval: {calls:?}");
    assert_eq!(calls.calls(), calls.stages + calls.publishes, "only creates: {calls:?}");
    assert_eq!(calls.stages, calls.publishes, "each segment is brought once: {calls:?}");
    assert!(server.plane.stop().await);
}
