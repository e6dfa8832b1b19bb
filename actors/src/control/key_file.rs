//! The vault key file as a source of the vault key: read again whenever the key at hand counts no more.

use std::path::PathBuf;

use async_trait::async_trait;
use farshore_engine::ids::VaultId;
use farshore_engine::vault::crypto::VaultKey;
use farshore_engine::vault::keys::parse_key_file;
use farshore_engine::vault::keys::provider::{KeySource, ProviderError, Slot};

use super::secret_file;

/// The key file at this path.
#[derive(Debug, Clone)]
pub struct KeyFile(pub PathBuf);

#[async_trait]
impl KeySource for KeyFile {
    fn name(&self) -> String {
        format!("the key file {}", self.0.display())
    }

    async fn find(&self, _: VaultId, _: &[Slot]) -> Result<VaultKey, ProviderError> {
        let failed = |cause: String| ProviderError::Failed { provider: self.name(), cause };
        // One line of a local file, as at the start.
        let text = secret_file::read(&self.0).map_err(|error| failed(error.to_string()))?;
        let text = text.ok_or_else(|| failed("it does not exist".into()))?;
        parse_key_file(&text).map_err(|error| failed(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use farshore_engine::ids::{MachineId, TimelineId, Timestamp};
    use farshore_engine::vault::keys::rotate::{begin, finish};
    use farshore_engine::vault::keys::{KeyObject, print_key_file};
    use farshore_engine::vault::layout::ObjectName;
    use farshore_engine::vault::read::open_vault::Credential;
    use farshore_engine::vault::store::ObjectStore;
    use farshore_engine::vault::store::memory::MemoryStore;

    use super::*;
    use crate::control::fault::FaultCode;
    use crate::control::vault_keeper::{NewMachine, StoreKeeper, VaultKeeper};
    use crate::supervise::OsChance;

    fn machine(n: u8) -> NewMachine {
        NewMachine { machine: MachineId([n; 16]), timeline: TimelineId([n; 8]), name: "m".into(), disks: Vec::new() }
    }

    #[tokio::test]
    async fn a_rotated_vault_key_is_taken_by_a_running_server_once_its_file_is_there() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("vault.key");
        let (old, new) = (VaultKey::from_bytes([1; 32]), VaultKey::from_bytes([2; 32]));
        let keep = |key: &VaultKey| secret_file::write(&path, print_key_file(key).as_bytes()).expect("written");
        keep(&old);
        let (store, vault): (Arc<dyn ObjectStore>, _) = (Arc::new(MemoryStore::new()), VaultId([7; 16]));
        let object = KeyObject::new(vault, Timestamp(1)).seal(&old, &mut OsChance);
        store.put_if_absent(&ObjectName::keys(1), "first", object).await.expect("put");
        let keeper = || StoreKeeper::new(store.clone(), vault, old.clone(), Arc::new(KeyFile(path.clone())));
        let (running, forgetful) = (keeper(), keeper());
        let before = running.make_machine(machine(1)).await.expect("the key counts");

        let none = |_: &mut KeyObject, _: &VaultKey, _: &mut dyn farshore_engine::ids::Chance| Ok(());
        begin(&store, &Credential::Key(old.clone()), &new, &mut OsChance, none).await.expect("it begins");
        for keeper in [&running, &forgetful] {
            let fault = keeper.make_machine(machine(2)).await.expect_err("refused");
            assert_eq!(fault.code, FaultCode::VaultLocked, "{fault}");
            assert!(fault.to_string().contains("without a restart"), "{fault}");
        }
        keep(&new);
        // Half-way through the rotation and after it: what is under the old key still, and what is under the new one.
        let half_way = forgetful.data_key(MachineId([1; 16])).await.expect("the file is there");
        assert_eq!(half_way.bytes(), before.bytes());
        running.make_machine(machine(2)).await.expect("the new key counts");
        finish(&store, &new, &mut OsChance).await.expect("it is through");
        running.make_machine(machine(3)).await.expect("and still does");
        assert_eq!(keeper().data_key(MachineId([1; 16])).await.expect("wrapped again").bytes(), before.bytes());
        std::fs::remove_file(&path).expect("the file goes");
        running.make_machine(machine(4)).await.expect("a key that counts is not looked for");
        let fault = keeper().data_key(MachineId([1; 16])).await.expect_err("the old key, and no file");
        assert!(fault.to_string().contains("does not exist"), "{fault}");
    }
}
