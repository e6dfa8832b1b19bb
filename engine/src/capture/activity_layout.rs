//! The bytes of an activity log: which regions of one disk are hot, and what makes that believable.
//!
//! ```text
//!   0      header, copy 0 (512)
//!   512    header, copy 1 (512)         the one with the higher sequence counts
//!   4096   page 0 (512), page 1, ...    3840 regions each
//!
//!   header  0 magic "FARSHACT" | 8 version u16 | 10 clean u8 | 11 zero | 16 sequence u64 | 24 region_bytes u64
//!           | 32 size_bytes u64 | 40 inode u64 | 48 born_ns i64 | 56 serial u64 | 64 modified_ns i64 | 72 changed_ns i64
//!           | 80 vault 16 | 96 machine 16 | 112 timeline 8 | 120 incarnation 16 | 136 zero | 508 crc u32
//!   page    0 magic "FALP" | 4 page u32 | 8 generation u64 | 16 bits 480 | 496 zero | 508 crc u32
//! ```
//!
//! Everything is written in pieces of one 512-byte sector, which storage writes whole or not at all; where it does not,
//! the checksum says so. A torn header leaves the other copy, which is right: nothing rests on a header before it is
//! synced. A page that does not hold counts as hot in all its regions: safe, and bounded to 3840 regions.

use crate::codec::{Malformed, Put, Take};
use crate::ids::{IncarnationId, MachineId, TimelineId, VaultId};

use super::bits::RegionSet;

/// Version of the layout.
pub const ACTIVITY_VERSION: u16 = 1;
/// Size of a header copy and of a page, in bytes: the smallest sector there is.
pub const PAGE_BYTES: usize = 512;
/// Regions of one page.
pub const PAGE_REGIONS: u32 = 480 * 8;
/// Where the pages begin.
pub const PAGES_AT: u64 = 4096;

const HEADER_MAGIC: &[u8; 8] = b"FARSHACT";
const PAGE_MAGIC: &[u8; 4] = b"FALP";
const CRC_AT: usize = PAGE_BYTES - 4;

/// What tells a disk from another, and from itself changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskIdentity {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Inode of a file; 0 for a device.
    pub inode: u64,
    /// When that inode was made, in nanoseconds since 1970; 0 where unknown.
    pub born_ns: i64,
    /// Hash of a device's serial number; 0 where unknown.
    pub serial: u64,
    /// Modification time in nanoseconds since 1970; 0 for a device.
    pub modified_ns: i64,
    /// Change time in nanoseconds since 1970; 0 for a device.
    pub changed_ns: i64,
}

/// Which log the regions are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogIdentity {
    /// The vault.
    pub vault: VaultId,
    /// The machine.
    pub machine: MachineId,
    /// The timeline.
    pub timeline: TimelineId,
}

/// The head of an activity log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActivityHeader {
    /// Goes up with every version of the header.
    pub sequence: u64,
    /// The life ended with a clean stop, and the times of `disk` are those after it.
    pub clean: bool,
    /// Size of a region in bytes.
    pub region_bytes: u64,
    /// The disk.
    pub disk: DiskIdentity,
    /// The log.
    pub log: LogIdentity,
    /// The life that writes the activity log.
    pub incarnation: IncarnationId,
}

