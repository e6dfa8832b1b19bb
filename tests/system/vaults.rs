//! Where the vault of a test lies: in a folder, or in a container of Azure's emulator (`FARSHORE_TEST_VAULT=azurite`, as
//! `make soak` does it in a second round). The promises are the same.

use std::path::Path;
use std::sync::Arc;

use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::azure::{AzureCredential, AzurePlace, AzureStore, RetryLimits};
use farshore_engine::vault::store::folder::FolderStore;
use tokio::runtime::Handle;

use crate::azurite::{ACCOUNT, Azurite, KEY};
use crate::rig::Rig;

const ENDPOINT: &str = "FARSHORE_VAULT__ENDPOINT";

pub(crate) fn is_emulated() -> bool {
    std::env::var_os("FARSHORE_TEST_VAULT").is_some_and(|vault| {
        assert!(vault == "azurite", "FARSHORE_TEST_VAULT is azurite, or not set for a folder: {vault:?}");
        true
    })
}

fn url() -> String {
    format!("azblob://{ACCOUNT}/vault/site")
}

/// A rig whose servers and tools know the vault from their environment, where it is no folder.
pub(crate) fn rig(test: &str) -> Rig {
    if !is_emulated() {
        return Rig::new();
    }
    let azurite = Azurite::start(test).expect("the emulator: run scripts/setup.sh");
    let env = [
        ("FARSHORE_VAULT__URL", url()),
        (ENDPOINT, azurite.endpoint()),
        ("FARSHORE_VAULT__AZURE__AUTH", "shared-key".to_owned()),
        ("FARSHORE_AZURE_ACCOUNT_KEY", KEY.to_owned()),
    ];
    Rig::new().with(env.into(), azurite)
}

/// The vault as tools take it; `folder` is where it lies if it is a folder.
pub(crate) fn place(folder: &Path) -> String {
    if is_emulated() { url() } else { folder.to_str().expect("paths of the rig are text").to_owned() }
}

/// The vault's store, for looking at.
pub(crate) fn store(rig: &Rig, folder: &Path, threads: Handle) -> Arc<dyn ObjectStore> {
    if !is_emulated() {
        return Arc::new(FolderStore::open_read_only(folder, threads).expect("a folder"));
    }
    let place = AzurePlace::parse(&url(), rig.env(ENDPOINT)).expect("a place");
    let key = AzureCredential::shared_key(KEY).expect("a key");
    Arc::new(AzureStore::new(place, &key, RetryLimits::default(), threads).expect("a store"))
}
