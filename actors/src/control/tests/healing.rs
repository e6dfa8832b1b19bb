use super::*;
use crate::control::health::Health;
use crate::supervise::ActorKind;

#[actix::test]
async fn panics_in_orchestrator_link_and_job_are_healed_and_the_move_is_done() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let two = installation.join("ps-22").await;
    let plane = installation.plane();
    let (mut owner, mut target, mut epoch) = (one.id, two.id, 1);
    for kind in [ActorKind::Job, ActorKind::ProcessServerLink, ActorKind::Orchestrator] {
        connected(&plane, &[one.id, two.id]).await;
        let begun = plane.begin_move(&operator(), machine.id, target).await.expect("begun");
        installation.chaos.arm(kind, None).expect("enabled");
        let job = installation.over(begun.job.id).await;
        until("the panic has gone off", || (installation.chaos.waiting() == 0).then_some(())).await;
        assert_eq!(job.state, JobState::Done, "{kind:?}: {job:?}");
        epoch += 1;
        assert_eq!(installation.epoch_of(machine.id, target).await, Epoch(epoch), "{kind:?}");
        (owner, target) = (target, owner);
    }
    assert_eq!(installation.chaos.fired(), 3);
    assert_eq!(*installation.server().failed().borrow(), None);
}

async fn connected(plane: &ControlPlane, servers: &[ProcessServerId]) {
    until("both are connected", || {
        let reach = |id: &ProcessServerId| plane.process_server(*id).expect("known").reach;
        servers.iter().all(|id| reach(id) == crate::control::live::Reach::Connected).then_some(())
    })
    .await;
}

#[actix::test]
async fn everything_is_there_again_after_a_restart_and_members_come_back() {
    let mut installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let mut agent = machine.agent(1);
    agent.connected().await;
    let token = std::fs::read_to_string(installation.server().admin_token_file()).expect("a token");
    assert!(installation.server.as_mut().expect("runs").take_first_start().is_some(), "the recovery key is shown once");
    installation.stop().await;
    installation.start_again().await;
    let server = installation.server.as_mut().expect("runs");
    assert!(server.take_first_start().is_none());
    let again = std::fs::read_to_string(server.admin_token_file()).expect("a token");
    assert_eq!(again, token, "a valid local token is kept");
    let plane = installation.plane();
    assert_eq!(plane.caller(&token).map(|caller| caller.role), Some(ApiRole::Admin));
    agent.connected().await;
    assert_eq!(agent.assigned(Epoch(1)).await.epoch, Epoch(1));
    connected(&plane, &[one.id]).await;
    until("the machine's owner is known again", || plane.machine(machine.id).expect("known").at_owner.map(drop)).await;
    assert_eq!(one.port.heard("assign"), 1, "nothing was assigned again");
}

#[actix::test]
async fn an_admin_token_that_is_gone_is_made_anew() {
    let mut installation = Installation::start().await;
    let path = installation.server().admin_token_file().to_owned();
    let before = std::fs::read_to_string(&path).expect("a token");
    installation.stop().await;
    std::fs::remove_file(&path).expect("removed");
    installation.start_again().await;
    let after = std::fs::read_to_string(&path).expect("a token");
    assert_ne!(before, after);
    assert!(installation.plane().caller(&after).is_some());
}

#[actix::test]
async fn health_says_what_is_wrong_and_rpo_is_shown() {
    let installation = Installation::start().await;
    assert_eq!(installation.plane().health().health, Health::Warning, "no process server has joined");
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let plane = installation.plane();
    let view = until("a heartbeat names it", || {
        let view = plane.machine(machine.id).expect("known");
        view.rpo.is_some().then_some(view)
    })
    .await;
    assert!(view.rpo.expect("shown") < Duration::from_secs(30));
    one.port.set(|inner| inner.owned.insert(machine.id, (Epoch(1), MachineState::AgentAway)));
    let view = until("its agent is away", || {
        let view = plane.machine(machine.id).expect("known");
        (view.health == Health::Critical).then_some(view)
    })
    .await;
    assert_eq!(view.issues[0].code, "agent_away");
    assert!(!view.issues[0].remedy.is_empty());
    assert_eq!(plane.health().master_target, "not_available_yet");
}
