//! The configuration server's way to the vault: whose it is, and machines' data keys. A port, so that the control plane
//! is tested without a vault.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use farshore_engine::control::messages::WireKey;
use farshore_engine::ids::{MachineId, TimelineId, Timestamp, VaultId};
use farshore_engine::record::DiskInfo;
use farshore_engine::vault::about::{About, TimelineInfo, WrappedKey};
use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::crypto::{DataKey, VaultKey};
use farshore_engine::vault::keys::change::{ChangeError, read};
use farshore_engine::vault::keys::provider::{KeySource, PROVIDER_PATIENCE};
use farshore_engine::vault::keys::rotate::still_opens;
use farshore_engine::vault::keys::{KeyObject, SlotKind};
use farshore_engine::vault::layout::{self, ObjectName};
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::open_vault::{Credential, OpenVault, VaultError};
use farshore_engine::vault::store::{ObjectStore, PutOutcome, StoreError};
use parking_lot::Mutex;

use crate::supervise::{OsChance, wall_clock};

use super::fault::{Fault, FaultCode};

/// What is written of a machine when it joins.
#[derive(Debug, Clone)]
pub struct NewMachine {
    /// Its id.
    pub machine: MachineId,
    /// Its first timeline.
    pub timeline: TimelineId,
    /// Its label.
    pub name: String,
    /// Its disks.
    pub disks: Vec<DiskInfo>,
}

/// Keeps machines' data keys.
#[async_trait]
pub trait VaultKeeper: Send + Sync {
    /// The vault.
    fn vault(&self) -> VaultId;

    /// Draws a data key for a machine and writes it, wrapped, into the vault. On return it is durable there.
    async fn make_machine(&self, machine: NewMachine) -> Result<WireKey, Fault>;

    /// A machine's data key.
    async fn data_key(&self, machine: MachineId) -> Result<WireKey, Fault>;

    /// Who may open the vault. No secret is part of it.
    async fn key_slots(&self) -> Result<KeySlots, Fault>;

    /// Deletes every object of a machine, its key last; answers how many there were. May be done twice.
    async fn delete_machine(&self, machine: MachineId) -> Result<u64, Fault>;

    /// Writes the next snapshot of the configuration server's state, reads it back, then removes those that are too
    /// many. Durable on return.
    async fn keep_catalog(&self, catalog: &Catalog) -> Result<KeptCatalog, Fault>;
}

/// The vault's key object, without what opens it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySlots {
    /// The vault.
    pub vault: VaultId,
    /// When it was made.
    pub created_at: Timestamp,
    /// How often its keys were changed, and 1.
    pub generation: u64,
    /// What opens it beside the vault key's file, in the order of slots.
    pub slots: Vec<SlotKind>,
}

/// A snapshot that is in the vault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptCatalog {
    /// The newest generation that was there before.
    pub before: Option<u64>,
    /// The one that was written.
    pub generation: u64,
}

/// Snapshots that are kept. Chosen: as many as exports of the state: the newest may be of the damage it shall heal.
const CATALOGS_KEPT: usize = 3;

/// Keeps data keys in the vault itself, wrapped by the vault key.
///
/// The vault key may be rotated while this runs: a key that counts no more is looked for again at its source, so that the
/// new key file in the old one's place is enough.
pub struct StoreKeeper {
    store: Arc<dyn ObjectStore>,
    vault: VaultId,
    key: Mutex<VaultKey>,
    source: Arc<dyn KeySource>,
    known: Mutex<HashMap<MachineId, WireKey>>,
}

impl StoreKeeper {
    /// Over an open vault, whose key came from `source`.
    pub fn new(store: Arc<dyn ObjectStore>, vault: VaultId, key: VaultKey, source: Arc<dyn KeySource>) -> Self {
        Self { store, vault, key: Mutex::new(key), source, known: Mutex::default() }
    }

    /// Whether the vault key is still this one: asked before and after everything that is sealed with it.
    async fn counts(&self, key: &VaultKey) -> Result<(), Fault> {
        let opens = still_opens(&self.store, key).await.map_err(unavailable)?;
        opens.then_some(()).ok_or_else(|| rotated("the key before it was used"))
    }

