//! Activity logs that do not hold what they were given.

use std::fs::File;
use std::io;

use farshore_engine::capture::RegionSet;
use farshore_engine::capture::activity_layout::{PAGE_BYTES, PAGE_REGIONS, PAGES_AT, encode_page};
use farshore_engine::capture::activity_log::Medium;

/// Whatever is recorded as hot is told to be synced, and what a crash leaves holds nothing.
pub(super) struct Unsynced(pub(super) File);

impl Medium for Unsynced {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        self.0.read_all()
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some(behind) = offset.checked_sub(PAGES_AT) else { return self.0.write_at(offset, bytes) };
        let page = u32::try_from(behind / PAGE_BYTES as u64).map_err(io::Error::other)?;
        let nothing = RegionSet::none((page + 1) * PAGE_REGIONS);
        self.0.write_at(offset, &encode_page(page, 1, &nothing))
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Medium::set_len(&self.0, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}

/// Nothing is there at the next start.
pub(super) struct Forgotten(pub(super) File);

impl Medium for Forgotten {
    fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        Medium::set_len(&self.0, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
}
