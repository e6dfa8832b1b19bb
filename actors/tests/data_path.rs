//! The path of a write through the process server: from an agent's connection to a point that can be read.

mod data_rig;

use data_rig::{Rig, machine};
use farshore_actors::data::{DataEventKind, MachinePhase};
use farshore_engine::control::messages::{Command, CommandResult};
use farshore_engine::ids::Lsn;
use farshore_engine::record::MarkKind;

#[actix::test]
async fn a_write_becomes_durable_then_committed_then_a_point_that_reads_back() {
    let rig = Rig::new();
    let mut server = rig.server("one").await;
    let adopted = server.assign(1, 1).await.unwrap();
    assert!(matches!(adopted, CommandResult::Assigned { committed: Lsn::ZERO, .. }), "{adopted:?}");
    let agent = rig.agent(&server, 1, &[256 << 10, 64 << 10]);
    for _ in 0..20 {
        agent.write(8);
        agent.mark(MarkKind::Crash);
    }
    let last = agent.mark(MarkKind::App);
    agent.wait_durable(last).await;
    agent.wait_committed(last).await;
    assert_eq!(rig.check_points(1, &agent).await, 21);
    let status = server.status(1).await.unwrap();
    assert_eq!((status.phase, status.durable, status.committed), (MachinePhase::Ready, last, last));
    assert_eq!(status.newest_mark.unwrap().lsn, last);
    assert_eq!(status.health, []);
    assert!(status.session.is_some());
    let marks = server.told().into_iter().filter(|kind| matches!(kind, DataEventKind::MarkCommitted { .. })).count();
    assert_eq!(marks, 21);
    let list = Command::ListPoints {
        machine: machine(1),
        timeline: data_rig::TIMELINE,
        before: None,
        limit: 5,
        data_key: None,
    };
    let CommandResult::Points(page) = server.plane.execute(list).await.unwrap() else { panic!("points") };
    assert_eq!(page.points.len(), 5);
    assert_eq!(page.points[0].lsn, last);
    assert!(server.plane.stop().await);
}