    /// The vault key that counts now: the one at hand, or where that was rotated away, what its source has by now.
    async fn key(&self) -> Result<VaultKey, Fault> {
        let held = self.key.lock().clone();
        if still_opens(&self.store, &held).await.map_err(unavailable)? {
            return Ok(held);
        }
        let generations = self.generations(&layout::keys_prefix()).await?;
        let Some(newest) = generations.last() else { return Err(rotated("the vault has no key object")) };
        let (bytes, _) = self.store.get(&ObjectName::keys(*newest)).await.map_err(unavailable)?;
        let locked = KeyObject::parse(&bytes).map_err(|error| rotated(&error.to_string()))?;
        let opened = locked.open_by(&*self.source, PROVIDER_PATIENCE).await;
        let (object, key) = opened.map_err(|error| rotated(&error.to_string()))?;
        if object.vault() != self.vault {
            return Err(rotated("another vault's key object lies here"));
        }
        *self.key.lock() = key.clone();
        Ok(key)
    }

    /// The generations right under a prefix, in order.
    async fn generations(&self, prefix: &str) -> Result<Vec<u64>, Fault> {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = self.store.list(prefix, after.as_ref(), 1000).await.map_err(unavailable)?;
            found.extend(page.iter().filter_map(|listed| listed.name.number()));
            match page.last() {
                Some(last) if page.len() == 1000 => after = Some(last.name.clone()),
                _ => return Ok(found),
            }
        }
    }
}

fn rotated(why: &str) -> Fault {
    let detail = format!(
        "the vault key was rotated and the one this server has is refused ({why}): put the new key file in its place; it \
         is taken without a restart, and replication goes on meanwhile"
    );
    Fault::new(FaultCode::VaultLocked, detail)
}

fn unavailable(error: StoreError) -> Fault {
    Fault::new(FaultCode::VaultUnavailable, error.to_string())
}

#[async_trait]
impl VaultKeeper for StoreKeeper {
    fn vault(&self) -> VaultId {
        self.vault
    }

    async fn make_machine(&self, new: NewMachine) -> Result<WireKey, Fault> {
        let key = self.key().await?;
        let mut chance = OsChance;
        let data_key = DataKey::draw(&mut chance);
        let about = About {
            machine: new.machine,
            name: new.name,
            disks: new.disks,
            timelines: vec![TimelineInfo { id: new.timeline, parent: None, created_at: wall_clock() }],
            hardware: BTreeMap::new(),
            data_key: WrappedKey::wrap(&key, new.machine, &data_key, &mut chance),
        };
        let (name, bytes) = about.seal(1, &key, &mut chance);
        let token = format!("about-{}", new.machine);
        match self.store.put_if_absent(&name, &token, bytes).await.map_err(unavailable)? {
            PutOutcome::Created => {}
            PutOutcome::AlreadyExists => {
                let detail = format!("{name} is there already: a machine id was drawn twice");
                return Err(Fault::new(FaultCode::VaultForeign, detail));
            }
        }
        // A key that was replaced in this moment wraps nothing that counts.
        if let Err(fault) = self.counts(&key).await {
            self.store.delete(&name).await.map_err(unavailable)?;
            return Err(fault);
        }
        let key = WireKey::new(*data_key.as_bytes());
        self.known.lock().insert(new.machine, key.clone());
        Ok(key)
    }

    async fn data_key(&self, machine: MachineId) -> Result<WireKey, Fault> {
        if let Some(key) = self.known.lock().get(&machine) {
            return Ok(key.clone());
        }
        let unreadable = |error: ReadError| Fault::new(FaultCode::VaultUnavailable, error.to_string());
        // While the vault key is being rotated, a description may still be under the key before: the open vault has both.
        let vault = OpenVault::open(self.store.clone(), &Credential::Key(self.key().await?)).await;
        let vault = vault.map_err(|error| match error {
            VaultError::Refused(error) => rotated(&error.to_string()),
            other => Fault::new(FaultCode::VaultUnavailable, other.to_string()),
        })?;
        let entry = vault.machine(machine).await.map_err(unreadable)?;
        let about = entry.about.ok_or_else(|| match entry.damaged.first() {
            Some(bad) => Fault::new(FaultCode::VaultUnavailable, format!("{}: {}", bad.object, bad.damage)),
            None => Fault::new(FaultCode::MachineUnknown, format!("the vault has no key of machine {machine}")),
        })?;
        let source = vault.source(&about).map_err(unreadable)?;
        let key = WireKey::new(*source.key().as_bytes());
        self.known.lock().insert(machine, key.clone());
        Ok(key)
    }

    async fn key_slots(&self) -> Result<KeySlots, Fault> {
        let (object, _) =
            read(&self.store, &Credential::Key(self.key().await?)).await.map_err(|error| match error {
                ChangeError::Store(error) => unavailable(error),
                other => Fault::new(FaultCode::VaultUnavailable, other.to_string()),
            })?;
        let (vault, created_at, generation) = (object.vault(), object.created_at(), object.generation());
        Ok(KeySlots { vault, created_at, generation, slots: object.slots().collect() })
    }

