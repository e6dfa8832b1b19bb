//! Small files that nobody else may read: keys, identities, tokens. Written aside with mode 0600, synced, renamed, and the
//! directory synced; a file that others could read is refused, because what is in it is no secret any more.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Why a secret file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFileError {
    /// Others can read it.
    #[error(
        "{path} can be read by others (mode {mode:o}): what is in it is no secret any more. Replace what it holds, or \
             run `chmod 600` on it if nobody has seen it"
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A file operation failed.
    #[error("{doing} {path}: {cause}")]
    Io {
        /// Verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretFileError {
    let path = path.to_owned();
    move |error| SecretFileError::Io { doing, path, cause: error.to_string() }
}

/// Makes a directory that only its owner may enter, and those above it.
pub fn make_directory(path: &Path) -> Result<(), SecretFileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create directory", path))
}

/// Writes a secret; durable on return.
pub fn write(path: &Path, content: &[u8]) -> Result<(), SecretFileError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside = path.as_os_str().to_owned();
    aside.push(".tmp");
    let aside = PathBuf::from(aside);
    // A leftover of a crash may have another mode: it goes first.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &aside)(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside).map_err(failed("create", &aside))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write", &aside))?;
    let published = fs::rename(&aside, path).and_then(|()| File::open(directory)?.sync_all());
    published.map_err(failed("write", path))
}

/// Reads a secret; `None` where there is no such file.
pub fn read(path: &Path) -> Result<Option<Zeroizing<String>>, SecretFileError> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("read", path)(error)),
    };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::Exposed { path: path.to_owned(), mode });
    }
    fs::read_to_string(path).map(|text| Some(Zeroizing::new(text))).map_err(failed("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_0600_and_one_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("key");
        assert_eq!(read(&path), Ok(None));
        fs::write(dir.path().join("key.tmp"), "left over").expect("written");
        write(&path, b"secret").expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&path).expect("read").as_deref().map(String::as_str), Some("secret"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("changed");
        assert!(matches!(read(&path), Err(SecretFileError::Exposed { mode: 0o644, .. })));
    }
}
