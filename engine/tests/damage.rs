//! Damage to any object is noticed: whatever bit is flipped, wherever it is cut, whatever takes its place, reading gives
//! an error, never other bytes, never a panic (I8, I9).

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use farshore_engine::codec::Take;
use farshore_engine::ids::{MachineId, TimelineId};
use farshore_engine::record::{RecordAt, take_records};
use farshore_engine::section::Section;
use farshore_engine::vault::about::About;
use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::crypto::{DataKey, VaultKey};
use farshore_engine::vault::keys::{KeyObject, KeysError};
use farshore_engine::vault::manifest::Manifest;
use farshore_engine::vault::segment::{
    Footer, FrameOpener, ItemHeader, SegmentIdentity, Trailer, rebuild_index, scan_whole_batches,
};
use farshore_engine::vault::state::LogState;
use proptest::prelude::*;

#[path = "golden/objects.rs"]
mod objects;

use objects::*;

/// An object and how it is read; `Ok` holds all that reading gave.
type Object = (&'static str, Bytes, fn(&Bytes) -> Result<String, String>);

fn read_about(bytes: &Bytes) -> Result<String, String> {
    let about = About::open(MACHINE, GENERATION, bytes, &vault_key()).map_err(|error| error.to_string())?;
    Ok(format!("{about:?}"))
}

fn read_manifest(bytes: &Bytes) -> Result<String, String> {
    let manifest = Manifest::open(MACHINE, TIMELINE, bytes, &data_key()).map_err(|error| error.to_string())?;
    Ok(format!("{manifest:?}"))
}

fn read_catalog(bytes: &Bytes) -> Result<String, String> {
    let catalog = Catalog::open(GENERATION, bytes, &vault_key()).map_err(|error| error.to_string())?;
    Ok(format!("{catalog:?} {:?}", catalog.records))
}

fn read_keys(bytes: &Bytes) -> Result<String, String> {
    let keys = KeyObject::parse(bytes).and_then(|keys| keys.open(&vault_key())).map_err(|error| error.to_string())?;
    Ok(format!("{keys:?}"))
}

static OBJECTS: LazyLock<[Object; 12]> = LazyLock::new(|| {
    [
        ("segment", segment(), read_log_object),
        ("segment of version 2", zstd_segment(), read_log_object),
        ("fence", fence(), read_log_object),
        ("branch", branch(), read_log_object),
        ("run", run_part(), read_log_object),
        ("manifest with runs", merged_manifest_bytes(), read_manifest),
        ("manifest with runs, as at first", first_merged_manifest_bytes(), read_manifest),
        ("about", about_bytes(), read_about),
        ("manifest", manifest_bytes(), read_manifest),
        ("keys", keys_bytes(), read_keys),
        ("rotating keys", rotating_keys_bytes(), read_keys),
        ("catalog", catalog_bytes(), read_catalog),
    ]
});

#[test]
fn every_object_reads_before_it_is_damaged() {
    for (name, bytes, read) in OBJECTS.iter() {
        read(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn every_flipped_bit_of_every_object_is_noticed() {
    for (name, bytes, read) in OBJECTS.iter() {
        // Every bit of the plain parts; in between, where the seal is all there is, every byte.
        for bit in 0..bytes.len() * 8 {
            let at = bit / 8;
            let plain = at < 256 || at + 200 > bytes.len();
            if !plain && bit % 8 != at % 8 {
                continue;
            }
            let mut damaged = bytes.to_vec();
            damaged[at] ^= 1 << (bit % 8);
            assert!(read(&damaged.into()).is_err(), "{name}: bit {bit} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn every_cut_of_every_object_is_noticed() {
    for (name, bytes, read) in OBJECTS.iter() {
        for cut in 0..bytes.len() {
            assert!(read(&bytes.slice(..cut)).is_err(), "{name}: cut at {cut}");
            assert!(read(&bytes.slice(bytes.len() - cut..)).is_err(), "{name}: its last {cut} bytes");
        }
        let longer: Bytes = [&bytes[..], &[0]].concat().into();
        assert!(read(&longer).is_err(), "{name}: a byte too many");
    }
}

#[test]
fn an_object_in_anothers_place_does_not_open() {
    for (name, _, read) in OBJECTS.iter() {
        for (other, bytes, own) in OBJECTS.iter() {
            let same_reader = std::ptr::fn_addr_eq(*read, *own);
            assert_eq!(read(bytes).is_ok(), same_reader, "{other} read as {name}");
        }
    }
    let (other_machine, other_timeline) = (MachineId([1; 16]), TimelineId([1; 8]));
    assert!(About::open(other_machine, GENERATION, &about_bytes(), &vault_key()).is_err());
    assert!(About::open(MACHINE, GENERATION + 1, &about_bytes(), &vault_key()).is_err(), "another generation");
    assert!(Manifest::open(MACHINE, other_timeline, &manifest_bytes(), &data_key()).is_err());
    assert!(Manifest::open(other_machine, TIMELINE, &manifest_bytes(), &data_key()).is_err());
    assert!(Footer::of_object(&data_key(), other_machine, TIMELINE, &segment()).is_err());
    assert!(Footer::of_object(&data_key(), MACHINE, other_timeline, &segment()).is_err());
    assert!(about().data_key.unwrap(&vault_key(), other_machine).is_err(), "another machine's data key");
}

#[test]
fn the_wrong_key_is_told_apart_from_damage() {
    let (wrong_vault, wrong_data) = (VaultKey::from_bytes([0; 32]), DataKey::from_bytes([0; 32]));
    let seal = "the seal of";
    let about = About::open(MACHINE, GENERATION, &about_bytes(), &wrong_vault).expect_err("wrong key");
    let manifest = Manifest::open(MACHINE, TIMELINE, &manifest_bytes(), &wrong_data).expect_err("wrong key");
    let footer = Footer::of_object(&wrong_data, MACHINE, TIMELINE, &segment()).expect_err("wrong key");
    for error in [about, manifest, footer] {
        assert!(error.to_string().starts_with(seal), "{error}");
    }
    let locked = || KeyObject::parse(&keys_bytes()).expect("well formed");
    let not_authentic = Err(KeysError::NotAuthentic { vault: keys().vault() });
    assert_eq!(locked().open(&wrong_vault), not_authentic);
    let passphrase = locked().open_with_passphrase("not this one at all").map(|(keys, _)| keys);
    assert_eq!(passphrase, Err(KeysError::WrongPassphrase));
    let other = farshore_engine::vault::keys::RecoveryKey::draw(&mut FixedZero);
    let recovery = locked().open_with_recovery(&other).map(|(keys, _)| keys);
    assert_eq!(recovery, Err(KeysError::WrongRecoveryKey));
}

struct FixedZero;

impl farshore_engine::ids::Chance for FixedZero {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// Gives bytes to everything that decodes them.
fn decode_everything(bytes: &Bytes) {
    let _ = SegmentIdentity::decode(bytes);
    let _ = ItemHeader::parse(bytes);
    let _ = ItemHeader::check(bytes);
    let _ = Trailer::parse(bytes);
    let _ = Footer::of_object(&data_key(), MACHINE, TIMELINE, bytes);
    let opener = FrameOpener::new(&data_key(), &identity(0x88));
    let _ = opener.open_item(bytes);
    let _ = scan_whole_batches(bytes);
    let _ = rebuild_index(&opener, bytes);
    let _ = LogState::take(&mut Take::new(bytes));
    let _ = RecordAt::take(&mut Take::new(bytes));
    let _ = take_records(&mut Take::new(bytes));
    let _ = Section::parse(bytes, 1 << 40);
    let _ = read_about(bytes);
    let _ = read_manifest(bytes);
    let _ = read_keys(bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes.into());
    }

    #[test]
    fn objects_with_a_few_bytes_changed_and_their_checksums_made_right_never_panic(
        which in 0..8_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (_, bytes, read) = &OBJECTS[which];
        let mut damaged = bytes.to_vec();
        for (at, value) in changes {
            let at = at.index(damaged.len());
            damaged[at] = value;
        }
        mend_checksums(&mut damaged);
        let damaged = Bytes::from(damaged);
        decode_everything(&damaged);
        let unchanged = damaged == *bytes;
        prop_assert_eq!(read(&damaged).is_ok(), unchanged);
    }
}

/// Puts right the CRCs over whatever is there now, as someone would who wants to be believed.
fn mend_checksums(bytes: &mut [u8]) {
    let len = bytes.len();
    match bytes.first_chunk::<8>() {
        Some(b"FARSHSEG") => {
            mend(bytes, 124, 0..124, 0..0);
            mend(bytes, len - 4, len - 128..len - 4, 0..0);
            let mut at = 128;
            while let Some(Ok(header)) = bytes.get(at..).map(ItemHeader::parse) {
                let end = (at + header.item_bytes()).min(len);
                mend(bytes, at + 44, at..at + 44, at + 48..end);
                at = end;
            }
        }
        Some(b"FARSHOBJ") => mend(bytes, 36, 0..36, 40..len),
        Some(b"FARSHKEY") => mend(bytes, len - 4, 0..len - 4, 0..0),
        _ => {}
    }
}

fn mend(bytes: &mut [u8], at: usize, one: Range<usize>, other: Range<usize>) {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&bytes[one]);
    crc.update(&bytes[other]);
    bytes[at..at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
}
