//! Rotation against a store that fails at any call, before or after the effect.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::super::{PassphraseCost, RecoveryKey};
use super::*;
use crate::ids::{Timestamp, VaultId};
use crate::vault::crypto::DataKey;
use crate::vault::read::open_vault::{OpenVault, VaultError};
use crate::vault::read::test_log::Seeded;
use crate::vault::store::StoreErrorKind;
use crate::vault::store::faulty::{Aim, Fault, FaultPlan, FaultyStore, StoreCall};
use crate::vault::store::memory::MemoryStore;

const MACHINES: [MachineId; 2] = [MachineId([1; 16]), MachineId([2; 16])];

fn old_key() -> VaultKey {
    VaultKey::from_bytes([0x0a; 32])
}

fn new_key() -> VaultKey {
    VaultKey::from_bytes([0x0b; 32])
}

fn data_key(machine: MachineId) -> DataKey {
    DataKey::from_bytes([machine.0[0]; 32])
}

fn about(machine: MachineId, key: &VaultKey, generation: u64, chance: &mut Seeded) -> (ObjectName, Bytes) {
    let about = About {
        machine,
        name: "db".into(),
        disks: Vec::new(),
        timelines: Vec::new(),
        hardware: BTreeMap::new(),
        data_key: WrappedKey::wrap(key, machine, &data_key(machine), chance),
    };
    about.seal(generation, key, chance)
}

fn catalog() -> Catalog {
    Catalog {
        vault: VaultId([7; 16]),
        created_at: Timestamp(1),
        authority_pem: "certificate".into(),
        authority_key_pem: Zeroizing::new("secret".into()),
        records: BTreeMap::new(),
    }
}

async fn put(store: &Arc<dyn ObjectStore>, (name, bytes): (ObjectName, Bytes)) {
    store.put_if_absent(&name, "test", bytes).await.expect("put");
}

/// A vault of two machines and two snapshots, behind a store that can fail.
async fn vault(chance: &mut Seeded) -> (Arc<dyn ObjectStore>, Arc<FaultyStore>) {
    let plain: Arc<dyn ObjectStore> = Arc::new(MemoryStore::new());
    let mut object = KeyObject::new(VaultId([7; 16]), Timestamp(1));
    object.add_passphrase(&old_key(), "the old passphrase", PassphraseCost::LEAST, chance).expect("long enough");
    object.add_recovery(&old_key(), &RecoveryKey::draw(chance), chance);
    put(&plain, (ObjectName::keys(1), object.seal(&old_key(), chance))).await;
    for machine in MACHINES {
        put(&plain, about(machine, &old_key(), 1, chance)).await;
    }
    for generation in [1, 2] {
        put(&plain, catalog().seal(generation, &old_key(), chance)).await;
    }
    (plain.clone(), Arc::new(FaultyStore::new(plain, FaultPlan::none())))
}

async fn rotate(store: &Arc<dyn ObjectStore>, chance: &mut Seeded) -> Result<Finished, RotateError> {
    let passphrase = |object: &mut KeyObject, key: &VaultKey, chance: &mut dyn Chance| {
        object.add_passphrase(key, "the new passphrase", PassphraseCost::LEAST, chance)
    };
    if OpenVault::open(store.clone(), &Credential::Key(new_key())).await.is_err() {
        begin(store, &Credential::Key(old_key()), &new_key(), chance, passphrase).await?;
    }
    finish(store, &new_key(), chance).await
}

/// Exactly one of the keys opens the vault, and with it everything is read.
async fn read_everything(store: &Arc<dyn ObjectStore>, at: &str) -> VaultKey {
    let mut open = Vec::new();
    for key in [old_key(), new_key()] {
        open.extend(OpenVault::open(store.clone(), &Credential::Key(key)).await.ok());
    }
    assert_eq!(open.len(), 1, "{at}: one key and only one opens the vault");
    let vault = open.remove(0);
    let machines = vault.machines().await.expect("the store answers");
    assert_eq!(machines.len(), MACHINES.len(), "{at}");
    for entry in machines {
        let about = entry.about.unwrap_or_else(|| panic!("{at}: {} is described", entry.machine));
        let key = vault.source(&about).expect("its key unwraps");
        assert_eq!(key.key().as_bytes(), data_key(entry.machine).as_bytes(), "{at}: the data key stays");
        assert_eq!(entry.damaged, [], "{at}");
    }
    let (found, damaged) = vault.catalog().await.expect("the store answers");
    assert_eq!((found.map(|(_, catalog)| catalog), damaged), (Some(catalog()), Vec::new()), "{at}");
    vault.key().clone()
}

