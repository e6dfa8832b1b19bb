//! A point brought onto an old copy of the disk (a raw file or a block device): what is there is compared piece by piece,
//! and only what differs is written. The pieces' digests prove what came from the vault before anything is compared.
//!
//! Crash story: the copy is part old, part new until the end. It is never less than it was: run again, it goes on by
//! itself, since what is right already is not written again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;

use super::{RestoreError, failed};

/// How much is compared at once.
const STEP_BYTES: usize = 1 << 20;
/// What is written where it differs: the unit of digests at capture.
const PIECE_BYTES: usize = 4096;

/// Opens the old copy; it must hold the whole disk.
pub(super) fn open(path: &Path, size_bytes: u64) -> Result<File, RestoreError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(|source| failed("open", path, source))?;
    let meta = file.metadata().map_err(|source| failed("look at", path, source))?;
    let available = match meta.file_type().is_block_device() {
        true => rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0)).map_err(|e| failed("size", path, e.into()))?,
        false => meta.len(),
    };
    if available < size_bytes {
        return Err(RestoreError::TooSmall { path: path.to_owned(), available, needed: size_bytes });
    }
    Ok(file)
}

/// Makes the file's bytes at `offset` these; says how many were written.
pub(super) fn bring(file: &File, offset: u64, bytes: &[u8]) -> io::Result<u64> {
    let mut there = vec![0; bytes.len().min(STEP_BYTES)];
    let mut written = 0;
    for (index, wanted) in bytes.chunks(STEP_BYTES).enumerate() {
        let at = offset + (index * STEP_BYTES) as u64;
        let there = &mut there[..wanted.len()];
        file.read_exact_at(there, at)?;
        written += write_differing(file, at, wanted, there)?;
    }
    Ok(written)
}

/// Makes a range of the file zero; says how many bytes were written.
pub(super) fn bring_zeroes(file: &File, offset: u64, len: u64) -> io::Result<u64> {
    let zeroes = vec![0; STEP_BYTES];
    let mut there = vec![0; STEP_BYTES];
    let (mut at, mut written) = (offset, 0);
    while at < offset + len {
        // A sparse copy of a large disk is mostly holes: they are zero already.
        let Some(data) = next_data(file, at, offset + len)? else { break };
        at = data;
        let step = (offset + len - at).min(STEP_BYTES as u64) as usize;
        file.read_exact_at(&mut there[..step], at)?;
        written += write_differing(file, at, &zeroes[..step], &there[..step])?;
        at += step as u64;
    }
    Ok(written)
}

/// Where the file holds data next, before `end`.
fn next_data(file: &File, at: u64, end: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) => Ok(Some(data.max(at)).filter(|data| *data < end)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        // Devices know no holes.
        Err(rustix::io::Errno::INVAL) => Ok(Some(at)),
        Err(error) => Err(error.into()),
    }
}

fn write_differing(file: &File, at: u64, wanted: &[u8], there: &[u8]) -> io::Result<u64> {
    if wanted == there {
        return Ok(0);
    }
    let mut written = 0;
    let mut from = 0;
    while from < wanted.len() {
        let end = (from + PIECE_BYTES).min(wanted.len());
        if wanted[from..end] == there[from..end] {
            from = end;
            continue;
        }
        // Neighbours that differ too go with it.
        let mut until = end;
        while until < wanted.len() {
            let next = (until + PIECE_BYTES).min(wanted.len());
            if wanted[until..next] == there[until..next] {
                break;
            }
            until = next;
        }
        file.write_all_at(&wanted[from..until], at + from as u64)?;
        written += (until - from) as u64;
        from = until;
    }
    Ok(written)
}
