//! A scenario: what is started, what is broken and when, and what must hold. Written by people, in TOML; docs/chaos.md is its
//! manual. A key that nobody knows is refused.

use std::path::Path;

use serde::Deserialize;

use super::fault::{Fault, Place, Span, one};
use super::shape::{Wrong, examine, line_of};

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
    /// How often a process server starts a failing actor again before it gives it up; without, as often as in production.
    pub(crate) restarts_max: Option<u64>,
    /// Whether each process has a network of its own.
    pub(crate) namespaces: Namespaces,
}

/// Whether each process of an installation has a network namespace of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Namespaces {
    /// All are on loopback.
    Never,
    /// Where the harness runs as root; else nothing is cut off.
    Root,
    /// Without root nothing is started.
    Always,
}

impl Default for SitePlan {
    fn default() -> Self {
        Self {
            process_servers: 2,
            machines: 2,
            disks: 2,
            disk_mib: 48,
            cache_mib: 256,
            agent_memory_mib: 64,
            restarts_max: None,
            namespaces: Namespaces::Never,
        }
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
    /// The longest wait for a start, for everything to be committed, and for health to be normal, in seconds.
    pub(crate) settle_seconds: f64,
    /// Codes of issues or events that must have been seen.
    pub(crate) seen: Vec<String>,
    /// Codes of issues that must have stood in health with cause and remedy, and be gone at the end.
    pub(crate) health: Vec<String>,
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            rpo_seconds: 5.0,
            within_seconds: 30.0,
            full_resync: false,
            points: 3,
            // Chosen: five times what two busy cores need.
            settle_seconds: 90.0,
            seen: Vec::new(),
            health: Vec::new(),
        }
    }
}

/// The scenarios that every binary has.
const HOUSE: &[(&str, &str)] = &[
    ("clocks", include_str!("../../tests/chaos/scenarios/clocks.toml")),
    ("corrupt", include_str!("../../tests/chaos/scenarios/corrupt.toml")),
    ("kill", include_str!("../../tests/chaos/scenarios/kill.toml")),
    ("mix", include_str!("../../tests/chaos/scenarios/mix.toml")),
    ("namespaces", include_str!("../../tests/chaos/scenarios/namespaces.toml")),
    ("panics", include_str!("../../tests/chaos/scenarios/panics.toml")),
    ("partition", include_str!("../../tests/chaos/scenarios/partition.toml")),
    ("storm", include_str!("../../tests/chaos/scenarios/storm.toml")),
    ("vault", include_str!("../../tests/chaos/scenarios/vault.toml")),
];

impl Scenario {
    /// Reads one: of the house by its name, else a file.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        if let Some((_, text)) = HOUSE.iter().find(|(name, _)| Path::new(name) == path) {
            return Self::parse(text).map_err(|why| format!("{}, {why}", path.display()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|why| format!("{}, {why}", path.display()))
    }

