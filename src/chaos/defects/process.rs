//! What is wrong with a process as a whole.

use std::thread;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Largest offset that a process may write to whose writes fail.
const FILE_BYTES_MAX: u64 = 8 << 20;
/// SIGXFSZ: what the kernel sends where a file would get too large.
const FILE_TOO_LARGE: i32 = 25;
/// When a thread panics that nobody has armed.
const PANIC_AFTER: Duration = Duration::from_secs(1);

/// From now on writes behind [`FILE_BYTES_MAX`] fail.
pub(super) fn limit_files() -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("limit the size of files: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let inside = runtime.enter();
    // Handled, the signal does not end the process: the write fails.
    drop(signal(SignalKind::from_raw(FILE_TOO_LARGE)).map_err(failed)?);
    drop(inside);
    let limit = Rlimit { current: Some(FILE_BYTES_MAX), ..getrlimit(Resource::Fsize) };
    setrlimit(Resource::Fsize, limit).map_err(|error| failed(error.into()))
}

/// A thread will panic.
pub(super) fn panic_aside() -> Result<(), Failure> {
    let panics = || {
        thread::sleep(PANIC_AFTER);
        panic!("a built-in defect of this process");
    };
    let started = thread::Builder::new().name("defect".into()).spawn(panics);
    started.map(drop).map_err(|error| Failure::failed(format!("start a thread: {error}")))
}

/// Never comes to anything.
pub(super) fn hang() -> Result<(), Failure> {
    loop {
        thread::park();
    }
}
