use super::*;

fn disk_of(size_bytes: u64) -> (tempfile::TempDir, PathBuf, BackingDisk) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(size_bytes)).expect("a file");
    let disk = BackingDisk::open(&path, BackingOptions::default()).expect("opens");
    (dir, path, disk)
}

#[test]
fn what_is_written_reads_back_and_what_is_trimmed_or_zeroed_reads_as_zeroes() {
    let (_dir, _, disk) = disk_of(1 << 20);
    disk.write(0, &[7; 65536]).expect("writes");
    disk.write_stable(65536, &[8; 4096]).expect("writes");
    disk.sync().expect("syncs");
    assert!(disk.trim(4096, 4096).expect("trims"));
    disk.zero(16384, 8192, true, false).expect("zeroes");
    disk.zero(32768, 512, false, false).expect("zeroes");
    let mut out = vec![0; 69632];
    disk.read(0, &mut out).expect("reads");
    for (at, byte) in out.iter().enumerate() {
        let expected = match at {
            4096..8192 | 16384..24576 | 32768..33280 => 0,
            65536.. => 8,
            _ => 7,
        };
        assert_eq!(*byte, expected, "at {at}");
    }
    let mut cached = vec![0; 4096];
    if disk.read_now(65536, &mut cached) {
        assert_eq!(cached, [8; 4096]);
    }
    assert!(disk.read(1 << 20, &mut [0; 512]).is_err(), "nothing lies behind the end");
}

#[test]
fn extents_follow_each_other_and_holes_read_as_zeroes() {
    let (_dir, _, disk) = disk_of(8 << 20);
    disk.write(1 << 20, &vec![1; 1 << 20]).expect("writes");
    disk.write(4 << 20, &[1; 4096]).expect("writes");
    let extents = disk.extents(0, 8 << 20, 100).expect("tells");
    let mut at = 0;
    for extent in &extents {
        assert!(extent.len > 0 && extent.len % 512 == 0);
        assert_eq!(extent.hole, extent.zero);
        let mut bytes = vec![1; extent.len as usize];
        disk.read(at, &mut bytes).expect("reads");
        assert!(!extent.zero || bytes.iter().all(|byte| *byte == 0), "at {at}");
        at += extent.len;
    }
    assert_eq!(at, 8 << 20);
    assert!(extents.iter().any(|extent| extent.hole), "ext4, xfs, btrfs and tmpfs all know holes: {extents:?}");
    assert_eq!(disk.extents(0, 8 << 20, 1).expect("tells").len(), 1);
    let inside = disk.extents((1 << 20) + 512, 512, 10).expect("tells");
    assert_eq!(inside, [StatusExtent { len: 512, hole: false, zero: false }]);
}

#[test]
fn a_disk_has_one_writer_and_any_number_of_readers() {
    let (_dir, path, disk) = disk_of(1 << 20);
    assert!(matches!(BackingDisk::open(&path, BackingOptions::default()), Err(BackingError::InUse { .. })));
    let reader = BackingDisk::open(&path, BackingOptions { read_only: true, ..Default::default() }).expect("opens");
    assert!(reader.trim(0, 512).is_err() && reader.write(0, &[0; 512]).is_err());
    assert_eq!(reader.identity().expect("known"), disk.identity().expect("known"));
    drop(disk);
    assert!(BackingDisk::open(&path, BackingOptions::default()).is_ok());
}

#[test]
fn a_size_that_is_no_multiple_of_the_sector_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("odd.img");
    std::fs::write(&path, vec![0; 6 * 512]).expect("a file");
    let options = |sector| BackingOptions { sector_bytes: Some(sector), read_only: false };
    let error = BackingDisk::open(&path, options(4096)).expect_err("refused").to_string();
    assert!(error.contains("3072") && error.contains("4096"), "{error}");
    assert!(BackingDisk::open(&path, options(512)).is_ok());
    assert!(matches!(BackingDisk::open(&path, options(1024)), Err(BackingError::Sector { sector_bytes: 1024 })));
    assert!(matches!(BackingDisk::open(dir.path(), options(512)), Err(BackingError::Kind { .. })));
}