impl ActivityHeader {
    /// Its sector.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Put::with_capacity(PAGE_BYTES);
        out.slice(HEADER_MAGIC).u16(ACTIVITY_VERSION).u8(self.clean.into()).slice(&[0; 5]);
        out.u64(self.sequence).u64(self.region_bytes);
        let disk = &self.disk;
        out.u64(disk.size_bytes).u64(disk.inode).i64(disk.born_ns).u64(disk.serial);
        out.i64(disk.modified_ns).i64(disk.changed_ns);
        out.slice(&self.log.vault.0).slice(&self.log.machine.0).slice(&self.log.timeline.0);
        out.slice(&self.incarnation.0);
        sealed(out)
    }

    /// Reads a sector.
    pub fn decode(sector: &[u8]) -> Result<Self, Malformed> {
        let what = "activity log header";
        let mut input = checked(sector, what)?;
        expect(&mut input, HEADER_MAGIC, what)?;
        match input.u16("activity log version")? {
            ACTIVITY_VERSION => {}
            version => return Err(Malformed::Version { what: "activity log", version, newest: ACTIVITY_VERSION }),
        }
        let clean = input.u8("clean flag")? == 1;
        input.bytes(5, what)?;
        let (sequence, region_bytes) = (input.u64(what)?, input.u64("region size")?);
        let disk = DiskIdentity {
            size_bytes: input.u64("disk size")?,
            inode: input.u64("inode")?,
            born_ns: input.i64("birth time")?,
            serial: input.u64("serial")?,
            modified_ns: input.i64("modification time")?,
            changed_ns: input.i64("change time")?,
        };
        let log = LogIdentity {
            vault: VaultId(input.array("vault")?),
            machine: MachineId(input.array("machine")?),
            timeline: TimelineId(input.array("timeline")?),
        };
        let incarnation = IncarnationId(input.array("incarnation")?);
        if !region_bytes.is_power_of_two() || region_bytes < 4096 {
            return Err(Malformed::Value { what: "region size", value: region_bytes });
        }
        if disk.size_bytes.div_ceil(region_bytes) > u64::from(u32::MAX) {
            return Err(Malformed::Value { what: "disk size", value: disk.size_bytes });
        }
        Ok(Self { sequence, clean, region_bytes, disk, log, incarnation })
    }

    /// How many regions its disk has.
    pub fn regions(&self) -> u32 {
        region_count(self.disk.size_bytes, self.region_bytes)
    }
}

/// How many regions a disk has.
pub fn region_count(size_bytes: u64, region_bytes: u64) -> u32 {
    u32::try_from(size_bytes.div_ceil(region_bytes)).expect("a disk has fewer than 2^32 regions")
}

/// How many pages hold so many regions.
pub fn page_count(regions: u32) -> u32 {
    regions.div_ceil(PAGE_REGIONS)
}

/// Where a page lies.
pub fn page_at(page: u32) -> u64 {
    PAGES_AT + u64::from(page) * PAGE_BYTES as u64
}

/// A page's sector.
pub fn encode_page(page: u32, generation: u64, hot: &RegionSet) -> Vec<u8> {
    let mut out = Put::with_capacity(PAGE_BYTES);
    out.slice(PAGE_MAGIC).u32(page).u64(generation);
    let words = hot.words();
    let from = (page * PAGE_REGIONS / 64) as usize;
    for at in from..from + (PAGE_REGIONS / 64) as usize {
        out.u64(words.get(at).copied().unwrap_or(0));
    }
    sealed(out)
}

/// Reads a page's sector into `hot`; returns its generation.
pub fn decode_page(page: u32, sector: &[u8], hot: &mut RegionSet) -> Result<u64, Malformed> {
    let what = "activity log page";
    let mut input = checked(sector, what)?;
    expect(&mut input, PAGE_MAGIC, what)?;
    let found = input.u32("page number")?;
    if found != page {
        return Err(Malformed::Value { what: "page number", value: found.into() });
    }
    let generation = input.u64("page generation")?;
    for word in 0..PAGE_REGIONS / 64 {
        let mut bits = input.u64("page bits")?;
        while bits != 0 {
            let region = page * PAGE_REGIONS + word * 64 + bits.trailing_zeros();
            if region >= hot.size() {
                return Err(Malformed::Value { what: "hot region", value: region.into() });
            }
            hot.insert(region);
            bits &= bits - 1;
        }
    }
    Ok(generation)
}

fn sealed(mut out: Put) -> Vec<u8> {
    out.buffer().resize(CRC_AT, 0);
    let crc = crc32fast::hash(out.as_slice());
    out.u32(crc);
    out.into_bytes().to_vec()
}

fn checked<'a>(sector: &'a [u8], what: &'static str) -> Result<Take<'a>, Malformed> {
    let sector = sector.get(..PAGE_BYTES).ok_or(Malformed::Short { what })?;
    let (body, crc) = sector.split_at(CRC_AT);
    if crc32fast::hash(body).to_le_bytes() != crc {
        return Err(Malformed::Checksum { what });
    }
    Ok(Take::new(body))
}

fn expect(input: &mut Take<'_>, magic: &[u8], what: &'static str) -> Result<(), Malformed> {
    if input.bytes(magic.len(), what)? == magic { Ok(()) } else { Err(Malformed::Value { what, value: 0 }) }
}
