//! Whatever bytes are given to a decoder outside the vault's objects (those are in `damage`), it answers or refuses: it never
//! panics, and never takes a changed copy for a whole one.

use farshore_engine::agent::state::AgentState;
use farshore_engine::cache::note::Note;
use farshore_engine::capture::RegionSet;
use farshore_engine::capture::activity_layout::{ActivityHeader, LogIdentity, decode_page, encode_page};
use farshore_engine::control::messages::{FromMember, ToMember, decode};
use farshore_engine::ids::{IncarnationId, MachineId, Slot, TimelineId, VaultId};
use farshore_engine::vault::keys::{RecoveryKey, parse_key_file};
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::segment::{FooterDigest, FooterPlace};
use farshore_engine::vault::store::azure::{AzureCredential, AzurePlace};
use proptest::prelude::*;

fn note() -> Vec<u8> {
    let place = FooterPlace { slot: Slot(7), previous: FooterDigest([1; 32]) };
    Note { object_bytes: 900, items_end: 700, place, digest: FooterDigest([2; 32]), footer_crc: Some(5) }
        .encode()
        .to_vec()
}

fn agent_state() -> Vec<u8> {
    let log = LogIdentity { vault: VaultId([1; 16]), machine: MachineId([2; 16]), timeline: TimelineId([3; 8]) };
    AgentState::next_life(None, log, IncarnationId([4; 16])).encode()
}

fn page() -> Vec<u8> {
    encode_page(0, 3, &RegionSet::all(1000))
}

/// Puts the last four bytes right, as someone would who wants to be believed.
fn mend(bytes: &mut [u8]) {
    if let Some((body, crc)) = bytes.split_last_chunk_mut::<4>() {
        *crc = crc32fast::hash(body).to_le_bytes();
    }
}

fn decode_everything(bytes: &[u8]) {
    let _ = Note::decode(bytes, bytes.len() as u64);
    let _ = AgentState::decode(bytes);
    if let Ok(header) = ActivityHeader::decode(bytes) {
        let _ = header.regions();
    }
    let _ = decode_page(0, bytes, &mut RegionSet::none(1000));
    let _ = decode::<FromMember>(bytes);
    let _ = decode::<ToMember>(bytes);
    let text = String::from_utf8_lossy(bytes);
    let _ = text.parse::<RecoveryKey>();
    let _ = parse_key_file(&text);
    let _ = ObjectName::listed(&text);
    let _ = AzurePlace::parse(&text, None);
    let _ = AzurePlace::parse("azblob://account/container", Some(&text));
    let _ = AzurePlace::parse(&format!("azblob://{text}"), Some(&text));
    let _ = AzureCredential::sas(&text);
    let _ = AzureCredential::shared_key(&text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        decode_everything(&bytes);
    }

    #[test]
    fn random_sectors_with_a_right_checksum_never_panic(bytes in prop::collection::vec(any::<u8>(), 512..=512)) {
        let mut bytes = bytes;
        mend(&mut bytes);
        decode_everything(&bytes);
    }

    #[test]
    fn a_copy_with_a_few_bytes_changed_is_refused_and_with_its_checksum_made_right_never_panics(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..4),
    ) {
        let whole = [note(), agent_state(), page()][which].clone();
        let mut changed = whole.clone();
        for (at, by) in changes {
            let at = at.index(changed.len());
            changed[at] ^= by;
        }
        if changed != whole {
            let refused = match which {
                0 => Note::decode(&changed, 900 + 128).is_none(),
                1 => AgentState::decode(&changed).is_err(),
                _ => decode_page(0, &changed, &mut RegionSet::none(1000)).is_err(),
            };
            prop_assert!(refused, "object {} was taken for whole", which);
        }
        mend(&mut changed);
        decode_everything(&changed);
    }
}
