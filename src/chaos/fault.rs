//! What can happen in a run: the faults, where they strike and how long they last.

use farshore_engine::control::messages::ActorKind;
use serde::{Deserialize, Serialize};

use super::scenario::Scenario;

/// Where nothing is said.
pub(crate) fn one() -> u32 {
    1
}

fn anything() -> Span {
    Span::Between(0.0, 1.0)
}

/// Seconds: a number, or `[from, to]`, of which one is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Span {
    /// Exactly.
    Just(f64),
    /// Anything between.
    Between(f64, f64),
}

impl Span {
    /// Its ends.
    pub(crate) fn ends(self) -> (f64, f64) {
        match self {
            Self::Just(value) => (value, value),
            Self::Between(from, to) => (from, to),
        }
    }

    /// The most that may be drawn.
    pub(crate) fn most(self) -> f64 {
        self.ends().1
    }
}

/// Which way a half-open connection still carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// What the connecting side says is held.
    Up,
    /// What the listening side says is held.
    Down,
}

/// What happens. A target is a name (`config`, `ps-a`, `m1`), the beginning of one with `*`, or `*`; a link is `control` or
/// `data:ps-a`. Where several fit, one is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Fault {
    /// kill -9, and a new start after this time.
    Kill {
        /// Which process.
        target: String,
        /// How long it stays away.
        seconds: Span,
    },
    /// SIGSTOP, and SIGCONT after this time.
    Pause {
        /// Which process.
        target: String,
        /// How long it sleeps.
        seconds: Span,
    },
    /// SIGTERM, and a new start once it has ended.
    Restart {
        /// Which process.
        target: String,
    },
    /// kill -9 and a new start, again and again.
    Storm {
        /// Which process.
        target: String,
        /// How long it goes on.
        seconds: Span,
        /// Time from a start to the next kill.
        every: Span,
    },
    /// A link carries nothing in either direction; its connections stay.
    BlackHole {
        /// Which link.
        link: String,
        /// How long.
        seconds: Span,
    },
    /// A link carries nothing one way.
    HalfOpen {
        /// Which link.
        link: String,
        /// How long.
        seconds: Span,
        /// Which way is held.
        way: Way,
    },
    /// A link is slow.
    SlowLink {
        /// Which link.
        link: String,
        /// How long.
        seconds: Span,
        /// Delay each way, in milliseconds.
        latency_ms: u64,
        /// Rate each way, in KiB a second; 0: as fast as it goes.
        #[serde(default)]
        kib_per_second: u64,
    },
    /// New connections are reset at once, those that are there are reset now.
    Refuse {
        /// Which link.
        link: String,
        /// How long.
        seconds: Span,
    },
    /// Every connection of a link is reset, once.
    Reset {
        /// Which link.
        link: String,
    },
    /// Actors of a process server panic at their messages, for this long or so often.
    Panic {
        /// Which process server, or `config`.
        target: String,
        /// Which kind of actor.
        actor: ActorKind,
        /// How often at most.
        #[serde(default = "one")]
        times: u32,
        /// For how long at most.
        seconds: Span,
    },
    /// Calls of the vault fail.
    VaultFail {
        /// Where.
        target: String,
        /// How long.
        seconds: Span,
        /// The effect takes place; only the answer is lost.
        #[serde(default)]
        after_effect: bool,
    },
    /// Calls of the vault take longer.
    VaultSlow {
        /// Where.
        target: String,
        /// How long.
        seconds: Span,
        /// How much longer, in milliseconds.
        delay_ms: u64,
    },
    /// The cache's disk has no room.
    CacheFull {
        /// Which process server.
        target: String,
        /// How long.
        seconds: Span,
    },
    /// kill -9, its cache directory is gone, and a new start after this time.
    LoseCache {
        /// Which process server.
        target: String,
        /// How long it stays away.
        seconds: Span,
    },
    /// A bit of an object in the vault is another one for this long.
    Corrupt {
        /// How long.
        seconds: Span,
        /// Which object: 0 is the first by name, 1 the last.
        #[serde(default = "anything")]
        object: Span,
        /// Which bit: 0 is the first, 1 the last.
        #[serde(default = "anything")]
        bit: Span,
    },
    /// A process's network is gone: nothing passes on any connection of it. Needs network namespaces.
    Cut {
        /// Which process.
        target: String,
        /// How long.
        seconds: Span,
    },
    /// A machine moves to another process server.
    Move {
        /// Which machine.
        target: String,
        /// Where to.
        to: String,
    },
    /// A new start with a clock that is wrong, and another one with a right clock after this time.
    Skew {
        /// Which process.
        target: String,
        /// How long.
        seconds: Span,
        /// How wrong, in seconds; negative: behind.
        offset: Span,
    },
}

