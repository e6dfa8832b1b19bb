//! Open files: a session and a cached segment for each machine, so a thousand machines need more than the 1,024 that a shell
//! gives a process by default.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises this process's limit as far as it may without privilege; gives what it may have open now.
pub(crate) fn raise_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where it is refused the old limit stands, and is what counts.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
