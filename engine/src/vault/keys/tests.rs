//! The key object and the ways to open it.

use super::*;

/// Chance that counts.
struct Counting(u8);

impl Chance for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.iter_mut().for_each(|byte| {
            self.0 = self.0.wrapping_mul(31).wrapping_add(7);
            *byte = self.0;
        });
    }
}

fn vault_key() -> VaultKey {
    VaultKey::from_bytes([5; 32])
}

fn made(passphrases: &[&str]) -> KeyObject {
    let mut keys = KeyObject::new(VaultId([1; 16]), Timestamp(0));
    for passphrase in passphrases {
        keys.add_passphrase(&vault_key(), passphrase, PassphraseCost::LEAST, &mut Counting(1)).expect("long enough");
    }
    keys
}

fn locked(keys: &KeyObject) -> LockedKeys {
    KeyObject::parse(&keys.seal(&vault_key(), &mut Counting(2))).expect("well formed")
}

#[test]
fn any_of_several_passphrases_opens_and_a_removed_one_does_not() {
    let mut keys = made(&["first passphrase", "second passphrase"]);
    for passphrase in ["first passphrase", "second passphrase"] {
        let (opened, key) = locked(&keys).open_with_passphrase(passphrase).expect("its own");
        assert_eq!((opened, key.as_bytes()), (keys.clone(), vault_key().as_bytes()));
    }
    keys.remove_passphrases();
    let keys = keys.next_generation();
    assert_eq!(keys.generation(), 2);
    let opened = locked(&keys).open_with_passphrase("first passphrase").map(drop);
    assert_eq!(opened, Err(KeysError::NoPassphrase));
    assert_eq!(locked(&keys).open(&vault_key()), Ok(keys));
}

#[test]
fn a_passphrase_that_is_too_short_is_refused() {
    let mut keys = made(&[]);
    let result = keys.add_passphrase(&vault_key(), "short ü", PassphraseCost::LEAST, &mut Counting(1));
    assert_eq!(result, Err(KeysError::PassphraseTooShort));
}

#[test]
fn a_changed_object_cannot_make_argon2_take_all_memory() {
    let mut keys = made(&["a passphrase"]);
    let KeySlot::Known(KnownSlot::Passphrase { argon2id, .. }) = &mut keys.body.slots[0] else {
        panic!("a passphrase slot")
    };
    argon2id.memory_kib = u32::MAX;
    let opened = locked(&keys).open_with_passphrase("a passphrase").map(drop);
    assert_eq!(opened, Err(KeysError::Cost));
}

#[test]
fn a_slot_of_a_newer_program_is_kept() {
    let mut keys = made(&["a passphrase"]);
    let slot = serde_json::json!({ "kind": "key_vault", "url": "https://vault.invalid/keys/1", "sealed": "00" });
    keys.body.slots.insert(0, KeySlot::Unknown(slot));
    let (opened, _) = locked(&keys).open_with_passphrase("a passphrase").expect("its own");
    assert_eq!(opened, keys);
}

#[test]
fn a_slot_of_another_vault_does_not_open_here() {
    let mut keys = made(&["a passphrase"]);
    keys.body.vault = VaultId([2; 16]);
    assert_eq!(locked(&keys).open_with_passphrase("a passphrase").map(drop), Err(KeysError::WrongPassphrase));
}

#[test]
fn a_recovery_key_is_read_however_people_type_it() {
    let key = RecoveryKey::draw(&mut Counting(3));
    let printed = key.print();
    assert_eq!((printed.len(), printed.split('-').count()), (63, 8));
    let lower = printed.to_lowercase().replace('0', "o").replace('1', "l");
    for typed in [printed.to_string(), lower, printed.replace('-', " "), printed.replace('-', "")] {
        let read: RecoveryKey = typed.parse().expect("as printed");
        assert_eq!(read.as_bytes(), key.as_bytes());
    }
    let mut keys = made(&[]);
    keys.add_recovery(&vault_key(), &key, &mut Counting(4));
    assert!(locked(&keys).open_with_recovery(&key).is_ok());
}

#[test]
fn a_mistyped_recovery_key_is_told_apart_from_a_wrong_one() {
    let printed = RecoveryKey::draw(&mut Counting(3)).print();
    for at in 0..printed.len() {
        let (before, rest) = printed.split_at(at);
        if rest.starts_with('-') {
            continue;
        }
        let other = if rest.starts_with('Z') { "Y" } else { "Z" };
        let typed = format!("{before}{other}{}", &rest[1..]);
        assert_eq!(typed.parse::<RecoveryKey>().map(drop), Err(BadRecoveryKey::Checksum), "character {at}");
    }
    assert_eq!(printed[1..].parse::<RecoveryKey>().map(drop), Err(BadRecoveryKey::Length(55)));
    assert_eq!(
        printed.replacen(&printed[..1], "U", 1).parse::<RecoveryKey>().map(drop),
        Err(BadRecoveryKey::Character('U'))
    );
}

#[test]
fn a_key_file_is_one_line_and_nothing_else_is_a_key() {
    let printed = print_key_file(&vault_key());
    assert_eq!(printed.len(), 65);
    let read = parse_key_file(&printed).expect("as printed");
    assert_eq!(read.as_bytes(), vault_key().as_bytes());
    for bad in ["", "05", &printed[2..], &format!("{}{}", printed.trim(), printed.trim()), &"g".repeat(64)] {
        assert_eq!(parse_key_file(bad).map(drop), Err(BadKeyFile), "{bad}");
    }
}
