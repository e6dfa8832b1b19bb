//! A copy-on-write overlay: what is written to a served point lands in a sparse temporary file, never in the vault.
//!
//! The disk is cut into granules of at least 4 KiB. Each is in one of three states, two bits in memory, kept in chunks
//! that are made when something in them is first written:
//!
//! ```text
//!            write                    write
//!     Base ─────────► Data ◄───────── Zero
//!       │               │  zero         ▲
//!       └───────────────┴───────────────┘
//!     Base: the point's own bytes    Data: the file's bytes    Zero: zeroes, nothing stored
//! ```
//!
//! Memory is bounded by [`STATES_BYTES_MAX`] whatever the disk's size: larger disks have larger granules (I10). The
//! file is unlinked as soon as it is open, so a crash of the server leaves nothing behind, and nothing of an overlay
//! survives one: that is what an overlay is for. A flush has nothing to do.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use rustix::fs::{FallocateFlags, fallocate};

/// Smallest granule, in bytes: the block size of the filesystems that sit on served points.
const GRANULE_BYTES_MIN: u64 = 4096;
/// Most memory for the states of one overlay, in bytes. Chosen: 4 KiB granules for disks up to 1 TiB; half of it
/// doubles the copy that a small write to a very large disk begins with.
pub const STATES_BYTES_MAX: u64 = 64 << 20;
/// Granules whose states are kept together: 64 MiB of the disk in 4 KiB of memory.
const CHUNK_GRANULES: u64 = 16_384;
/// Granules in one byte.
const GRANULES_PER_BYTE: u64 = 4;

/// Where the bytes of a granule are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the point itself.
    Base,
    /// In the overlay's file.
    Data,
    /// Nowhere: they are zeroes.
    Zero,
}

/// What the granules hold.
#[derive(Debug)]
struct States {
    chunks: Vec<Option<Box<[u8]>>>,
}

impl States {
    fn get(&self, granule: u64) -> Place {
        let (chunk, byte, shift) = Self::find(granule);
        match self.chunks[chunk].as_ref().map_or(0, |chunk| chunk[byte] >> shift & 3) {
            0 => Place::Base,
            1 => Place::Data,
            _ => Place::Zero,
        }
    }

    fn set(&mut self, granule: u64, place: Place) {
        let (chunk, byte, shift) = Self::find(granule);
        let empty = || vec![0; (CHUNK_GRANULES / GRANULES_PER_BYTE) as usize].into_boxed_slice();
        let chunk = self.chunks[chunk].get_or_insert_with(empty);
        chunk[byte] = chunk[byte] & !(3 << shift) | (place as u8) << shift;
    }

    fn find(granule: u64) -> (usize, usize, u64) {
        let within = granule % CHUNK_GRANULES;
        let shift = within % GRANULES_PER_BYTE * 2;
        ((granule / CHUNK_GRANULES) as usize, (within / GRANULES_PER_BYTE) as usize, shift)
    }
}

/// The overlay of one served disk.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    size_bytes: u64,
    granule_bytes: u64,
    /// Read: the states stand still, and bytes of granules in state Data may be written. Write: states change.
    states: RwLock<States>,
}

impl Overlay {
    /// An empty overlay for a disk of `size_bytes`, its file in `dir`.
    pub fn create(dir: &Path, size_bytes: u64) -> io::Result<Self> {
        let file = unlinked_file(dir)?;
        file.set_len(size_bytes)?;
        let mut granule_bytes = GRANULE_BYTES_MIN;
        while size_bytes.div_ceil(granule_bytes) / GRANULES_PER_BYTE > STATES_BYTES_MAX {
            granule_bytes *= 2;
        }
        let chunks = size_bytes.div_ceil(granule_bytes).div_ceil(CHUNK_GRANULES);
        let states = States { chunks: (0..chunks).map(|_| None).collect() };
        Ok(Self { file, size_bytes, granule_bytes, states: RwLock::new(states) })
    }

