//! What the API remembers of the last moments: the live feed, the histories for charts. Looked at once a second.
//!
//! Crash story: a restart begins with nothing of it; streams are told by `reset`, charts begin anew.

pub(crate) mod feed;
pub(crate) mod history;
pub(crate) mod watcher;

use std::sync::Arc;

use farshore_engine::ids::{MachineId, Timestamp};
use parking_lot::RwLock;

use self::feed::Feed;
use self::history::{History, Rates, Sample};

/// What the API remembers of the last moments.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) feed: Arc<Feed>,
    history: RwLock<History>,
}

impl Board {
    /// An empty board; `life` tells its events from those of an earlier process.
    pub(crate) fn new(life: u64) -> Self {
        Self { feed: Arc::new(Feed::new(life)), history: RwLock::default() }
    }

    /// A machine's rates now.
    pub(crate) fn rates(&self, machine: MachineId, now: Timestamp) -> Rates {
        self.history.read().rates(machine, now)
    }

    /// The newest sample of everything together.
    pub(crate) fn now(&self) -> Option<Sample> {
        self.history.read().now()
    }

    /// The samples of the last `minutes`, and the seconds between them.
    pub(crate) fn since(&self, machine: Option<MachineId>, minutes: u32, now: Timestamp) -> (u32, Vec<Sample>) {
        self.history.read().since(machine, minutes, now)
    }
}
