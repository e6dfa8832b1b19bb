//! A scenario: what is started, what is broken and when, and what must hold. Written by people, in TOML; docs/chaos.md is its
//! manual. A key that nobody knows is refused.

use std::path::Path;

use farshore_engine::control::messages::ActorKind;
use serde::{Deserialize, Serialize};

/// See the module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name, for reports.
    pub(crate) name: String,
    /// What it shows, in a sentence.
    pub(crate) about: String,
    /// What is started.
    #[serde(default)]
    pub(crate) site: SitePlan,
    /// What is written meanwhile.
    #[serde(default)]
    pub(crate) load: LoadPlan,
    /// Faults at fixed times.
    #[serde(default)]
    pub(crate) step: Vec<Step>,
    /// Faults by chance.
    pub(crate) random: Option<Random>,
    /// What must hold.
    #[serde(default)]
    pub(crate) expect: Expect,
}

/// What is started.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SitePlan {
    /// Process servers, called ps-a, ps-b and so on.
    pub(crate) process_servers: u16,
    /// Protected machines, called m1, m2 and so on.
    pub(crate) machines: u16,
    /// Disks of each machine, called d1, d2 and so on.
    pub(crate) disks: u16,
    /// Size of each disk in MiB.
    pub(crate) disk_mib: u64,
    /// Room of each process server's cache in MiB.
    pub(crate) cache_mib: u64,
    /// Memory of each agent for writes that are not committed, in MiB.
    pub(crate) agent_memory_mib: u64,
}

impl Default for SitePlan {
    fn default() -> Self {
        Self { process_servers: 2, machines: 2, disks: 2, disk_mib: 48, cache_mib: 256, agent_memory_mib: 64 }
    }
}

/// What is written meanwhile, to each machine.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LoadPlan {
    /// Writes a second over all disks of a machine.
    pub(crate) writes_per_second: f64,
    /// Part of each disk that is written to, in MiB.
    pub(crate) span_mib: u64,
    /// Most 4 KiB blocks of a write.
    pub(crate) blocks_max: u32,
}

impl Default for LoadPlan {
    fn default() -> Self {
        Self { writes_per_second: 200.0, span_mib: 12, blocks_max: 4 }
    }
}

/// A fault at a fixed time.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Step {
    /// Seconds after the load began.
    pub(crate) at: f64,
    /// What happens.
    #[serde(rename = "do")]
    pub(crate) act: Fault,
}

/// Faults by chance.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Random {
    /// Seconds from one fault to the next.
    pub(crate) every: Span,
    /// What may happen; one is drawn each time.
    pub(crate) choose: Vec<Choice>,
}

/// One of the things that may happen.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Choice {
    /// How often, beside the others.
    #[serde(default = "one")]
    pub(crate) weight: u32,
    /// What.
    #[serde(rename = "do")]
    pub(crate) act: Fault,
}

fn one() -> u32 {
    1
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

/// What must hold. Beside these, always: no application write fails, nothing committed is lost, every point that is looked
/// at is a state the disks could have been in, the vault verifies and a changed bit in a copy of it is named, no process
/// dies or panics by itself, every process stops cleanly.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Expect {
    /// The RPO of every machine is back under this many seconds ...
    pub(crate) rpo_seconds: f64,
    /// ... within this many after the last fault is over.
    pub(crate) within_seconds: f64,
    /// Whether a disk may be compared in full.
    pub(crate) full_resync: bool,
    /// Recovery points that are checked, of each machine, beside the newest.
    pub(crate) points: usize,
    /// Codes of issues or events that must have been seen, and must be over at the end.
    pub(crate) seen: Vec<String>,
}

impl Default for Expect {
    fn default() -> Self {
        Self { rpo_seconds: 5.0, within_seconds: 30.0, full_resync: false, points: 3, seen: Vec::new() }
    }
}