    /// Where the bytes of `range` are, from left to right, as runs that are as long as they can be.
    pub fn places(&self, range: Range<u64>) -> Vec<(Range<u64>, Place)> {
        let states = self.states.read();
        let mut runs: Vec<(Range<u64>, Place)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let granule = at / self.granule_bytes;
            let (end, place) = match &states.chunks[(granule / CHUNK_GRANULES) as usize] {
                Some(_) => ((granule + 1) * self.granule_bytes, states.get(granule)),
                None => ((granule / CHUNK_GRANULES + 1) * CHUNK_GRANULES * self.granule_bytes, Place::Base),
            };
            let end = end.min(range.end);
            match runs.last_mut() {
                Some((last, same)) if *same == place => last.end = end,
                _ => runs.push((at..end, place)),
            }
            at = end;
        }
        runs
    }

    /// Reads bytes that [`Overlay::places`] said are `Data`.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    /// Writes `data`. `base` reads the point's own bytes; it is asked for the rest of granules that the write covers in
    /// part.
    pub fn write<E: From<io::Error>>(
        &self,
        offset: u64,
        data: &[u8],
        base: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let range = offset..offset + data.len() as u64;
        {
            let states = self.states.read();
            if self.granules(&range).all(|granule| states.get(granule) == Place::Data) {
                return Ok(self.file.write_all_at(data, offset)?);
            }
        }
        // The point never changes, so its bytes are read before the lock: a slow store holds up nobody else.
        let edges =
            self.edges(&range).map(|granule| self.base_granule(granule, &base)).collect::<Result<Vec<_>, E>>()?;
        let mut states = self.states.write();
        for (granule, mut bytes) in edges {
            let at = granule * self.granule_bytes;
            match states.get(granule) {
                Place::Data => continue,
                Place::Zero => bytes.fill(0),
                Place::Base => {}
            }
            self.file.write_all_at(&bytes, at)?;
            states.set(granule, Place::Data);
        }
        self.file.write_all_at(data, offset)?;
        self.granules(&range).for_each(|granule| states.set(granule, Place::Data));
        Ok(())
    }

    /// Makes a range zeroes, without storing those of whole granules.
    pub fn zero<E: From<io::Error>>(
        &self,
        range: Range<u64>,
        base: impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let first = range.start.div_ceil(self.granule_bytes);
        // The disk's last granule may be shorter than the others; it is whole where the range reaches the disk's end.
        let last = if range.end == self.size_bytes {
            range.end.div_ceil(self.granule_bytes)
        } else {
            range.end / self.granule_bytes
        };
        if first >= last {
            return self.write(range.start, &vec![0; (range.end - range.start) as usize], base);
        }
        let whole = first * self.granule_bytes..(last * self.granule_bytes).min(self.size_bytes);
        if range.start < whole.start {
            self.write(range.start, &vec![0; (whole.start - range.start) as usize], &base)?;
        }
        if whole.end < range.end {
            self.write(whole.end, &vec![0; (range.end - whole.end) as usize], &base)?;
        }
        let mut states = self.states.write();
        (first..last).for_each(|granule| states.set(granule, Place::Zero));
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // Only to give room back: the states say zero already, and not every filesystem can do it.
        let _ = fallocate(&self.file, flags, whole.start, whole.end - whole.start);
        Ok(())
    }

    fn granules(&self, range: &Range<u64>) -> Range<u64> {
        range.start / self.granule_bytes..range.end.div_ceil(self.granule_bytes)
    }

    /// The granules that a write of `range` covers in part.
    fn edges(&self, range: &Range<u64>) -> impl Iterator<Item = u64> {
        let (range, size, granule) = (range.clone(), self.size_bytes, self.granule_bytes);
        let left = (!range.start.is_multiple_of(granule)).then_some(range.start / granule);
        let right = (!range.end.is_multiple_of(granule) && range.end != size).then_some(range.end / granule);
        left.into_iter().chain(right.filter(|right| left != Some(*right)))
    }

    fn base_granule<E>(
        &self,
        granule: u64,
        base: &impl Fn(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(u64, Vec<u8>), E> {
        let at = granule * self.granule_bytes;
        let mut bytes = vec![0; self.granule_bytes.min(self.size_bytes - at) as usize];
        base(at, &mut bytes)?;
        Ok((granule, bytes))
    }
}

/// A file in `dir` that has no name any more.
fn unlinked_file(dir: &Path) -> io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".farshore-overlay-{}-{number}", std::process::id()));
        match OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 5 * GRANULE_BYTES_MIN + 512;

    fn base(offset: u64, out: &mut [u8]) -> io::Result<()> {
        (offset..).zip(out).for_each(|(at, byte)| *byte = (at % 251) as u8 | 1);
        Ok(())
    }

    fn whole(overlay: &Overlay) -> Vec<u8> {
        let mut out = vec![0xee; SIZE as usize];
        for (range, place) in overlay.places(0..SIZE) {
            let part = &mut out[range.start as usize..range.end as usize];
            match place {
                Place::Base => base(range.start, part).expect("the base reads"),
                Place::Data => overlay.read(range.start, part).expect("the file reads"),
                Place::Zero => part.fill(0),
            }
        }
        out
    }

    proptest! {
        #[test]
        fn an_overlay_equals_a_plain_copy_of_the_disk(
            steps in proptest::collection::vec((0..SIZE, 1..SIZE, any::<Option<u8>>()), 1..40)
        ) {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let overlay = Overlay::create(dir.path(), SIZE).expect("an overlay");
            let mut model = vec![0; SIZE as usize];
            base(0, &mut model).expect("the base reads");
            for (offset, len, write) in steps {
                let range = offset..(offset + len).min(SIZE);
                let part = range.start as usize..range.end as usize;
                model[part.clone()].fill(write.unwrap_or(0));
                match write {
                    Some(byte) => overlay.write(offset, &vec![byte; part.len()], base),
                    None => overlay.zero(range, base),
                }.expect("the overlay takes it");
                prop_assert!(whole(&overlay) == model);
            }
        }
    }

    #[test]
    fn an_overlay_leaves_no_file_and_a_huge_disk_has_bounded_states() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let overlay = Overlay::create(dir.path(), 8 << 40).expect("an overlay");
        assert_eq!(std::fs::read_dir(dir.path()).expect("it lists").count(), 0);
        assert!((8_u64 << 40).div_ceil(overlay.granule_bytes) / GRANULES_PER_BYTE <= STATES_BYTES_MAX);
        overlay.write((8 << 40) - 512, &[7; 512], base).expect("the last sector is written");
        let mut last = [0; 512];
        overlay.read((8 << 40) - 512, &mut last).expect("and read");
        assert_eq!(last, [7; 512]);
    }
}
