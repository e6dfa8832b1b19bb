//! First contact: `ctl login` keeps where the server is, whom to trust and the token in a file that only its owner reads.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// What is kept.
#[derive(Serialize, Deserialize)]
pub(super) struct Profile {
    /// The server's URL.
    pub(super) server: String,
    /// The API token.
    pub(super) token: String,
    /// The authority's certificate, where it was given.
    #[serde(default)]
    pub(super) authority_pem: Option<String>,
    /// The authority's fingerprint, where that was given.
    #[serde(default)]
    pub(super) ca_fingerprint: Option<String>,
}

/// Where it is kept: `$FARSHORE_PROFILE`, or under the user's configuration directory.
pub(super) fn path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("FARSHORE_PROFILE") {
        return Some(path.into());
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home)?;
    Some(config.join("farshore/profile.toml"))
}

/// The profile, where there is one. One that others may read is refused: its token is no secret any more.
pub(super) fn load() -> Result<Option<Profile>, Failure> {
    let Some(path) = path() else { return Ok(None) };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::usage(format!("read {}: {error}", path.display()))),
    };
    let mode = fs::metadata(&path).map(|meta| meta.permissions().mode() & 0o077);
    if !matches!(mode, Ok(0)) {
        let text = format!("{} can be read by others: revoke its token and log in again, or chmod 600", path.display());
        return Err(Failure::usage(text));
    }
    let profile = toml::from_str(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(Some(profile))
}

/// Keeps a profile, mode 0600, in one step.
pub(super) fn save(profile: &Profile) -> Result<PathBuf, Failure> {
    let path =
        path().ok_or_else(|| Failure::usage("neither HOME nor FARSHORE_PROFILE says where to keep the profile"))?;
    let failed = |error: &dyn std::fmt::Display| Failure::failed(format!("write {}: {error}", path.display()));
    let text = toml::to_string(profile).map_err(|error| failed(&error))?;
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed(&error))?;
    }
    let aside = path.with_extension("toml-new");
    // A leftover keeps the mode that it was made with.
    let _ = fs::remove_file(&aside);
    let file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.and_then(|()| fs::rename(&aside, &path)).map_err(|error| failed(&error))?;
    Ok(path)
}

/// A token from standard input: one line.
pub(super) fn ask_token() -> Result<String, Failure> {
    if std::io::stdin().is_terminal() {
        eprint!("API token: ");
    }
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    read.map_err(|error| Failure::usage(format!("read the token: {error}")))?;
    match line.trim() {
        "" => Err(Failure::usage("no token was given: pipe it in, type it, or name a --token-file")),
        token => Ok(token.to_owned()),
    }
}
