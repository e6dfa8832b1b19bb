//! The folder itself: directories and their durability, finding out how a filesystem creates atomically, clearing away
//! what nobody publishes any more.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::home::MARK;
use super::{Create, SWAP_LOCK};

/// How old staged bytes are when nobody can be about to publish them. Chosen: a slot waits for its predecessors, for
/// hours where a vault is away; a day of garbage costs room only after crashes.
const STAGING_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes `path` and what is missing above it; every name made here is durable on return.
pub(super) fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = match path.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make_directories(above)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists || !path.is_dir() => Err(error),
        _ => sync_directory(above),
    }
}

pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Renames unless the target is there; `Ok(false)` where it is.
pub(super) fn rename_no_replace(from: &Path, to: &Path) -> Result<bool, Errno> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Finds out how this filesystem creates atomically: the way must both make a new name and refuse one that is there.
pub(super) fn probe(staging: &Path) -> io::Result<Option<Create>> {
    let name = |part: &str| staging.join(format!("probe-{}-{part}", std::process::id()));
    let (one, other) = (name("a"), name("b"));
    let clear = || [&one, &other].map(|path| fs::remove_file(path).ok());
    clear();
    create_new(&one)?.sync_all()?;
    let refused = |result: io::Result<()>| matches!(result, Err(error) if error.kind() == ErrorKind::AlreadyExists);
    if fs::hard_link(&one, &other).is_ok() && refused(fs::hard_link(&one, &other)) {
        clear();
        return Ok(Some(Create::HardLink));
    }
    clear();
    create_new(&one)?;
    let renames = rename_no_replace(&one, &other) == Ok(true)
        && create_new(&one).is_ok()
        && rename_no_replace(&one, &other) == Ok(false);
    clear();
    Ok(renames.then_some(Create::RenameNoReplace))
}

/// Removes staged bytes that nobody can be about to publish. Ages are told by the filesystem's own clock: a file made
/// now is what "now" is. Garbage that cannot be removed is left for the next start.
pub(super) fn sweep(staging: &Path) {
    let clock = staging.join(format!("probe-{}-now", std::process::id()));
    let now = create_new(&clock).and_then(|file| file.metadata()).and_then(|meta| meta.modified());
    fs::remove_file(&clock).ok();
    let (Ok(now), Ok(entries)) = (now, fs::read_dir(staging)) else { return };
    let stays = |entry: &fs::DirEntry| entry.file_name() == SWAP_LOCK || entry.file_name() == MARK;
    for entry in entries.flatten().filter(|entry| !stays(entry)) {
        let age = entry.metadata().and_then(|meta| meta.modified()).map(|then| now.duration_since(then));
        if matches!(age, Ok(Ok(age)) if age > STAGING_AGE_MAX) {
            fs::remove_file(entry.path()).ok();
        }
    }
}
