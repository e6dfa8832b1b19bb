//! Layouts held against QEMU's own tools: what they check and read must be the disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;

const STAMP: Stamp = Stamp { unix_seconds: 1_700_000_000, id: [7; 16] };

/// Writes a disk with these extents of data in each format; the byte of each place is its own.
fn write(format: Format, size_bytes: u64, extents: &[Range<u64>], path: &Path) -> Layout {
    let mut allocated = Allocated::new(size_bytes, format.block_bytes());
    extents.iter().for_each(|extent| allocated.add(extent.clone()));
    let layout = Layout::new(format, size_bytes, allocated, STAMP).expect("it fits");
    let file = File::create(path).expect("create");
    file.set_len(layout.file_bytes()).expect("size");
    for extent in extents.iter().rev() {
        let mut at = extent.start;
        for (place, len) in layout.places(extent.clone()) {
            let bytes: Vec<u8> = (at..at + len as u64).map(|offset| (offset / 512 % 255) as u8 + 1).collect();
            file.write_all_at(&bytes, place).expect("write");
            at += len as u64;
        }
        assert_eq!(at, extent.end);
    }
    for (at, bytes) in layout.metadata() {
        assert!(at + bytes.len() as u64 <= layout.file_bytes());
        file.write_all_at(&bytes, at).expect("write");
    }
    layout
}

/// Whether QEMU's tools are there; in CI they must be.
fn qemu_img(args: &[&str]) -> Option<String> {
    match Command::new("qemu-img").args(args).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "qemu-img {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
            Some(text)
        }
        Err(_) => {
            assert!(std::env::var_os("CI").is_none(), "qemu-img is needed: scripts/setup.sh");
            None
        }
    }
}

fn qemu_name(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Qcow2 => "qcow2",
        Format::VhdFixed | Format::VhdDynamic => "vpc",
    }
}

fn check(size_bytes: u64, extents: &[Range<u64>]) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let raw = dir.path().join("disk.raw");
    write(Format::Raw, size_bytes, extents, &raw);
    for format in FORMATS {
        let path = dir.path().join(format.name());
        write(format, size_bytes, extents, &path);
        let (name, at, reference) = (qemu_name(format), path.to_str().expect("text"), raw.to_str().expect("text"));
        let Some(info) = qemu_img(&["info", "-f", name, "--output=json", at]) else { return };
        let whole = if format.extension() == "vhd" { size_bytes.next_multiple_of(1 << 20) } else { size_bytes };
        assert!(info.contains(&format!("\"virtual-size\": {whole}")), "{format}: {info}");
        if format == Format::Qcow2 {
            qemu_img(&["check", "-f", name, at]);
        }
        qemu_img(&["compare", "-f", name, "-F", "raw", at, reference]);
    }
}

#[test]
fn qemu_reads_every_format_as_the_disk_it_is() {
    const MIB: u64 = 1 << 20;
    check(MIB, &[]);
    check(64 * MIB, &[0..512, 3 * MIB - 512..3 * MIB + 1024, 17 * MIB..21 * MIB + 4096, 64 * MIB - 512..64 * MIB]);
    // Not a whole number of anything but sectors; over the border of an L2 table (512 MiB).
    check(1300 * MIB + 512, &[MIB..MIB + 512, 511 * MIB..513 * MIB, 1300 * MIB..1300 * MIB + 512]);
}

#[test]
fn a_large_sparse_disk_is_a_small_file_and_one_that_is_too_large_is_refused() {
    let size = 6 << 40;
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("large.qcow2");
    let layout = write(Format::Qcow2, size, &[size / 2..size / 2 + 4096, size - 512..size], &path);
    assert!(layout.file_bytes() < 4 << 20, "{}", layout.file_bytes());
    qemu_img(&["check", "-f", "qcow2", path.to_str().expect("text")]);
    let refused = Layout::new(Format::VhdDynamic, size, Allocated::new(size, vhd::BLOCK_BYTES), STAMP);
    assert!(refused.is_err());
}

#[test]
fn a_fixed_vhd_is_what_azure_takes() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let path = dir.path().join("disk.vhd");
    write(Format::VhdFixed, (5 << 20) + 512, std::slice::from_ref(&(0..512)), &path);
    let bytes = fs::read(&path).expect("read");
    assert_eq!(bytes.len(), (6 << 20) + 512, "whole MiB and the footer");
    let footer = &bytes[6 << 20..];
    assert!(footer.starts_with(b"conectix") && footer[48..56] == (6_u64 << 20).to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_byte_has_a_place_of_its_own(spots in proptest::collection::btree_set(0_u64..4000, 0..40)) {
        let size_bytes = 4000 * 40_960;
        let extents: Vec<_> = spots.iter().map(|spot| spot * 40_960..spot * 40_960 + 20_480).collect();
        for format in FORMATS {
            let mut allocated = Allocated::new(size_bytes, format.block_bytes());
            extents.iter().for_each(|extent| allocated.add(extent.clone()));
            let layout = Layout::new(format, size_bytes, allocated, STAMP).expect("it fits");
            let mut used: Vec<(u64, u64)> = extents
                .iter()
                .flat_map(|extent| layout.places(extent.clone()))
                .map(|(at, len)| (at, at + len as u64))
                .chain(layout.metadata().map(|(at, bytes)| (at, at + bytes.len() as u64)))
                .collect();
            used.sort_unstable();
            prop_assert!(used.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{} overlaps: {:?}", format, used);
            prop_assert!(used.last().is_none_or(|last| last.1 <= layout.file_bytes()));
        }
    }
}
