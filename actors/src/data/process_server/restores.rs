//! Points that are being written to files, beside the actors: a restore goes on when an actor is restarted, and
//! begins anew when the process is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farshore_engine::ids::DiskNo;
use farshore_engine::vault::export::Format;
use farshore_engine::vault::read::points::RecoveryPoint;
use farshore_engine::vault::read::restore::{Progress, plan_as};
use farshore_engine::vault::read::timeline::TimelineReader;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::data::DataError;
use crate::data::lease::Lease;
use crate::data::messages::Restoring;

/// Restores that are remembered after their end.
const KEPT_MAX: usize = 64;

#[derive(Debug, Clone)]
enum State {
    UnderWay { done_bytes: u64, total_bytes: u64 },
    Done { total_bytes: u64 },
    Failed(String),
}

#[derive(Debug)]
struct Work {
    directory: PathBuf,
    state: Arc<Mutex<State>>,
    stop: watch::Sender<bool>,
}

/// Points that are being restored, by the name of the work.
#[derive(Debug, Default)]
pub(super) struct Restores(Mutex<BTreeMap<u64, Work>>);

impl Restores {
    /// How far a restore is; `None`: it is not known.
    pub(super) fn look(&self, restore: u64) -> Option<Result<Restoring, DataError>> {
        let mut works = self.0.lock();
        let work = works.get(&restore)?;
        let state = work.state.lock().clone();
        Some(match state {
            State::UnderWay { done_bytes, total_bytes } => Ok(Restoring::UnderWay { done_bytes, total_bytes }),
            State::Done { total_bytes } => Ok(Restoring::Done { directory: work.directory.clone(), total_bytes }),
            State::Failed(why) => {
                // Told once; the same name again is a new try.
                works.remove(&restore);
                Err(DataError::Serve(why))
            }
        })
    }

    /// Begins one.
    pub(super) fn begin(
        &self,
        restore: u64,
        directory: PathBuf,
        (reader, lease): (TimelineReader, Lease),
        (point, disks, format): (RecoveryPoint, Vec<DiskNo>, Format),
        handle: &Handle,
    ) {
        let state = Arc::new(Mutex::new(State::UnderWay { done_bytes: 0, total_bytes: 0 }));
        let (stop, mut stopped) = watch::channel(false);
        let (dir, told, fetch) = (directory.clone(), state.clone(), handle.clone());
        let disks = if disks.is_empty() { point.disks.clone() } else { disks };
        // A thread of its own: files are written and synced in it.
        handle.spawn_blocking(move || {
            // Until the last file is written, or given up.
            let _lease = lease;
            fetch.block_on(async {
                tokio::select! {
                    ended = perform(&reader, (point, &disks, format), &dir, &told) => {
                        *told.lock() = match ended {
                            Ok(total_bytes) => State::Done { total_bytes },
                            Err(why) => State::Failed(why),
                        };
                    }
                    _ = stopped.wait_for(|stop| *stop) => {
                        let _ = std::fs::remove_dir_all(&dir);
                        *told.lock() = State::Failed("it was stopped".into());
                    }
                }
            });
        });
        let mut works = self.0.lock();
        let surplus = (works.len() + 1).saturating_sub(KEPT_MAX);
        let over = |work: &Work| !matches!(*work.state.lock(), State::UnderWay { .. });
        let oldest: Vec<u64> = works.iter().filter(|(_, work)| over(work)).map(|(n, _)| *n).take(surplus).collect();
        oldest.iter().for_each(|n| drop(works.remove(n)));
        works.insert(restore, Work { directory, state, stop });
    }

    /// Stops one and throws away what it wrote.
    pub(super) fn cancel(&self, restore: u64) {
        let work = self.0.lock().remove(&restore);
        if let Some(work) = work {
            let done = matches!(*work.state.lock(), State::Done { .. });
            work.stop.send_replace(true);
            if done {
                let _ = std::fs::remove_dir_all(&work.directory);
            }
        }
    }

    /// Stops all that is under way; what is done stays.
    pub(super) fn stop_all(&self) {
        for work in self.0.lock().values() {
            work.stop.send_replace(true);
        }
    }
}

/// Writes the files; answers how many bytes of data are in them.
async fn perform(
    reader: &TimelineReader,
    (point, disks, format): (RecoveryPoint, &[DiskNo], Format),
    dir: &Path,
    state: &Mutex<State>,
) -> Result<u64, String> {
    // What an earlier life of this work left is of no use.
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).map_err(|error| format!("make {}: {error}", dir.display()))?;
    let plan = plan_as(reader, point, disks, dir, format).await.map_err(|error| error.to_string())?;
    let progress = |at: Progress| {
        *state.lock() = State::UnderWay { done_bytes: at.bytes_done, total_bytes: at.bytes_total };
    };
    plan.perform(false, &progress).await.map_err(|error| error.to_string())?;
    Ok(plan.data_bytes())
}