    async fn delete_machine(&self, machine: MachineId) -> Result<u64, Fault> {
        // The description goes last: while any object is there, it says whose it is.
        let about = layout::about_prefix(machine);
        let deleted = self.delete_all(&layout::machine_prefix(machine), &about).await?;
        self.known.lock().remove(&machine);
        Ok(deleted + self.delete_all(&about, "\n").await?)
    }

    async fn keep_catalog(&self, catalog: &Catalog) -> Result<KeptCatalog, Fault> {
        let key = self.key().await?;
        let generations = self.generations(&layout::catalog_prefix()).await?;
        let before = generations.last().copied();
        let generation = before.map_or(1, |before| before + 1);
        let (name, bytes) = catalog.seal(generation, &key, &mut OsChance);
        let token = format!("catalog-{}", blake3::hash(&bytes).to_hex());
        let rival =
            || Fault::new(FaultCode::VaultUnavailable, format!("{name} was written by somebody else meanwhile"));
        match self.store.put_if_absent(&name, &token, bytes).await.map_err(unavailable)? {
            PutOutcome::Created => {}
            PutOutcome::AlreadyExists => return Err(rival()),
        }
        // What shall replace the older ones must be readable before they go.
        let (bytes, _) = self.store.get(&name).await.map_err(unavailable)?;
        let back = Catalog::open(generation, &bytes, &key);
        let back = back.map_err(|error| Fault::new(FaultCode::VaultUnavailable, format!("{name}: {error}")))?;
        if back != *catalog {
            return Err(rival());
        }
        // Those of a new key must not give way to one of the old key.
        if let Err(fault) = self.counts(&key).await {
            self.store.delete(&name).await.map_err(unavailable)?;
            return Err(fault);
        }
        for old in generations.iter().rev().skip(CATALOGS_KEPT - 1) {
            self.store.delete(&ObjectName::catalog(*old)).await.map_err(unavailable)?;
        }
        Ok(KeptCatalog { before, generation })
    }
}

impl StoreKeeper {
    async fn delete_all(&self, prefix: &str, keep: &str) -> Result<u64, Fault> {
        let (mut after, mut deleted) = (None, 0);
        loop {
            let page = self.store.list(prefix, after.as_ref(), 1000).await.map_err(unavailable)?;
            for listed in page.iter().filter(|listed| !listed.name.as_str().starts_with(keep)) {
                self.store.delete(&listed.name).await.map_err(unavailable)?;
                deleted += 1;
            }
            match page.last() {
                Some(last) if page.len() == 1000 => after = Some(last.name.clone()),
                _ => return Ok(deleted),
            }
        }
    }
}

/// A keeper without a vault, for tests.
#[derive(Debug, Default)]
pub struct MemoryKeeper {
    keys: Mutex<HashMap<MachineId, WireKey>>,
    locked: Mutex<bool>,
    catalogs: Mutex<u64>,
}

impl MemoryKeeper {
    /// Answers 'vault locked' from now on, or no longer.
    pub fn lock(&self, locked: bool) {
        *self.locked.lock() = locked;
    }

    fn open(&self) -> Result<(), Fault> {
        match *self.locked.lock() {
            true => Err(Fault::new(FaultCode::VaultLocked, "the vault key is not there")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl VaultKeeper for MemoryKeeper {
    fn vault(&self) -> VaultId {
        VaultId([0xaa; 16])
    }

    async fn make_machine(&self, machine: NewMachine) -> Result<WireKey, Fault> {
        self.open()?;
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&machine.machine.0);
        let key = WireKey::new(bytes);
        self.keys.lock().insert(machine.machine, key.clone());
        Ok(key)
    }

    async fn data_key(&self, machine: MachineId) -> Result<WireKey, Fault> {
        self.open()?;
        let key = self.keys.lock().get(&machine).cloned();
        key.ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("the vault has no key of machine {machine}")))
    }

    async fn key_slots(&self) -> Result<KeySlots, Fault> {
        self.open()?;
        let slots = vec![SlotKind::Recovery, SlotKind::Passphrase];
        Ok(KeySlots { vault: self.vault(), created_at: Timestamp(0), generation: 1, slots })
    }

    async fn delete_machine(&self, machine: MachineId) -> Result<u64, Fault> {
        self.open()?;
        Ok(self.keys.lock().remove(&machine).map_or(0, |_| 1))
    }

    async fn keep_catalog(&self, _: &Catalog) -> Result<KeptCatalog, Fault> {
        self.open()?;
        let mut generation = self.catalogs.lock();
        let before = (*generation > 0).then_some(*generation);
        *generation += 1;
        Ok(KeptCatalog { before, generation: *generation })
    }
}
