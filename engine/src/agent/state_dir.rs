//! The agent's state directory: whose it is, and that one agent uses it at a time.

use std::fs::{File, TryLockError};
use std::path::Path;

use super::error::AgentError;

/// Files that servers keep in theirs.
const SERVER_FILES: [&str; 3] = ["authority.pem", "endpoints.json", "member.json"];

/// Takes the directory for this process; made where there is none.
pub(super) fn take(state_dir: &Path) -> Result<File, AgentError> {
    let failed = |doing| move |cause| AgentError::State { doing, path: state_dir.to_owned(), cause };
    if let Some(found) = SERVER_FILES.into_iter().find(|file| state_dir.join(file).exists()) {
        return Err(AgentError::ForeignState { path: state_dir.to_owned(), found });
    }
    std::fs::create_dir_all(state_dir).map_err(failed("create"))?;
    let lock = File::options().write(true).create(true).truncate(false).open(state_dir.join("agent.lock"));
    let file = lock.map_err(failed("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::SecondAgent { path: state_dir.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed("lock")(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::papers::Papers;

    #[test]
    fn a_servers_directory_is_refused_and_left_as_it_is() {
        for file in SERVER_FILES {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join(file), "{}").expect("a file");
            let error = take(dir.path()).expect_err("another's directory").to_string();
            assert!(error.contains(file) && error.contains("directory of its own"), "{error}");
            assert_eq!(std::fs::read_dir(dir.path()).expect("reads").count(), 1, "nothing was put there");
        }
        let dir = tempfile::tempdir().expect("a directory");
        take(&dir.path().join("new/state")).expect("a directory of its own");
    }

    #[test]
    fn papers_that_cannot_be_understood_say_which_file_and_what_to_do() {
        for (file, text) in [("identity.json", "{\"certificate_pem\": \"-----BEG"), ("identity.key", "garbage")] {
            let dir = tempfile::tempdir().expect("a directory");
            std::fs::write(dir.path().join(file), text).expect("a file");
            let error = Papers::load(dir.path()).expect_err("damaged").to_string();
            assert!(error.contains(file) && error.contains("enrol"), "{error}");
        }
    }
}
