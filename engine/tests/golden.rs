//! The formats stay as they are: every object, made of fixed keys and chance, has the bytes that were committed with
//! version 1, and the committed bytes still read as what was put into them. After a deliberate change of format (with
//! its version) the files are written anew with `FARSHORE_BLESS=1`.

use std::path::PathBuf;

use bytes::Bytes;
use farshore_engine::vault::about::About;
use farshore_engine::vault::catalog::Catalog;
use farshore_engine::vault::keys::KeyObject;
use farshore_engine::vault::manifest::Manifest;
use farshore_engine::vault::segment::{Codec, Footer, Packing};

#[path = "golden/objects.rs"]
mod objects;

use objects::*;

fn golden(name: &str, made: &Bytes) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, made).expect("golden files can be written");
    }
    let file = Bytes::from(std::fs::read(&path).expect("the golden file is there"));
    assert!(
        file == made,
        "{name}: {} bytes are made, {} are committed; a change of format needs a new version",
        made.len(),
        file.len()
    );
    file
}

#[test]
fn a_segment_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let file = golden("segment", &segment());
    golden("segment.txt", &read_log_object(&file).expect("it opens").into());
}

/// Which bytes zstd makes is the library's affair from release to release; what it once made must always be read.
#[test]
fn a_segment_of_version_2_with_zstd_frames_reads_as_it_did_and_what_is_made_today_reads_alike() {
    let made = zstd_segment();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v2/segment");
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, &made).expect("golden files can be written");
    }
    let file = Bytes::from(std::fs::read(&path).expect("the golden file is there"));
    golden("../v2/segment.txt", &read_log_object(&file).expect("it opens").into());
    let footers = [&file, &made, &segment()]
        .map(|object| Footer::of_object(&data_key(), MACHINE, TIMELINE, object).expect("it opens"));
    let codecs = |footer: &Footer| footer.frames.iter().map(|frame| frame.codec).collect::<Vec<_>>();
    assert_eq!(codecs(&footers[0])[0], Codec::Zstd);
    assert_eq!(codecs(&footers[0]), codecs(&footers[1]));
    let rows = |footer: &Footer| (footer.counters, footer.records.clone(), footer.state.clone());
    assert!(rows(&footers[0]) == rows(&footers[1]) && rows(&footers[0]) == rows(&footers[2]));
    let plain = |object: &Bytes| {
        let read = read_log_object(object).expect("it opens");
        let digests = read.lines().filter(|line| line.starts_with("item "));
        digests.map(|line| line.rsplit(' ').next().expect("a digest").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(plain(&file), plain(&made));
    assert_eq!(plain(&file), plain(&segment()));
}

#[test]
fn a_fence_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let file = golden("fence", &fence());
    golden("fence.txt", &read_log_object(&file).expect("it opens").into());
}

#[test]
fn a_branch_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let file = golden("branch", &branch());
    golden("branch.txt", &read_log_object(&file).expect("it opens").into());
}

#[test]
fn a_machines_description_has_the_bytes_of_version_1_and_gives_its_data_key() {
    let file = golden("about", &about_bytes());
    let opened = About::open(MACHINE, GENERATION, &file, &vault_key()).expect("it opens");
    assert_eq!(opened, about());
    let key = opened.unwrap_data_key(&vault_key()).expect("the machine's own");
    assert_eq!(key.as_bytes(), data_key().as_bytes());
}

#[test]
fn a_manifest_has_the_bytes_of_version_1() {
    let file = golden("manifest", &manifest_bytes());
    assert_eq!(Manifest::open(MACHINE, TIMELINE, &file, &data_key()), Ok(manifest()));
}

#[test]
fn a_part_of_a_run_has_the_bytes_it_had_at_first_and_reads_as_it_did() {
    let file = golden("run", &run_part());
    golden("run.txt", &read_log_object(&file).expect("it opens").into());
}

#[test]
fn a_manifest_with_runs_has_the_bytes_it_had_at_first() {
    let file = golden("manifest-2", &first_merged_manifest_bytes());
    assert_eq!(Manifest::open(MACHINE, TIMELINE, &file, &data_key()), Ok(first_merged_manifest()));
    let file = golden("manifest-3", &merged_manifest_bytes());
    assert_eq!(Manifest::open(MACHINE, TIMELINE, &file, &data_key()), Ok(merged_manifest()));
}

#[test]
fn a_catalog_snapshot_has_the_bytes_of_version_1() {
    let file = golden("catalog", &catalog_bytes());
    assert_eq!(Catalog::open(GENERATION, &file, &vault_key()), Ok(catalog()));
}

#[test]
fn a_rotating_key_object_has_the_bytes_of_its_version_2_and_gives_the_key_before() {
    let file = golden("keys-rotating", &rotating_keys_bytes());
    let opened = KeyObject::parse(&file).expect("well formed").open(&vault_key()).expect("its key");
    assert_eq!(opened, rotating_keys());
    let previous = opened.previous(&vault_key()).expect("it is being rotated");
    assert_eq!(previous.as_bytes(), previous_vault_key().as_bytes());
}

#[test]
fn a_key_object_has_the_bytes_of_version_1_and_opens_in_each_of_its_ways() {
    let file = golden("keys", &keys_bytes());
    let locked = || KeyObject::parse(&file).expect("well formed");
    assert_eq!(locked().open(&vault_key()), Ok(keys()));
    let (_, by_passphrase) = locked().open_with_passphrase(PASSPHRASE).expect("its passphrase");
    let (_, by_recovery) = locked().open_with_recovery(&recovery_key()).expect("its recovery key");
    for key in [by_passphrase, by_recovery] {
        assert_eq!(key.as_bytes(), vault_key().as_bytes());
    }
}

#[test]
fn an_index_survives_in_the_footer_that_was_made_of_it() {
    let (_, index) = open_segment(Packing::Snappy);
    let footer = Footer::of_object(&data_key(), MACHINE, TIMELINE, &segment()).expect("it opens");
    assert_eq!(footer.frames, index.frames());
    assert_eq!(footer.state, state());
}
