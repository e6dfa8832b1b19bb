//! Syncs shared by all who wait, and the end of trust after one that failed.

use std::io;

use parking_lot::{Condvar, Mutex};

/// Syncs shared by all who wait: each caller is covered by one that starts after its call.
#[derive(Debug, Default)]
pub(crate) struct Syncs {
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    running: bool,
    started: u64,
    finished: u64,
    /// The first failure; nothing after it can be called stable.
    failed: Option<String>,
}

impl SyncState {
    fn check(&self) -> io::Result<()> {
        match &self.failed {
            None => Ok(()),
            Some(why) => Err(io::Error::other(format!("an earlier sync failed ({why}): the disk must be opened anew"))),
        }
    }
}

impl Syncs {
    /// Fails once any sync has failed.
    pub(crate) fn check(&self) -> io::Result<()> {
        self.state.lock().check()
    }

    /// Takes down that something which had to be stable is not.
    pub(crate) fn fail(&self, error: io::Error) -> io::Error {
        self.state.lock().failed.get_or_insert_with(|| error.to_string());
        error
    }

    /// Waits for a sync that starts after this call, its own or another's.
    pub(crate) fn run(&self, sync: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let wanted = state.started + 1;
        loop {
            state.check()?;
            if state.finished >= wanted {
                return Ok(());
            }
            if state.running {
                self.changed.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            let mine = state.started;
            drop(state);
            let result = sync();
            state = self.state.lock();
            state.running = false;
            match &result {
                Ok(()) => state.finished = mine,
                Err(error) => {
                    state.failed.get_or_insert_with(|| error.to_string());
                }
            }
            self.changed.notify_all();
            result?;
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn after_a_failed_sync_no_later_one_is_called_a_success() {
        let syncs = Syncs::default();
        syncs.run(|| Ok(())).expect("works at first");
        assert!(syncs.run(|| Err(Errno::IO.into())).is_err());
        let later = syncs.run(|| Ok(())).expect_err("stays failed").to_string();
        assert!(later.contains("opened anew"), "{later}");
    }
}
