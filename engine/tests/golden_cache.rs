//! The files that only the cache has keep the bytes of their versions (`golden.rs` says how they are written anew).

use std::path::PathBuf;
use std::sync::Arc;

use farshore_engine::cache::dir::CacheDir;
use farshore_engine::cache::io::DiskIo;
use farshore_engine::cache::note::{NOTE_BYTES, Note};
use farshore_engine::ids::{Epoch, MachineId, Slot, TimelineId, WriterId};
use farshore_engine::log::Owner;
use farshore_engine::vault::segment::{FooterDigest, FooterPlace};

fn golden(name: &str, made: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, made).expect("golden files can be written");
    }
    let file = std::fs::read(&path).expect("the golden file is there");
    assert!(file == made, "{name}: a change of format needs a new version");
    file
}

#[test]
fn an_owner_file_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let cache = tempfile::tempdir().expect("a directory");
    let open = || CacheDir::open(Arc::new(DiskIo), cache.path(), MachineId([1; 16]), TimelineId([2; 8]));
    let owner = Owner { epoch: Epoch(0x0102_0304_0506_0708), writer: WriterId([9; 16]) };
    open().expect("made").claim(owner).expect("nobody's");
    let path = open().expect("there").path().join("owner");
    let file = golden("v1/cache-owner", &std::fs::read(&path).expect("written"));
    std::fs::write(&path, file).expect("put back");
    assert_eq!(open().expect("there").owner().expect("readable"), Some(owner));
}

#[test]
fn a_note_has_the_bytes_of_its_version_and_reads_as_it_did() {
    let place = FooterPlace { slot: Slot(0x1122), previous: FooterDigest([3; 32]) };
    for (name, footer_crc) in [("v1/cache-note", None), ("v2/cache-note", Some(0x0506_0708))] {
        let note = Note { object_bytes: 70_000, items_end: 65_000, place, digest: FooterDigest([4; 32]), footer_crc };
        let file = golden(name, &note.encode());
        assert_eq!(Note::decode(&file, 70_000 + NOTE_BYTES as u64), Some(note), "{name}");
    }
}
