//! By what a disk is recognised, and whether others have changed it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::UNIX_EPOCH;

use super::activity_layout::DiskIdentity;
use crate::nbd::backing::BackingDisk;

/// The disk's identity as of now.
///
/// A block device tells no times: that others wrote to it is found only where its size or serial number changed.
pub fn of(backing: &BackingDisk) -> io::Result<DiskIdentity> {
    let known = backing.identity()?;
    if known.block_device {
        return Ok(DiskIdentity {
            size_bytes: known.size_bytes,
            serial: device_serial(known.device),
            ..DiskIdentity::default()
        });
    }
    let meta = fs::metadata(backing.path())?;
    if (meta.dev(), meta.ino()) != (known.device, known.inode) {
        let text = format!("{} is not the file that was opened: it was replaced", backing.path().display());
        return Err(io::Error::other(text));
    }
    let born_ns = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let nanos = |seconds: i64, nanos: i64| seconds.saturating_mul(1_000_000_000).saturating_add(nanos);
    Ok(DiskIdentity {
        size_bytes: known.size_bytes,
        inode: known.inode,
        born_ns: born_ns.and_then(|born| i64::try_from(born.as_nanos()).ok()).unwrap_or(0),
        serial: 0,
        modified_ns: nanos(meta.mtime(), meta.mtime_nsec()),
        changed_ns: nanos(meta.ctime(), meta.ctime_nsec()),
    })
}

fn device_serial(device: u64) -> u64 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let named = ["device/wwid", "wwid", "device/serial", "serial", "dm/uuid"]
        .iter()
        .find_map(|file| fs::read(format!("/sys/dev/block/{major}:{minor}/{file}")).ok());
    named.map_or(0, |text| {
        let hash = blake3::hash(&text);
        u64::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    })
}
