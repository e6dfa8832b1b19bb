//! Exports of the state: one file that stands for itself, checked twice.
//!
//! ```text
//!   magic "FARSHEXP" | version u16 | records u64 | record ... | crc32 u32 | BLAKE3 32
//!   record := key length u16 | key | value length u32 | value
//!   crc32 and BLAKE3 are over everything before them
//! ```
//!
//! Written aside, synced, renamed, directory synced; the last three are kept. Files are 0600: they hold no keys, but the
//! hashes of tokens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{Contents, KEY_BYTES_MAX, StateError, VALUE_BYTES_MAX};

const MAGIC: &[u8; 8] = b"FARSHEXP";
const VERSION: u16 = 1;
const HEADER_BYTES: usize = 18;
const TRAILER_BYTES: usize = 36;
/// Exports that are kept. Chosen: the newest may be of the damage that it shall heal, the one before as well.
const KEPT: usize = 3;

/// Writes the next export into `dir` and removes those that are too many.
pub fn write(dir: &Path, contents: &Contents) -> Result<PathBuf, StateError> {
    let io = |doing: &str| {
        let doing = format!("{doing} in {}", dir.display());
        move |error: io::Error| StateError::Io { doing, cause: error.to_string() }
    };
    fs::create_dir_all(dir).map_err(io("create exports"))?;
    let number = numbered(dir).map_err(io("list exports"))?.last().map_or(1, |(number, _)| number + 1);
    let path = dir.join(format!("{number:016x}.export"));
    let aside = dir.join("next.tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&aside)
        .map_err(io("create an export"))?;
    file.write_all(&encode(contents)).and_then(|()| file.sync_all()).map_err(io("write an export"))?;
    fs::rename(&aside, &path).and_then(|()| File::open(dir)?.sync_all()).map_err(io("publish an export"))?;
    let exports = numbered(dir).map_err(io("list exports"))?;
    for (_, old) in exports.iter().rev().skip(KEPT) {
        fs::remove_file(old).map_err(io("remove an old export"))?;
    }
    Ok(path)
}

/// The newest export in `dir` that verifies.
pub fn newest(dir: &Path) -> Option<(PathBuf, Contents)> {
    let exports = numbered(dir).ok()?;
    exports.into_iter().rev().find_map(|(_, path)| {
        let contents = decode(&fs::read(&path).ok()?)?;
        Some((path, contents))
    })
}

fn numbered(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut exports = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".export"));
        if let Some(number) = name.and_then(|name| u64::from_str_radix(name, 16).ok()) {
            exports.push((number, path));
        }
    }
    exports.sort();
    Ok(exports)
}

fn encode(contents: &Contents) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(contents.len() as u64).to_le_bytes());
    for (key, value) in contents {
        assert!(key.len() <= KEY_BYTES_MAX && value.len() <= VALUE_BYTES_MAX, "a commit checks lengths");
        out.extend_from_slice(&(key.len() as u16).to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
        out.extend_from_slice(value);
    }
    let (crc, digest) = checks(&out);
    out.extend_from_slice(&crc);
    out.extend_from_slice(&digest);
    out
}

/// What an export holds; `None` where anything about it is wrong.
fn decode(bytes: &[u8]) -> Option<Contents> {
    let (body, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER_BYTES)?)?;
    let (crc, digest) = checks(body);
    let whole = trailer[..4] == crc && trailer[4..] == digest;
    if !whole || body.get(..8)? != MAGIC || body.get(8..10)? != VERSION.to_le_bytes() {
        return None;
    }
    let records = u64::from_le_bytes(body.get(10..HEADER_BYTES)?.try_into().ok()?);
    let mut rest = &body[HEADER_BYTES..];
    let mut contents = Contents::new();
    for _ in 0..records {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let (key, after) = after.split_at_checked(u16::from_le_bytes(*length).into())?;
        let (length, after) = after.split_first_chunk::<4>()?;
        let (value, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
        contents.insert(std::str::from_utf8(key).ok()?.to_owned(), value.to_vec());
        rest = after;
    }
    (rest.is_empty() && contents.len() as u64 == records).then_some(contents)
}

fn checks(body: &[u8]) -> ([u8; 4], [u8; 32]) {
    (crc32fast::hash(body).to_le_bytes(), *blake3::hash(body).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_export_with_any_byte_changed_or_cut_is_not_taken() {
        let contents: Contents = (0..20).map(|n| (format!("key/{n}"), vec![n; usize::from(n) * 7])).collect();
        let good = encode(&contents);
        assert_eq!(decode(&good), Some(contents));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(decode(&bad), None, "byte {at} changed");
            assert_eq!(decode(&good[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn three_exports_are_kept_and_the_newest_whole_one_is_found() {
        let dir = tempfile::tempdir().expect("temp dir");
        let holding = |n: u8| Contents::from([("n".to_owned(), vec![n])]);
        let paths: Vec<PathBuf> = (0..5).map(|n| write(dir.path(), &holding(n)).expect("written")).collect();
        assert_eq!(paths.iter().filter(|path| path.exists()).count(), 3);
        fs::write(&paths[4], b"FARSHEXP").expect("damaged");
        assert_eq!(newest(dir.path()), Some((paths[3].clone(), holding(3))));
    }
}
