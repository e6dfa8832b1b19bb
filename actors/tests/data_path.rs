//! The path of a write through the process server: from an agent's connection to a point that can be read.

mod data_rig;

use data_rig::{Rig, machine};
use farshore_actors::data::{DataEventKind, MachinePhase};
use farshore_engine::control::messages::{Command, CommandResult};
use farshore_engine::ids::{Lsn, Slot};
use farshore_engine::record::MarkKind;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::segment::{Codec, Footer, Packing};

#[actix::test]
async fn frames_follow_the_packing_that_is_set_from_the_next_segment_on_and_all_of_them_read_back() {
    let rig = Rig::new();
    let server = rig.server("one").await;
    server.assign(1, 1).await.unwrap();
    let agent = rig.agent(&server, 1, &[256 << 10]);
    for packing in [Packing::Snappy, Packing::Zstd(3), Packing::Zstd(9), Packing::Snappy] {
        let set = Command::SetPacking { machine: machine(1), packing };
        assert_eq!(server.plane.execute(set).await.unwrap(), CommandResult::Done);
        // The first closes the segment that was open, the second is in one of its own.
        for _ in 0..2 {
            for _ in 0..20 {
                agent.write(8);
            }
            agent.wait_committed(agent.mark(MarkKind::App)).await;
        }
        assert_eq!(server.status(1).await.unwrap().packing, packing);
    }
    assert_eq!(rig.check_points(1, &agent).await, 8);
    let mut codecs = Vec::new();
    for slot in 0.. {
        let name = ObjectName::log(machine(1), data_rig::TIMELINE, Slot(slot));
        let Ok((object, _)) = rig.store.get(&name).await else { break };
        let footer = Footer::of_object(&data_rig::key(1), machine(1), data_rig::TIMELINE, &object).unwrap();
        codecs.extend(footer.frames.iter().map(|frame| frame.codec).find(|codec| *codec != Codec::Raw));
    }
    codecs.dedup();
    assert_eq!(codecs, [Codec::Snappy, Codec::Zstd, Codec::Snappy]);
    assert!(server.plane.stop().await);
}

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