/// Where a fault strikes, as the scenario says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// At processes.
    Process(&'a str),
    /// At links.
    Link(&'a str),
    /// At the vault itself.
    Vault,
}

impl Place<'_> {
    /// What the scenario says.
    pub(crate) fn pattern(self) -> String {
        match self {
            Self::Process(pattern) | Self::Link(pattern) => pattern.to_owned(),
            Self::Vault => "vault".into(),
        }
    }
}

impl Fault {
    /// Where it strikes.
    pub(crate) fn place(&self) -> Place<'_> {
        match self {
            Self::Kill { target, .. }
            | Self::Pause { target, .. }
            | Self::Restart { target }
            | Self::Storm { target, .. }
            | Self::Panic { target, .. }
            | Self::VaultFail { target, .. }
            | Self::VaultSlow { target, .. }
            | Self::CacheFull { target, .. }
            | Self::LoseCache { target, .. }
            | Self::Cut { target, .. }
            | Self::Move { target, .. }
            | Self::Skew { target, .. } => Place::Process(target),
            Self::Corrupt { .. } => Place::Vault,
            Self::BlackHole { link, .. }
            | Self::HalfOpen { link, .. }
            | Self::SlowLink { link, .. }
            | Self::Refuse { link, .. }
            | Self::Reset { link } => Place::Link(link),
        }
    }

    /// Every name that its pattern fits.
    pub(crate) fn places(&self, scenario: &Scenario) -> Vec<String> {
        let (pattern, mut all) = match self.place() {
            Place::Process(pattern) => (pattern, scenario.processes()),
            Place::Link(pattern) => (pattern, scenario.links()),
            Place::Vault => ("vault", vec!["vault".to_owned()]),
        };
        match pattern.strip_suffix('*') {
            Some(front) => all.retain(|name| name.starts_with(front)),
            None => all.retain(|name| name == pattern),
        }
        all
    }

    /// How long it lasts, where it does.
    pub(crate) fn seconds(&self) -> Option<Span> {
        match self {
            Self::Kill { seconds, .. }
            | Self::Pause { seconds, .. }
            | Self::Storm { seconds, .. }
            | Self::Skew { seconds, .. }
            | Self::LoseCache { seconds, .. }
            | Self::Cut { seconds, .. }
            | Self::Corrupt { seconds, .. }
            | Self::Panic { seconds, .. }
            | Self::VaultFail { seconds, .. }
            | Self::VaultSlow { seconds, .. }
            | Self::CacheFull { seconds, .. }
            | Self::BlackHole { seconds, .. }
            | Self::HalfOpen { seconds, .. }
            | Self::SlowLink { seconds, .. }
            | Self::Refuse { seconds, .. } => Some(*seconds),
            Self::Restart { .. } | Self::Reset { .. } | Self::Move { .. } => None,
        }
    }

    /// The same at one place, with everything drawn.
    pub(crate) fn settled(&self, place: &str, mut draw: impl FnMut(Span) -> f64) -> Self {
        let mut fault = self.clone();
        match &mut fault {
            Self::Kill { target, seconds }
            | Self::Cut { target, seconds }
            | Self::Pause { target, seconds }
            | Self::Panic { target, seconds, .. }
            | Self::VaultFail { target, seconds, .. }
            | Self::VaultSlow { target, seconds, .. }
            | Self::LoseCache { target, seconds }
            | Self::CacheFull { target, seconds } => {
                *target = place.to_owned();
                *seconds = Span::Just(draw(*seconds));
            }
            Self::Storm { target, seconds, every } => {
                *target = place.to_owned();
                *seconds = Span::Just(draw(*seconds));
                *every = Span::Just(draw(*every));
            }
            Self::Skew { target, seconds, offset } => {
                *target = place.to_owned();
                *seconds = Span::Just(draw(*seconds));
                *offset = Span::Just(draw(*offset));
            }
            Self::Corrupt { seconds, object, bit } => {
                for span in [seconds, object, bit] {
                    *span = Span::Just(draw(*span));
                }
            }
            Self::Restart { target } | Self::Move { target, .. } => *target = place.to_owned(),
            Self::BlackHole { link, seconds }
            | Self::HalfOpen { link, seconds, .. }
            | Self::SlowLink { link, seconds, .. }
            | Self::Refuse { link, seconds } => {
                *link = place.to_owned();
                *seconds = Span::Just(draw(*seconds));
            }
            Self::Reset { link } => *link = place.to_owned(),
        }
        fault
    }
}
