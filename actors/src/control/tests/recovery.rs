//! The configuration server is lost with its machine; the vault and its key bring it back.

use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::crypto::VaultKey;
use farshore_engine::vault::keys::parse_key_file;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::read::open_vault::{Credential, OpenVault};
use farshore_engine::vault::store::ObjectStore as _;

use super::*;
use crate::control::ledger::records::MachinePolicy;
use crate::control::recover::{RecoverError, recover};

impl Installation {
    fn store(&self) -> Arc<FolderStore> {
        let runtime = tokio::runtime::Handle::current();
        Arc::new(FolderStore::open(&self.dir.path().join("vault"), runtime).expect("a folder"))
    }

    fn vault_key(&self) -> VaultKey {
        let text = std::fs::read_to_string(self.dir.path().join("vault.key")).expect("a key file");
        parse_key_file(&text).expect("a key")
    }

    async fn open_vault(&self) -> OpenVault {
        OpenVault::open(self.store(), &Credential::Key(self.vault_key())).await.expect("it opens")
    }

    /// Waits for a snapshot that `wanted` agrees to; gives its generation.
    async fn snapshot(&self, wanted: impl Fn(&Catalog) -> bool) -> u64 {
        let vault = self.open_vault().await;
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < WITHIN {
            match vault.catalog().await.expect("the vault answers").0 {
                Some((generation, catalog)) if wanted(&catalog) => return generation,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("no snapshot has what was wanted");
    }

    /// The machine that the configuration server ran on is gone, and its address with it.
    async fn lose(&mut self) {
        self.stop().await;
        let state = self.dir.path().join("config-server");
        std::fs::remove_dir_all(state).expect("removed");
        self.address = SocketAddr::from(([127, 0, 0, 1], 0));
    }

    async fn recover(&self) -> Result<crate::control::recover::Recovered, RecoverError> {
        recover(&self.open_vault().await, &self.dir.path().join("config-server"), &log()).await
    }
}

fn holds(catalog: &Catalog, machine: MachineId) -> bool {
    catalog.records.contains_key(&format!("assignment/{machine}"))
}

#[actix::test]
async fn a_lost_configuration_server_comes_back_from_the_vault_and_members_go_on() {
    let mut installation = Installation::start().await;
    let mut one = installation.join("ps-1").await;
    let mut machine = installation.enrol("m").await;
    installation.epoch_of(machine.id, one.id).await;
    installation.snapshot(|catalog| holds(catalog, machine.id)).await;
    // An edit of a policy alone is worth a snapshot.
    let plane = installation.plane();
    let seen = plane.machine(machine.id).expect("known").revision;
    let policy = MachinePolicy { rpo_warning_seconds: Some(77), ..MachinePolicy::default() };
    plane.edit_machine(&operator(), machine.id, seen, None, Some(policy.clone())).await.expect("edited");
    let edited =
        |catalog: &Catalog| catalog.records.values().any(|record| record.contains("\"rpo_warning_seconds\":77"));
    let generation = installation.snapshot(edited).await;
    let fingerprint = installation.server().authority_fingerprint();
    installation.lose().await;
    let recovered = installation.recover().await.expect("brought back");
    assert!(recovered.generation >= generation);
    assert_eq!((recovered.machines, recovered.process_servers), (1, 1));
    assert!(recovered.damaged.is_empty() && recovered.unknown_machines.is_empty(), "{recovered:?}");
    assert!(matches!(installation.recover().await, Err(RecoverError::Occupied { .. })), "never over what is there");
    installation.start_again().await;
    let server = installation.server();
    assert_eq!(server.authority_fingerprint(), fingerprint, "members know it again");
    let address = server.control_address().to_string();
    // The agent finds it where the operator says; the process server as well. Neither is enrolled again.
    machine.addresses = vec![address.clone()];
    one.member.remember_addresses(&[address]).expect("remembered");
    one.connect().await;
    let mut agent = machine.agent(2);
    agent.connected().await;
    assert_eq!(agent.assigned(Epoch(1)).await.epoch, Epoch(1));
    let plane = installation.plane();
    assert_eq!(plane.machine(machine.id).expect("known").policy, policy);
    until("the machine's owner is known again", || plane.machine(machine.id).expect("known").at_owner.map(drop)).await;
    let told = plane.events(None, 100, &Default::default());
    assert!(told.items.iter().any(|event| event.code == "state_recovered"), "{told:?}");
}

#[actix::test]
async fn a_damaged_snapshot_gives_way_to_the_one_before_and_machines_that_joined_later_are_named() {
    let mut installation = Installation::start().await;
    let one = installation.join("ps-1").await;
    let first = installation.enrol("first").await;
    installation.epoch_of(first.id, one.id).await;
    let before = installation.snapshot(|catalog| holds(catalog, first.id)).await;
    let second = installation.enrol("second").await;
    installation.epoch_of(second.id, one.id).await;
    let newest = installation.snapshot(|catalog| holds(catalog, second.id)).await;
    installation.lose().await;
    for generation in before + 1..=newest {
        let path = installation.dir.path().join("vault").join(ObjectName::catalog(generation).as_str());
        if let Ok(mut bytes) = std::fs::read(&path) {
            bytes[60] ^= 1;
            std::fs::write(&path, bytes).expect("damaged");
        }
    }
    let recovered = installation.recover().await.expect("brought back");
    assert_eq!(recovered.generation, before);
    assert!(recovered.damaged.contains(&ObjectName::catalog(newest).to_string()), "{recovered:?}");
    assert_eq!(recovered.unknown_machines, ["second"]);
}

#[actix::test]
async fn three_snapshots_are_kept_and_a_vault_without_one_says_what_to_do() {
    let mut installation = Installation::start().await;
    let mut newest = installation.snapshot(|_| true).await;
    for _ in 0..4 {
        installation.ticket(MemberRole::Machine).await;
        newest = installation.snapshot_after(newest).await;
    }
    let listed = installation.store().list("catalog/", None, 100).await.expect("listed");
    assert!(listed.len() <= 3, "{listed:?}");
    installation.lose().await;
    for listed in installation.store().list("catalog/", None, 100).await.expect("listed") {
        installation.store().delete(&listed.name).await.expect("deleted");
    }
    let error = installation.recover().await.expect_err("nothing is there");
    assert!(matches!(error, RecoverError::NoSnapshot { damaged: 0 }), "{error}");
    assert!(!installation.dir.path().join("config-server").exists(), "nothing half-done is left");
}

impl Installation {
    async fn snapshot_after(&self, generation: u64) -> u64 {
        let vault = self.open_vault().await;
        let begun = tokio::time::Instant::now();
        while begun.elapsed() < WITHIN {
            match vault.catalog().await.expect("the vault answers").0 {
                Some((newest, _)) if newest > generation => return newest,
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
        panic!("no snapshot follows");
    }
}
