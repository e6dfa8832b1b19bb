//! How a role hears that it shall end: SIGTERM or SIGINT. The first asks for a clean stop; the second ends the process, but
//! for one that has things to take back that nobody else would.
//!
//! ```text
//!   SIGTERM ─► clean stop: every part has its own share of the time ─► exit
//!      └─► 9 s later, whatever hangs (a vault's file system, a sync): exit all the same
//! ```
//!
//! A stop that was cut short loses nothing: what is durable is in the cache, what is not is sent again.

use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use slog::{Logger, info};

use crate::exit::{ExitKind, Failure};

/// Time for a clean stop. With what a loaded machine needs to carry it out, it is over within the 10 s that are promised.
const STOP_MAX: Duration = Duration::from_secs(9);
/// How often it is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a second signal does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It ends the process at once; so does the end of [`STOP_MAX`].
    Ends,
    /// It changes nothing: the clean stop is bounded, and what it takes back (mounts, processes) would stay behind.
    Waits,
}

/// Listens for signals from now on, on a thread of its own. The second ends the process.
pub(crate) fn listen(log: &Logger) -> Result<Arc<AtomicBool>, Failure> {
    listen_for(log, Again::Ends)
}

/// The same for a command that takes back what it made, within a bound: more than one signal changes nothing.
pub(crate) fn listen_patiently(log: &Logger) -> Result<Arc<AtomicBool>, Failure> {
    listen_for(log, Again::Waits)
}

fn listen_for(log: &Logger, again: Again) -> Result<Arc<AtomicBool>, Failure> {
    let failed = |error: std::io::Error| Failure::failed(format!("listen for signals: {error}"));
    let stop = Arc::new(AtomicBool::new(false));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (flag, log) = (stop.clone(), log.clone());
    let (mut term, mut int) = {
        let _inside = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::terminate()).map_err(failed)?, signal(SignalKind::interrupt()).map_err(failed)?)
    };
    let wait = move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                match (flag.swap(true, Ordering::Relaxed), again) {
                    (true, Again::Ends) => process::exit(ExitKind::Failed as i32),
                    (false, Again::Ends) => {
                        info!(log, "stopping; once more ends it at once");
                        end_in_time();
                    }
                    (_, Again::Waits) => {}
                }
            }
        });
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map_err(failed)?;
    Ok(stop)
}

fn end_in_time() {
    let end = move || {
        std::thread::sleep(STOP_MAX);
        // Not through the log: its thread may be what hangs.
        eprintln!("the stop was cut short after {} s; nothing durable is lost", STOP_MAX.as_secs());
        process::exit(0);
    };
    // Without this thread a stop that hangs ends by a second signal.
    drop(std::thread::Builder::new().name("stop-limit".into()).spawn(end));
}

/// Waits until the process shall end.
pub(crate) async fn stopped(stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
