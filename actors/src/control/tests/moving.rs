use super::*;
use crate::control::ledger::records::JobStep;

#[actix::test]
async fn a_machine_waits_for_a_process_server_and_is_redirected_to_the_first_that_joins() {
    let installation = Installation::start().await;
    let machine = installation.enrol("db / main").await;
    let mut agent = machine.agent(1);
    agent.connected().await;
    agent.handle.say(FromMember::Where).expect("open");
    let ToMember::NotProtected(not) = agent.message().await else { panic!("nobody is there") };
    assert_eq!(not.reason, NotProtectedReason::NoProcessServer);

    let server = installation.join("ps-one").await;
    let ToMember::Redirect(told) = agent.message().await else { panic!("a redirect") };
    assert_eq!((told.epoch, told.process_server), (Epoch(1), server.id));
    assert_eq!(told.addresses, server.address);
    assert_eq!(told.timeline, machine.grant.timeline);
    let key = server.port.set(|inner| inner.keys.get(&machine.id).cloned());
    assert_eq!(key.as_ref(), Some(&machine.grant.data_key), "the owner has the key that the agent has");
    assert!(
        installation.server().plane().machine(machine.id).expect("known").health
            <= crate::control::health::Health::Warning
    );
}

#[actix::test]
async fn a_move_releases_the_source_and_redirects_the_agent() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    assert_eq!(installation.epoch_of(machine.id, one.id).await, Epoch(1));
    let two = installation.join("ps-22").await;
    let mut agent = machine.agent(1);
    agent.connected().await;
    assert_eq!(agent.assigned(Epoch(1)).await.process_server, one.id);

    let begun = installation.plane().begin_move(&operator(), machine.id, two.id).await.expect("begun");
    let job = installation.over(begun.job.id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    let steps: Vec<JobStep> = job.done.iter().map(|done| done.step).collect();
    let all = [JobStep::Prepare, JobStep::Release, JobStep::Assign, JobStep::Adopt, JobStep::Redirect];
    assert_eq!(steps, all);
    let ToMember::Redirect(told) = agent.message().await else { panic!("a redirect") };
    assert_eq!((told.epoch, told.process_server), (Epoch(2), two.id));
    assert_eq!((one.port.heard("release 1"), two.port.heard("assign 2")), (1, 1));
    assert_eq!(one.port.heard("redirect 2"), 1, "an agent without a control session hears it from the source");
    assert_eq!(one.port.epoch(machine.id), None);
}

#[actix::test]
async fn what_one_owner_found_damaged_the_next_looks_at_first_even_where_the_first_is_dead() {
    let installation = Installation::start().await;
    let mut one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let two = installation.join("ps-22").await;
    one.port.set(|inner| inner.damaged.push("log/7".into()));
    let plane = installation.plane();
    until("the damage is known", || {
        let report = plane.machine(machine.id).expect("known").at_owner?;
        (!report.scrub?.damaged.is_empty()).then_some(())
    })
    .await;
    one.link = None;
    until("the source is away", || {
        (plane.process_server(one.id).expect("known").reach == crate::control::live::Reach::Away).then_some(())
    })
    .await;
    let begun = plane.begin_move(&operator(), machine.id, two.id).await.expect("begun");
    installation.over(begun.job.id).await;
    assert_eq!(two.port.heard("assign 2 doubting [\"log/7\"]"), 1);
}

