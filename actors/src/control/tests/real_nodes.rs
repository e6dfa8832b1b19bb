//! The same with real data planes behind the links.

use std::path::PathBuf;

use super::*;
use crate::control::node::{NodeConfig, NodeError, ProcessServerNode};
use crate::data::DataLimits;

struct Rig {
    installation: Installation,
}

impl Rig {
    fn config(&self, name: &str, join: Option<JoinTicketIn>) -> NodeConfig {
        let vault = self.installation.dir.path().join("vault");
        NodeConfig {
            dir: self.dir(name),
            name: name.into(),
            join,
            control_addresses: vec![],
            replication_listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            replication_addresses: vec![],
            vault: Arc::new(FolderStore::open(&vault, tokio::runtime::Handle::current()).expect("a folder")),
            limits: DataLimits { arbiters: 1, file_threads: 1, ..DataLimits::default() },
            chaos: self.installation.chaos.clone(),
            program_version: "test".into(),
            log: log(),
        }
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.installation.dir.path().join(name)
    }

    async fn join(&self, name: &str) -> ProcessServerNode {
        let ticket = self.installation.ticket(MemberRole::ProcessServer).await;
        let join = JoinTicketIn {
            control_addresses: ticket.control_addresses,
            token: JoinSecret::new(ticket.token.as_str()),
            authority: ticket.authority_fingerprint.parse().expect("a fingerprint"),
        };
        ProcessServerNode::start(self.config(name, Some(join))).await.expect("starts")
    }
}

#[actix::test]
async fn a_machine_is_adopted_moved_and_found_again_by_real_process_servers() {
    let rig = Rig { installation: Installation::start().await };
    let installation = &rig.installation;
    let one = rig.join("ps-1").await;
    let machine = installation.enrol("m").await;
    assert_eq!(installation.epoch_of(machine.id, one.id()).await, Epoch(1));
    let plane = installation.plane();
    assert_eq!(plane.points(machine.id, None, 10).await.expect("listed").points, []);

    let two = rig.join("ps-2").await;
    let id = two.id();
    let begun = plane.begin_move(&operator(), machine.id, id).await;
    let job = installation.over(begun.expect("begun").job.id).await;
    assert_eq!(job.state, JobState::Done, "{job:?}");
    assert_eq!(installation.epoch_of(machine.id, id).await, Epoch(2));
    let mut agent = machine.agent(1);
    agent.connected().await;
    let told = agent.assigned(Epoch(2)).await;
    assert_eq!(told.addresses, [two.replication_address().to_string()]);

    // A process server that was restarted needs no token, is locked, and gets its key again.
    assert!(two.stop().await, "a clean stop");
    let two = ProcessServerNode::start(rig.config("ps-2", None)).await.expect("starts again");
    assert_eq!(two.id(), id);
    until("it has the machine with its key", || {
        let report = plane.machine(machine.id).expect("known").at_owner?;
        (report.epoch == Epoch(2) && report.state == MachineState::AgentAway).then_some(())
    })
    .await;
    assert_eq!(installation.epoch_of(machine.id, id).await, Epoch(2), "a restart keeps epoch and writer");

    // One that lost its cache directory gets the machine again under a higher epoch.
    assert!(two.stop().await, "a clean stop");
    std::fs::remove_dir_all(rig.dir("ps-2").join("cache")).expect("removed");
    let two = ProcessServerNode::start(rig.config("ps-2", None)).await.expect("starts again");
    until("it is adopted under the next epoch", || {
        let view = plane.machine(machine.id).expect("known");
        view.at_owner.filter(|report| report.epoch == Epoch(3)).map(drop)
    })
    .await;
    assert_eq!(installation.epoch_of(machine.id, id).await, Epoch(3));
    assert!(one.stop().await && two.stop().await, "clean stops");
}

#[actix::test]
async fn a_process_server_without_papers_or_with_another_vault_does_not_start() {
    let rig = Rig { installation: Installation::start().await };
    let error = ProcessServerNode::start(rig.config("ps-1", None)).await.err().expect("it has no token");
    assert!(error.to_string().contains("join token"), "{error}");
    assert!(rig.join("ps-1").await.stop().await, "a clean stop");
    let elsewhere = rig.dir("elsewhere");
    let store = FolderStore::open(&elsewhere, tokio::runtime::Handle::current()).expect("a folder");
    let config = NodeConfig { vault: Arc::new(store), ..rig.config("ps-1", None) };
    let error = ProcessServerNode::start(config.clone()).await.err().expect("no vault is there");
    assert!(matches!(error, NodeError::WrongVault { .. }), "{error}");
    let unspecified = SocketAddr::from(([0, 0, 0, 0], 0));
    let config = NodeConfig { replication_listen: unspecified, ..rig.config("ps-1", None) };
    let error = ProcessServerNode::start(config).await.err().expect("agents could not find it");
    assert!(matches!(error, NodeError::NoAddress(_)), "{error}");
}