async fn assert_rotated(store: &Arc<dyn ObjectStore>, at: &str) {
    assert_eq!(read_everything(store, at).await.as_bytes(), new_key().as_bytes(), "{at}");
    let (object, key) = read(store, &Credential::Key(new_key())).await.expect("it opens");
    assert!(object.previous(&key).is_none(), "{at}: the old key is forgotten");
    for (text, opens) in [("the old passphrase", false), ("the new passphrase", true)] {
        let opened = read(store, &Credential::Passphrase(Zeroizing::new(text.to_owned()))).await;
        assert_eq!(opened.is_ok(), opens, "{at}: {text}");
    }
    for listed in store.list("", None, 100).await.expect("list") {
        let (bytes, _) = store.get(&listed.name).await.expect("there");
        let (number, name) = (listed.name.number().expect("all are numbered"), listed.name.as_str());
        let opens = match name.split('/').next() {
            Some("keys") => KeyObject::parse(&bytes).expect("whole").open(&new_key()).is_ok(),
            Some("catalog") => Catalog::open(number, &bytes, &new_key()).is_ok(),
            _ => MACHINES.iter().any(|machine| About::open(*machine, number, &bytes, &new_key()).is_ok()),
        };
        assert!(opens, "{at}: {name} is under the new key");
    }
}

#[tokio::test]
async fn a_rotated_vault_opens_with_its_new_keys_alone_and_its_data_keys_stay() {
    let mut chance = Seeded::new(1);
    let (store, _) = vault(&mut chance).await;
    read_everything(&store, "before").await;
    let finished = rotate(&store, &mut chance).await.expect("it rotates");
    assert_eq!(finished, Finished { machines: 2, catalog: true });
    assert_rotated(&store, "after").await;
    let refused = OpenVault::open(store.clone(), &Credential::Key(old_key())).await;
    assert!(matches!(refused, Err(VaultError::Refused(KeysError::NotAuthentic { .. }))));
    assert!(
        !still_opens(&store, &old_key()).await.expect("list") && still_opens(&store, &new_key()).await.expect("list")
    );
    assert_eq!(rotate(&store, &mut chance).await.expect("nothing to do"), Finished::default());
}

#[tokio::test]
async fn a_rotation_that_dies_at_any_store_call_leaves_one_key_that_reads_all_and_is_gone_on_with() {
    let calls = [StoreCall::Stage, StoreCall::Publish, StoreCall::Get, StoreCall::List, StoreCall::Delete];
    let kind = StoreErrorKind::Unavailable;
    let (mut old_left, mut new_left) = (0, 0);
    for (call, after_effect) in calls.into_iter().flat_map(|call| [(call, false), (call, true)]) {
        for after_calls in 0.. {
            let at = format!("{call:?} {after_calls}, after the effect: {after_effect}");
            let mut chance = Seeded::new(after_calls);
            let (plain, faulty) = vault(&mut chance).await;
            let fault = if after_effect { Fault::ErrorAfter(kind) } else { Fault::ErrorBefore(kind) };
            // Nothing of this kind works again before the next life.
            faulty.set_plan(FaultPlan::none().and(Aim { after_calls, ..Aim::all(call) }, fault));
            let store: Arc<dyn ObjectStore> = faulty.clone();
            let outcome = rotate(&store, &mut chance).await;
            if faulty.faults() == 0 {
                outcome.expect("without a fault it rotates");
                assert!(after_calls > 0, "{at}: the call is made");
                break;
            }
            let left = read_everything(&plain, &at).await;
            if left.as_bytes() == old_key().as_bytes() {
                old_left += 1
            } else {
                new_left += 1
            }
            rotate(&plain, &mut chance).await.unwrap_or_else(|error| panic!("{at}: {error}"));
            assert_rotated(&plain, &at).await;
        }
    }
    assert!(old_left > 4 && new_left > 20, "it died before and after the new key counted: {old_left}, {new_left}");
}

#[tokio::test]
async fn what_a_server_wrote_under_the_old_key_meanwhile_is_wrapped_again_too() {
    let mut chance = Seeded::new(3);
    let (store, _) = vault(&mut chance).await;
    let none = |_: &mut KeyObject, _: &VaultKey, _: &mut dyn Chance| Ok(());
    begin(&store, &Credential::Key(old_key()), &new_key(), &mut chance, none).await.expect("it begins");
    put(&store, about(MACHINES[0], &old_key(), 2, &mut chance)).await;
    put(&store, catalog().seal(3, &old_key(), &mut chance)).await;
    let again = begin(&store, &Credential::Key(new_key()), &old_key(), &mut chance, none).await;
    assert!(matches!(again, Err(RotateError::UnderWay)));
    finish(&store, &new_key(), &mut chance).await.expect("it ends");
    assert_eq!(read_everything(&store, "after").await.as_bytes(), new_key().as_bytes());
}

#[tokio::test]
async fn a_machine_whose_description_cannot_be_read_keeps_the_old_key_from_being_forgotten() {
    let mut chance = Seeded::new(4);
    let (store, _) = vault(&mut chance).await;
    let lost = MachineId([9; 16]);
    put(&store, (ObjectName::about(lost, 1), Bytes::from_static(b"damaged"))).await;
    let outcome = rotate(&store, &mut chance).await;
    assert!(matches!(outcome, Err(RotateError::Unreadable { machine }) if machine == lost));
    store.delete(&ObjectName::about(lost, 1)).await.expect("delete");
    put(&store, about(lost, &old_key(), 1, &mut chance)).await;
    rotate(&store, &mut chance).await.expect("the copy that was put back is wrapped again");
    let vault = OpenVault::open(store, &Credential::Key(new_key())).await.expect("it opens");
    assert!(vault.machine(lost).await.expect("the store answers").about.is_some());
}
