//! A cache disk that has no room when it is told so.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use farshore_engine::cache::io::{CacheFile, CacheIo, Space};

use super::Chaos;

pub(super) struct ChaosCacheIo {
    io: Arc<dyn CacheIo>,
    chaos: Arc<Chaos>,
}

impl ChaosCacheIo {
    pub(super) fn new(io: Arc<dyn CacheIo>, chaos: Arc<Chaos>) -> Self {
        Self { io, chaos }
    }

    fn file(&self, file: Box<dyn CacheFile>) -> Box<dyn CacheFile> {
        Box::new(ChaosFile { file, chaos: self.chaos.clone() })
    }
}

fn room(chaos: &Chaos) -> io::Result<()> {
    match chaos.is_cache_full() {
        true => Err(io::Error::new(ErrorKind::StorageFull, "chaos: the cache's disk was armed to be full")),
        false => Ok(()),
    }
}

impl CacheIo for ChaosCacheIo {
    fn create_dirs(&self, dir: &Path) -> io::Result<()> {
        self.io.create_dirs(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.io.list(dir)
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
        self.io.read(path, bytes_max)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        room(&self.chaos)?;
        self.io.create(path).map(|file| self.file(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn CacheFile>> {
        self.io.open(path).map(|file| self.file(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.io.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.io.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.io.sync_dir(dir)
    }

    fn space(&self, dir: &Path) -> io::Result<Space> {
        self.io.space(dir)
    }
}

struct ChaosFile {
    file: Box<dyn CacheFile>,
    chaos: Arc<Chaos>,
}

impl CacheFile for ChaosFile {
    fn write_at(&mut self, offset: u64, parts: &[Bytes]) -> io::Result<()> {
        room(&self.chaos)?;
        self.file.write_at(offset, parts)
    }

    fn read_at(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        self.file.read_at(offset, bytes_max)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
