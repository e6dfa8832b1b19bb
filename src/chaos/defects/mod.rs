//! Built-in defects: what a member does wrong when it was started with `--enable-chaos` and `FARSHORE_CHAOS_DEFECT` names one.
//! They show that the harness finds what it is there to find: for every check of `judge` there is one here that it catches.
//! Each goes through a port that the product has anyway, or through the operating system; no product code knows of them.

mod media;
mod process;
mod stores;

use std::fs::File;
use std::sync::Arc;

use farshore_engine::capture::activity_log::Medium;
use farshore_engine::vault::store::ObjectStore;

use self::media::{Forgotten, Unsynced};
use self::stores::{Early, Flipping, Stuck};
use crate::exit::Failure;

/// What is done wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// An agent answers writes before its activity log has them: after a crash the log holds nothing as hot.
    AckBeforeActivityLog,
    /// An agent forgets its activity log altogether.
    ForgetActivityLog,
    /// Writes behind the eighth MiB of a disk fail.
    FailWrites,
    /// A process does not hear that it shall stop.
    Deaf,
    /// A thread of a process panics, and nobody had armed that.
    PanicAside,
    /// A process that was killed never comes back up.
    StayDown,
    /// A process server reports committed what is not in the vault yet.
    CommitBeforeVault,
    /// A process server changes a bit of every fourth object on its way to the vault.
    FlipBits,
    /// A process server that was started again gets nothing into the vault.
    StuckVault,
    /// A process server starts a failing actor again for ever, and says nothing.
    EndlessPatience,
    /// A process server never tries an actor again that it gave up.
    EndlessRest,
    /// Of the verifier: it looks at a vault without damage in place of the damaged one.
    Blind,
}

/// Who can have a defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// Agents.
    Agents,
    /// Process servers.
    Servers,
    /// Every process.
    All,
    /// The harness's own call of `vault verify`.
    Verifier,
}

/// What the harness's own call of `vault verify` is called where a defect is given to it.
pub(crate) const VERIFIER: &str = "verify";

impl Defect {
    /// Every defect, its name, and whose it can be.
    pub(crate) const ALL: [(&'static str, Self, Of); 12] = [
        ("ack-before-activity-log", Self::AckBeforeActivityLog, Of::Agents),
        ("forget-activity-log", Self::ForgetActivityLog, Of::Agents),
        ("fail-writes", Self::FailWrites, Of::Agents),
        ("deaf", Self::Deaf, Of::Agents),
        ("panic-aside", Self::PanicAside, Of::All),
        ("stay-down", Self::StayDown, Of::All),
        ("commit-before-vault", Self::CommitBeforeVault, Of::Servers),
        ("flip-bits", Self::FlipBits, Of::Servers),
        ("stuck-vault", Self::StuckVault, Of::Servers),
        ("endless-patience", Self::EndlessPatience, Of::Servers),
        ("endless-rest", Self::EndlessRest, Of::Servers),
        ("blind", Self::Blind, Of::Verifier),
    ];

    /// The defect of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, ..)| *known == name).map(|(_, defect, _)| *defect)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, defect, _)| *defect == self).map_or("", |(name, ..)| name)
    }

    /// Whose it can be.
    pub(crate) fn of(self) -> Of {
        Self::ALL.iter().find(|(_, defect, _)| *defect == self).map_or(Of::All, |(.., of)| *of)
    }

    /// Whether a member has it in its first life, or only from the second on: an installation has to come up before it can be
    /// broken.
    pub(crate) fn is_inborn(self) -> bool {
        !matches!(self, Self::StayDown | Self::StuckVault)
    }

    /// What an agent writes its activity logs through, where that is its defect.
    pub(crate) fn medium(self) -> Option<fn(File) -> Box<dyn Medium>> {
        match self {
            Self::AckBeforeActivityLog => Some(|file| Box::new(Unsynced(file))),
            Self::ForgetActivityLog => Some(|file| Box::new(Forgotten(file))),
            _ => None,
        }
    }

    /// The store behind the defect, where it is one of stores.
    pub(crate) fn around(self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        match self {
            Self::CommitBeforeVault => Arc::new(Early::new(store)),
            Self::FlipBits => Arc::new(Flipping(store)),
            Self::StuckVault => Arc::new(Stuck(store)),
            _ => store,
        }
    }

    /// Does what is wrong with the process as a whole.
    pub(crate) fn take_hold(self) -> Result<(), Failure> {
        match self {
            Self::FailWrites => process::limit_files(),
            Self::PanicAside => process::panic_aside(),
            Self::StayDown => process::hang(),
            _ => Ok(()),
        }
    }
}
