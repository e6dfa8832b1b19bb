//! Objects of a folder vault that are not what was written, for a while and for copies.
//!
//! A bit is changed in place, in the very file: whoever has it open sees it as well, and where the object is replaced or deleted
//! meanwhile nothing else is hurt when the bit is put right.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The damage of one vault: one bit at a time.
pub(crate) struct Damage {
    vault: PathBuf,
    now: Option<(File, u64, u8)>,
}

/// The files of a folder and of those in it, by name.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

/// Changes bits of a byte; those that are set in `mask`.
fn flip(file: &File, at: u64, mask: u8) -> io::Result<()> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ mask], at)
}

/// What lies at a part of the way through `count` things; 0 is the first, 1 the last.
fn along(count: u64, part: f64) -> u64 {
    ((count as f64 * part) as u64).min(count.saturating_sub(1))
}

impl Damage {
    /// None yet.
    pub(crate) fn of(vault: PathBuf) -> Self {
        Self { vault, now: None }
    }

    /// Changes a bit of an object under `machines/`.
    pub(crate) fn strike(&mut self, object: f64, bit: f64) -> Result<(), String> {
        self.mend()?;
        let failed = |error: io::Error| format!("damage an object of {}: {error}", self.vault.display());
        let objects = files(&self.vault.join("machines")).map_err(failed)?;
        let Some(path) = usize::try_from(along(objects.len() as u64, object)).ok().and_then(|at| objects.get(at))
        else {
            return Ok(());
        };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            // It was deleted meanwhile; there is nothing to damage.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let bits = file.metadata().map_err(failed)?.len() * 8;
        if bits == 0 {
            return Ok(());
        }
        let at = along(bits, bit);
        flip(&file, at / 8, 1 << (at % 8)).map_err(failed)?;
        self.now = Some((file, at / 8, 1 << (at % 8)));
        Ok(())
    }

    /// Puts it right.
    pub(crate) fn mend(&mut self) -> Result<(), String> {
        let Some((file, at, mask)) = self.now.take() else { return Ok(()) };
        flip(&file, at, mask).map_err(|error| format!("put an object of {} right: {error}", self.vault.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_changes_and_comes_back_even_where_the_object_was_replaced() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let log = dir.path().join("machines/a/log");
        fs::create_dir_all(&log).expect("make");
        for name in ["1", "2"] {
            fs::write(log.join(name), [0; 16]).expect("write");
        }
        let mut damage = Damage::of(dir.path().to_owned());
        damage.strike(1.0, 0.5).expect("struck");
        let bytes = fs::read(log.join("2")).expect("read");
        assert_eq!(bytes.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(bytes[8], 1);
        fs::remove_file(log.join("2")).expect("remove");
        fs::write(log.join("2"), [0; 16]).expect("write");
        damage.mend().expect("mended");
        assert_eq!(fs::read(log.join("2")).expect("read"), [0; 16]);
        damage.strike(0.0, 0.0).expect("struck");
        damage.strike(0.0, 1.0).expect("struck elsewhere, the first is put right");
        damage.mend().expect("mended");
        assert_eq!(fs::read(log.join("1")).expect("read"), [0; 16]);
    }
}