#[actix::test]
async fn a_move_from_a_dead_source_skips_the_release() {
    let installation = Installation::start().await;
    let mut one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let two = installation.join("ps-22").await;
    one.link = None;
    let plane = installation.plane();
    until("the source is away", || {
        (plane.process_server(one.id).expect("known").reach == crate::control::live::Reach::Away).then_some(())
    })
    .await;
    let begun = plane.begin_move(&operator(), machine.id, two.id).await.expect("begun");
    let job = installation.over(begun.job.id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(one.port.heard("release"), 0);
    // When it comes back it is told that the machine is no longer its own.
    one.connect().await;
    until("the old owner lets go", || (one.port.heard("release 1") == 1).then_some(())).await;
    assert_eq!(installation.epoch_of(machine.id, two.id).await, Epoch(2));
}

#[actix::test]
async fn a_move_to_a_server_that_is_away_fails_at_once_and_changes_nothing() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let mut two = installation.join("ps-22").await;
    two.link = None;
    let plane = installation.plane();
    until("it is away", || {
        (plane.process_server(two.id).expect("known").reach == crate::control::live::Reach::Away).then_some(())
    })
    .await;
    let begun = plane.begin_move(&operator(), machine.id, two.id).await.expect("begun");
    let job = installation.over(begun.job.id).await;
    assert_eq!(job.state, JobState::Failed);
    assert_eq!(one.port.heard("release"), 0);
    assert_eq!(installation.epoch_of(machine.id, one.id).await, Epoch(1));
}

#[actix::test]
async fn a_machine_whose_target_cannot_adopt_goes_back_to_its_source() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let two = installation.join("ps-22").await;
    two.port.set(|inner| inner.refuses_assign = true);
    let begun = installation.plane().begin_move(&operator(), machine.id, two.id).await.expect("begun");
    let job = installation.over(begun.job.id).await;
    assert_eq!(job.state, JobState::Failed, "{job:?}");
    assert_eq!(installation.epoch_of(machine.id, one.id).await, Epoch(3));
    assert_eq!(one.port.epoch(machine.id), Some(Epoch(3)));
}

#[actix::test]
async fn a_move_goes_on_after_the_configuration_server_was_restarted_in_the_middle() {
    let mut installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let two = installation.join("ps-22").await;
    two.port.set(|inner| inner.never_answers_assign = true);
    let begun = installation.plane().begin_move(&operator(), machine.id, two.id).await.expect("begun");
    until("the target is asked", || (two.port.heard("assign, unanswered") > 0).then_some(())).await;
    installation.stop().await;
    two.port.set(|inner| inner.never_answers_assign = false);
    installation.start_again().await;
    let job = installation.over(begun.job.id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(installation.epoch_of(machine.id, two.id).await, Epoch(2), "the persisted assignment was gone on with");
    assert_eq!(one.port.heard("release"), 1, "steps that were over were not taken again");
}

#[actix::test]
async fn a_log_that_knows_a_higher_epoch_gets_one_above_it() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    one.port.set(|inner| inner.highest = Some(Epoch(40)));
    let machine = installation.enrol("m").await;
    assert_eq!(installation.epoch_of(machine.id, one.id).await, Epoch(41));
}

#[actix::test]
async fn a_process_server_that_lost_a_machine_gets_it_again_under_a_higher_epoch() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    one.port.set(|inner| inner.owned.clear());
    until("it is assigned again", || (one.port.epoch(machine.id) == Some(Epoch(2))).then_some(())).await;
    one.port.set(|inner| inner.owned.insert(machine.id, (Epoch(2), MachineState::Locked)));
    until("its key comes again", || (one.port.heard("assign 2") == 2).then_some(())).await;
    assert_eq!(installation.epoch_of(machine.id, one.id).await, Epoch(2));
}

#[actix::test]
async fn a_removed_machine_is_released_and_its_agent_told() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let mut agent = machine.agent(1);
    agent.connected().await;
    let plane = installation.plane();
    until("its protect job is over", || {
        plane.jobs(None, 10, Some(machine.id)).items.iter().all(|job| job.state == JobState::Done).then_some(())
    })
    .await;
    plane.remove_machine(&operator(), machine.id).await.expect("removed");
    loop {
        if let SessionEvent::Disconnected { error: LinkError::Refused(refusal), .. } = agent.next().await {
            assert_eq!(refusal.code, RefusalCode::MemberRemoved);
            break;
        }
    }
    until("its owner lets go", || (one.port.heard("release 1") == 1).then_some(())).await;
    assert!(plane.machines(None, 10, false).items.is_empty());
}