impl Scenario {
    /// Reads one.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}: {why}", path.display()))
    }

    /// Understands one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check()?;
        Ok(scenario)
    }

    fn check(&self) -> Result<(), String> {
        let SitePlan { process_servers, machines, disks, disk_mib, cache_mib, agent_memory_mib } = self.site;
        let within = |what: &str, value: u64, from: u64, to: u64| match (from..=to).contains(&value) {
            true => Ok(()),
            false => Err(format!("{what} is {value}; it must lie between {from} and {to}")),
        };
        within("site.process_servers", process_servers.into(), 1, 8)?;
        within("site.machines", machines.into(), 1, 16)?;
        within("site.disks", disks.into(), 1, 16)?;
        within("site.disk_mib", disk_mib, 1, 1 << 20)?;
        within("site.cache_mib", cache_mib, 64, 1 << 20)?;
        within("site.agent_memory_mib", agent_memory_mib, 16, 1 << 20)?;
        within("load.span_mib", self.load.span_mib, 1, disk_mib)?;
        within("load.blocks_max", self.load.blocks_max.into(), 1, 64)?;
        let rate = self.load.writes_per_second;
        if !(0.1..=1e6).contains(&rate) {
            return Err(format!("load.writes_per_second is {rate}; it must lie between 0.1 and 1000000"));
        }
        for step in &self.step {
            span("step.at", Span::Just(step.at))?;
            self.check_fault(&step.act)?;
        }
        if let Some(random) = &self.random {
            span("random.every", random.every)?;
            if random.every.ends().0 < 0.05 {
                return Err("random.every must be at least 0.05 seconds".into());
            }
            if random.choose.iter().all(|choice| choice.weight == 0) {
                return Err("random.choose gives nothing that may happen".into());
            }
            random.choose.iter().try_for_each(|choice| self.check_fault(&choice.act))?;
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), String> {
        let wrong =
            |what: &str, among: &str| Err(format!("{what} is only for {among}, not for '{}'", fault.place().pattern()));
        let strikes = |fits: fn(&str) -> bool| fault.places(self).iter().all(|name| fits(name));
        match fault {
            Fault::Panic { .. } | Fault::VaultFail { .. } | Fault::VaultSlow { .. }
                if !strikes(|name| !is_machine(name)) =>
            {
                return wrong("this fault", "config and process servers");
            }
            Fault::CacheFull { .. } if !strikes(|name| name.starts_with("ps-")) => {
                return wrong("cache_full", "process servers");
            }
            Fault::Move { to, .. } if !self.servers().contains(to) || !strikes(is_machine) => {
                return Err(format!("a move needs a machine and one of {}", self.servers().join(", ")));
            }
            _ => {}
        }
        if fault.places(self).is_empty() {
            let (what, all) = match fault.place() {
                Place::Process(_) => ("process", self.processes()),
                Place::Link(_) => ("link", self.links()),
            };
            return Err(format!("no {what} is called '{}'; there are {}", fault.place().pattern(), all.join(", ")));
        }
        match fault {
            Fault::Skew { seconds, offset, .. } => {
                span("seconds", *seconds).and_then(|()| span_between("offset", *offset, -1e9, 1e9))
            }
            Fault::Storm { seconds, every, .. } => span("seconds", *seconds).and_then(|()| span("every", *every)),
            _ => fault.seconds().map_or(Ok(()), |seconds| span("seconds", seconds)),
        }
    }

    /// The names of all processes.
    pub(crate) fn processes(&self) -> Vec<String> {
        let config = std::iter::once("config".to_owned());
        let machines = (1..=self.site.machines).map(|number| format!("m{number}"));
        config.chain(self.servers()).chain(machines).collect()
    }

    /// The names of the process servers.
    pub(crate) fn servers(&self) -> Vec<String> {
        let letter = |number| char::from(b'a' + u8::try_from(number).unwrap_or(0));
        (0..self.site.process_servers).map(|number| format!("ps-{}", letter(number))).collect()
    }

    /// The names of all links.
    pub(crate) fn links(&self) -> Vec<String> {
        let data = self.servers().into_iter().map(|server| format!("data:{server}"));
        std::iter::once("control".to_owned()).chain(data).collect()
    }
}

fn is_machine(name: &str) -> bool {
    name != "config" && !name.starts_with("ps-")
}

fn span(what: &str, span: Span) -> Result<(), String> {
    span_between(what, span, 0.0, 86_400.0)
}

fn span_between(what: &str, span: Span, least: f64, most: f64) -> Result<(), String> {
    let (from, to) = span.ends();
    let fine = from.is_finite() && to.is_finite() && from <= to && from >= least && to <= most;
    if fine { Ok(()) } else { Err(format!("{what} is {span:?}; it must rise and lie between {least} and {most}")) }
}

/// Where a fault strikes, as the scenario says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place<'a> {
    /// At processes.
    Process(&'a str),
    /// At links.
    Link(&'a str),
}

impl Place<'_> {
    fn pattern(self) -> String {
        match self {
            Self::Process(pattern) | Self::Link(pattern) => pattern.to_owned(),
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
            | Self::Move { target, .. }
            | Self::Skew { target, .. } => Place::Process(target),
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
            | Self::Pause { target, seconds }
            | Self::Panic { target, seconds, .. }
            | Self::VaultFail { target, seconds, .. }
            | Self::VaultSlow { target, seconds, .. }
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

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "name = \"x\"\nabout = \"y\"\n";

    #[test]
    fn a_scenario_that_says_nothing_runs_with_the_defaults() {
        let scenario = Scenario::parse(LEAST).expect("fine");
        assert_eq!(scenario.processes(), ["config", "ps-a", "ps-b", "m1", "m2"]);
        assert_eq!(scenario.links(), ["control", "data:ps-a", "data:ps-b"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_reason() {
        for (text, said) in [
            ("colour = 1\n", "colour"),
            ("[site]\nmachine = 2\n", "machine"),
            ("[site]\nmachines = 0\n", "site.machines is 0"),
            ("[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-z\", seconds = 1 }\n", "ps-z"),
            ("[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-a\", seconds = [2, 1] }\n", "must rise"),
            ("[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-a\", seconds = 1, way = \"up\" }\n", "way"),
            ("[[step]]\nat = 1\ndo = { fault = \"explode\", target = \"ps-a\" }\n", "explode"),
            ("[[step]]\nat = 1\ndo = { fault = \"reset\", link = \"m1\" }\n", "no link is called 'm1'"),
            ("[random]\nevery = 1\nchoose = []\n", "nothing that may happen"),
            ("[load]\nspan_mib = 4000\n", "load.span_mib"),
        ] {
            let why = Scenario::parse(&format!("{LEAST}{text}")).expect_err(text);
            assert!(why.contains(said), "{text}: {why}");
        }
    }

    #[test]
    fn every_scenario_of_the_house_is_understood() {
        let room = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chaos/scenarios");
        let mut seen = 0;
        for entry in std::fs::read_dir(room).expect("the scenarios' room") {
            Scenario::read(&entry.expect("an entry").path()).expect("understood");
            seen += 1;
        }
        assert!(seen >= 3);
    }
}
