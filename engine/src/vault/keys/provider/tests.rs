//! The port with a service that does what services do: it answers, refuses, hangs, comes late, and gives the wrong key.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::SlotKind;
use super::*;
use crate::ids::Timestamp;
use crate::vault::read::test_log::Seeded;

const WITHIN: Duration = Duration::from_secs(20);

/// What the service does next.
#[derive(Debug, Clone, Copy)]
enum Mood {
    Answers,
    Fails,
    Hangs,
    After(Duration),
    GivesAnother,
}

/// A key management service: it keeps what it wrapped and hands out names for it.
struct Service {
    mood: Mood,
    kept: Mutex<HashMap<u64, (VaultId, VaultKey)>>,
    calls: AtomicU64,
}

impl Service {
    fn new() -> Self {
        Self { mood: Mood::Answers, kept: Mutex::default(), calls: AtomicU64::new(0) }
    }

    async fn mood(&self) -> Result<(), ProviderError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.mood {
            Mood::Answers | Mood::GivesAnother => Ok(()),
            Mood::Fails => Err(ProviderError::Failed { provider: self.name(), cause: "403 Forbidden".into() }),
            Mood::Hangs => std::future::pending().await,
            Mood::After(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
        }
    }
}

#[async_trait]
impl KeySource for Service {
    fn name(&self) -> String {
        "the key service".into()
    }

    async fn find(&self, vault: VaultId, slots: &[Slot]) -> Result<VaultKey, ProviderError> {
        self.mood().await?;
        if matches!(self.mood, Mood::GivesAnother) {
            return Ok(VaultKey::from_bytes([0xee; 32]));
        }
        let ours = slots.iter().filter_map(Slot::as_wrapped).find(|slot| slot.provider == "mock");
        let ours = ours.ok_or_else(|| ProviderError::NoSlot { provider: self.name() })?;
        let number = u64::from_le_bytes(ours.sealed.as_slice().try_into().expect("as it was given"));
        let (of, key) = self.kept.lock().get(&number).cloned().expect("it was wrapped here");
        assert_eq!(of, vault, "bound to the vault");
        Ok(key)
    }
}

#[async_trait]
impl KeyProvider for Service {
    async fn wrap(&self, vault: VaultId, key: &VaultKey) -> Result<Slot, ProviderError> {
        self.mood().await?;
        let mut kept = self.kept.lock();
        let number = kept.len() as u64;
        kept.insert(number, (vault, key.clone()));
        let (provider, key, sealed) = ("mock".into(), "key/1".into(), number.to_le_bytes().to_vec());
        Ok(Slot::wrapped(&WrappedKey { provider, key, sealed }))
    }
}

fn vault_key() -> VaultKey {
    VaultKey::from_bytes([5; 32])
}

fn object() -> KeyObject {
    KeyObject::new(VaultId([1; 16]), Timestamp(1))
}

fn locked(object: &KeyObject) -> LockedKeys {
    KeyObject::parse(&object.seal(&vault_key(), &mut Seeded::new(1))).expect("well formed")
}

#[tokio::test]
async fn every_provider_opens_its_own_slot_beside_the_others() {
    let mut object = object();
    let chance = || Box::new(Seeded::new(2));
    let passphrase = |text: &str| PassphraseProvider::new(text.to_owned().into(), PassphraseCost::LEAST, chance());
    let recovery = RecoveryKey::draw(&mut Seeded::new(3));
    let providers: [Box<dyn KeyProvider>; 3] = [
        Box::new(passphrase("a long passphrase")),
        Box::new(Service::new()),
        Box::new(RecoveryProvider::new(recovery.clone(), chance())),
    ];
    for provider in &providers {
        object.add_by(&vault_key(), &**provider, WITHIN).await.expect("it wraps");
    }
    assert_eq!(object.slots().collect::<Vec<_>>(), [SlotKind::Passphrase, SlotKind::Wrapped, SlotKind::Recovery]);
    for provider in &providers {
        let (opened, key) = locked(&object).open_by(&**provider, WITHIN).await.expect("it opens");
        assert_eq!((opened, key.as_bytes()), (object.clone(), vault_key().as_bytes()));
    }
    // The slots are those that there always were.
    assert!(locked(&object).open_with_passphrase("a long passphrase").is_ok());
    assert!(locked(&object).open_with_recovery(&recovery).is_ok());
    let wrong = locked(&object).open_by(&passphrase("another passphrase"), WITHIN).await;
    assert_eq!(wrong.err(), Some(KeysError::WrongPassphrase.into()));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_fails_hangs_or_comes_too_late_changes_nothing_and_is_named() {
    let mut service = Service::new();
    let mut object = object();
    object.add_by(&vault_key(), &service, WITHIN).await.expect("it wraps");
    let before = object.clone();
    for (mood, word) in [
        (Mood::Fails, "403 Forbidden"),
        (Mood::Hangs, "did not answer within 20 s"),
        (Mood::After(WITHIN + Duration::from_secs(1)), "did not answer within 20 s"),
    ] {
        service.mood = mood;
        let begun = tokio::time::Instant::now();
        let opened = locked(&object).open_by(&service, WITHIN).await.expect_err("no key").to_string();
        let added = object.add_by(&vault_key(), &service, WITHIN).await.expect_err("no slot").to_string();
        for text in [opened, added] {
            assert!(text.contains(word) && text.contains("the key service"), "{mood:?}: {text}");
        }
        assert!(begun.elapsed() <= WITHIN * 2, "{mood:?} was waited for too long");
        assert_eq!(object, before);
    }
    service.mood = Mood::After(WITHIN - Duration::from_secs(1));
    locked(&object).open_by(&service, WITHIN).await.expect("late, but in time");
    assert_eq!(service.calls.load(Ordering::Relaxed), 8, "nobody asks twice by themselves");
}

#[tokio::test]
async fn a_key_that_is_not_the_vaults_is_never_believed() {
    let mut service = Service::new();
    let mut object = object();
    object.add_by(&vault_key(), &service, WITHIN).await.expect("it wraps");
    service.mood = Mood::GivesAnother;
    let refused = locked(&object).open_by(&service, WITHIN).await.err();
    assert_eq!(refused, Some(KeysError::NotAuthentic { vault: VaultId([1; 16]) }.into()));
    let nobody = locked(&self::object()).open_by(&Service::new(), WITHIN).await.err();
    assert_eq!(nobody, Some(ProviderError::NoSlot { provider: "the key service".into() }));
}
