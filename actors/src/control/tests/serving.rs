use super::*;
use crate::control::fault::FaultCode;
use crate::control::ledger::records::ServedState;
use crate::control::view::ServeRequest;
use farshore_engine::record::MarkKind;

fn newest(machine: MachineId) -> ServeRequest {
    ServeRequest { machine, selector: PointSelector::Newest, disks: vec![], read_only: false, test: false }
}

#[actix::test]
async fn a_point_is_listed_marked_served_and_stopped() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let plane = installation.plane();
    assert_eq!(plane.points(machine.id, None, 10).await.expect("listed").points.len(), 1);
    assert_eq!(plane.mark(machine.id, MarkKind::Crash, "now".into()).await, Ok(MarkId([4; 16])));

    let begun = plane.begin_serve(&operator(), newest(machine.id)).await.expect("begun");
    assert_eq!(installation.over(begun.job.id).await.state, JobState::Done);
    let served = plane.served_point(begun.serve.expect("a number")).expect("known");
    assert_eq!((served.state, served.exports.len()), (ServedState::Serving, 1));
    assert_eq!(served.point.expect("chosen").label, "before the upgrade");

    let stop = plane.begin_stop_serving(&operator(), served.id, String::new()).await.expect("begun");
    assert_eq!(installation.over(stop.job.id).await.state, JobState::Done);
    assert_eq!(plane.served_point(served.id).expect_err("gone").code, FaultCode::ServedPointUnknown);
    assert_eq!(one.port.set(|inner| inner.serving.len()), 0);
}

#[actix::test]
async fn what_heartbeats_and_the_ledger_disagree_on_is_put_right() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    let plane = installation.plane();
    let begun = plane.begin_serve(&operator(), newest(machine.id)).await.expect("begun");
    assert_eq!(installation.over(begun.job.id).await.state, JobState::Done);
    // The process server was restarted: it serves nothing any more, but something that nobody asked for.
    one.port.set(|inner| inner.serving = vec![4711]);
    until("what is gone is forgotten", || plane.served_points(None, 10).items.is_empty().then_some(())).await;
    until("what nobody asked for is stopped", || (one.port.heard("stop 4711") == 1).then_some(())).await;
}

#[actix::test]
async fn events_of_members_are_kept_and_pages_end() {
    let installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let event = |n: u32| MemberEvent {
        at: wall_clock(),
        severity: Severity::Warning,
        code: format!("told_{n}"),
        text: "something\nhappened".into(),
    };
    one.port.set(|inner| inner.events = (0..7).map(event).collect());
    let plane = installation.plane();
    let filter = crate::control::view::EventFilter { severity: Some(Severity::Warning), machine: None };
    let told = |plane: &ControlPlane| {
        let (mut before, mut codes) = (None, Vec::new());
        loop {
            let page = plane.events(before, 2, &filter);
            codes.extend(page.items.iter().map(|event| event.code.clone()));
            match page.next {
                Some(_) => before = page.items.last().map(|event| event.id),
                None => return codes,
            }
        }
    };
    let codes = until("all are there", || Some(told(&plane)).filter(|codes| codes.len() >= 7)).await;
    assert_eq!(codes, ["told_6", "told_5", "told_4", "told_3", "told_2", "told_1", "told_0"]);
}
