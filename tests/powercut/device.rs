//! A disk with a volatile write cache. What was written lies in memory until it is flushed; at the cut a random part of
//! what was not flushed reaches the platter, sector by sector and in no order, the rest is gone, and nothing answers any more.
//! That is the worst that a power cut may do to an honest disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use farshore_engine::nbd::{Export, ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};
use farshore_engine::sim::chance::SeededChance;
use parking_lot::Mutex;

const SECTOR: usize = 512;

type Sectors = BTreeMap<u64, [u8; SECTOR]>;

/// What a cut did.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// Sectors that were not flushed.
    pub(crate) unflushed: usize,
    /// Those of them that reached the platter all the same.
    pub(crate) persisted: usize,
}

/// The disk. The image file is its platter.
pub(crate) struct VolatileDisk {
    platter: File,
    size_bytes: u64,
    /// What is not flushed; `None` when the power is gone.
    cache: Mutex<Option<Sectors>>,
}

impl VolatileDisk {
    pub(crate) fn open(image: &Path) -> io::Result<Self> {
        let platter = File::options().read(true).write(true).open(image)?;
        let size_bytes = platter.metadata()?.len();
        Ok(Self { platter, size_bytes, cache: Mutex::new(Some(Sectors::new())) })
    }

    /// The power goes.
    pub(crate) fn cut(&self, chance: &mut SeededChance) -> Cut {
        let sectors = self.cache.lock().take().expect("the power goes once");
        // From nothing to nearly everything: both ends are as likely as the middle.
        let survive = chance.between(0, 1000);
        let mut persisted = 0;
        for (sector, bytes) in &sectors {
            if chance.happens(survive) {
                self.platter.write_all_at(bytes, sector * SECTOR as u64).expect("the platter takes it");
                persisted += 1;
            }
        }
        Cut { unflushed: sectors.len(), persisted }
    }

    fn powered<T>(&self, run: impl FnOnce(&mut Sectors) -> io::Result<T>) -> Result<T, NbdError> {
        match self.cache.lock().as_mut() {
            Some(sectors) => Ok(run(sectors)?),
            None => Err(NbdError::Io("the power is gone".into())),
        }
    }
}

fn put(sectors: &mut Sectors, offset: u64, data: &[u8]) {
    for (at, piece) in (offset / SECTOR as u64..).zip(data.chunks_exact(SECTOR)) {
        sectors.insert(at, piece.try_into().expect("a sector"));
    }
}

impl Export for VolatileDisk {
    fn info(&self) -> ExportInfo {
        let full = ExportInfo::full("volatile", self.size_bytes, SECTOR as u32);
        ExportInfo { can_fua: false, can_trim: false, can_fast_zero: false, ..full }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        self.powered(|sectors| {
            self.platter.read_exact_at(out, offset)?;
            let first = offset / SECTOR as u64;
            for (sector, bytes) in sectors.range(first..first + (out.len() / SECTOR) as u64) {
                out[(sector - first) as usize * SECTOR..][..SECTOR].copy_from_slice(bytes);
            }
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: Bytes, fua: bool) -> Result<(), NbdError> {
        assert!(!fua, "the disk has not offered it");
        self.powered(|sectors| {
            put(sectors, offset, &data);
            Ok(())
        })
    }

    fn flush(&self) -> Result<(), NbdError> {
        self.powered(|sectors| {
            std::mem::take(sectors)
                .iter()
                .try_for_each(|(sector, bytes)| self.platter.write_all_at(bytes, sector * SECTOR as u64))
        })
    }

    fn trim(&self, _offset: u64, _len: u32, _fua: bool) -> Result<(), NbdError> {
        Err(NbdError::NotSupported("the disk has not offered it".into()))
    }

    fn write_zeroes(&self, offset: u64, len: u32, _flags: ZeroFlags) -> Result<(), NbdError> {
        self.powered(|sectors| {
            put(sectors, offset, &vec![0; len as usize]);
            Ok(())
        })
    }

    fn block_status(&self, _offset: u64, len: u32, _max_extents: usize) -> Result<Vec<StatusExtent>, NbdError> {
        Ok(vec![StatusExtent { len: len.into(), hole: false, zero: false }])
    }

    fn is_quick(&self, _op: &Op) -> bool {
        false
    }
}