    /// Understands one; what is wrong is said with line and field.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        examine(text)?;
        let scenario: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check().map_err(|wrong| format!("line {}: {wrong}", line_of(text, &wrong.field)))?;
        Ok(scenario)
    }

    /// What no shape can say: what must fit together.
    fn check(&self) -> Result<(), Wrong> {
        let (span, size) = (self.load.span_mib, self.site.disk_mib);
        if span > size {
            return Err(Wrong::new(
                "load.span_mib",
                format!("{span} is more than a disk has (site.disk_mib = {size})"),
            ));
        }
        for (number, step) in self.step.iter().enumerate() {
            self.check_fault(&step.act).map_err(|wrong| wrong.within(&format!("step[{number}].do")))?;
        }
        let Some(random) = &self.random else { return Ok(()) };
        if random.every.ends().0 < 0.05 {
            return Err(Wrong::new("random.every", "faults must lie at least 0.05 seconds apart"));
        }
        if random.choose.iter().all(|choice| choice.weight == 0) {
            return Err(Wrong::new("random.choose", "it gives nothing that may happen"));
        }
        for (number, choice) in random.choose.iter().enumerate() {
            self.check_fault(&choice.act).map_err(|wrong| wrong.within(&format!("random.choose[{number}].do")))?;
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), Wrong> {
        let (field, what, all) = match fault.place() {
            Place::Process(_) => ("target", "process", self.processes()),
            Place::Link(_) => ("link", "link", self.links()),
            Place::Vault => return Ok(()),
        };
        if matches!(fault, Fault::Cut { .. }) && self.site.namespaces == Namespaces::Never {
            return Err(Wrong::new("fault", "a cut needs site.namespaces to be \"root\" or \"always\""));
        }
        let pattern = fault.place().pattern();
        let places = fault.places(self);
        if places.is_empty() {
            let why = format!("no {what} is called '{pattern}'; there are {}", all.join(", "));
            return Err(Wrong::new(field, why));
        }
        let (fits, among): (fn(&str) -> bool, &str) = match fault {
            Fault::Panic { .. } | Fault::VaultFail { .. } | Fault::VaultSlow { .. } => {
                (|name| !is_machine(name), "config and process servers")
            }
            Fault::CacheFull { .. } | Fault::LoseCache { .. } => (|name| name.starts_with("ps-"), "process servers"),
            Fault::Move { .. } => (is_machine, "machines"),
            _ => return Ok(()),
        };
        if !places.iter().all(|name| fits(name)) {
            return Err(Wrong::new(field, format!("this fault is only for {among}, not for '{pattern}'")));
        }
        match fault {
            Fault::Move { to, .. } if !self.servers().contains(to) => {
                let why = format!("no process server is called '{to}'; there are {}", self.servers().join(", "));
                Err(Wrong::new("to", why))
            }
            _ => Ok(()),
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
            ("colour = 1\n", "line 3: colour: nobody knows this key"),
            ("[site]\nmachine = 2\n", "line 4: site.machine: nobody knows this key"),
            ("[site]\nmachines = 0\n", "line 4: site.machines: it is 0; it must lie between 1 and 16"),
            ("[site]\nmachines = \"two\"\n", "line 4: site.machines: expected a whole number"),
            ("[expect]\nseen = [1]\n", "line 4: expect.seen: expected a list of texts"),
            ("[site]\nmachines = \n", "line 4"),
            ("[[step]]\nat = 1\n", "line 3: step[0].do: it is missing"),
            (
                "[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-a\" }\n",
                "line 5: step[0].do.seconds: it is missing",
            ),
            (
                "[random]\nevery = 1\n[[random.choose]]\n[random.choose.do]\nfault = \"move\"\ntarget = \"m1\"\nto = \"m2\"\n",
                "line 9: random.choose[0].do.to",
            ),
            ("[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-z\", seconds = 1 }\n", "ps-z"),
            (
                "[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-a\", seconds = [2, 1] }\n",
                "line 5: step[0].do.seconds: it must rise",
            ),
            ("[[step]]\nat = 1\ndo = { fault = \"kill\", target = \"ps-a\", seconds = 1, way = \"up\" }\n", "way"),
            (
                "[[step]]\nat = 1\ndo = { fault = \"explode\", target = \"ps-a\" }\n",
                "line 5: step[0].do.fault: no fault is called 'explode'",
            ),
            (
                "[[step]]\nat = 1\ndo = { fault = \"reset\", link = \"m1\" }\n",
                "line 5: step[0].do.link: no link is called 'm1'",
            ),
            (
                "[[step]]\nat = 1\ndo = { fault = \"cut\", target = \"m1\", seconds = 1 }\n",
                "line 5: step[0].do.fault: a cut needs",
            ),
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
            let path = entry.expect("an entry").path();
            let scenario = Scenario::read(&path).expect("understood");
            let name = path.file_stem().expect("a name");
            assert_eq!(Path::new(&scenario.name), Path::new(name));
            assert_eq!(Scenario::read(Path::new(name)).expect("built in").about, scenario.about);
            seen += 1;
        }
        assert_eq!(seen, HOUSE.len());
    }
}
