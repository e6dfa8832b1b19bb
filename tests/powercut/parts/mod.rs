//! What runs in the child: recovers a component, checks it against what was acknowledged, and goes on until the power goes.

mod activity;
mod cache;
mod state;
mod vault;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::rig::{ACKS, FOLDER, JOB, REPORT, SEED};

/// Notes acknowledgements where no power cut reaches them.
pub(crate) struct Acks(Mutex<File>);

impl Acks {
    pub(crate) fn note(&self, what: &str, number: u64) {
        // One write for a line: it is there whole or not at all when this process is killed.
        self.0.lock().write_all(format!("{what} {number}\n").as_bytes()).expect("note what is acknowledged");
    }
}

/// What was acknowledged before, in order.
pub(crate) struct Acked(Vec<(String, u64)>);

impl Acked {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).expect("read what was acknowledged");
        let line = |line: &str| {
            let (what, number) = line.split_once(' ').expect("a name and a number");
            (what.to_owned(), number.parse().expect("a number"))
        };
        Self(text.lines().map(line).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(what, number)| (what.as_str(), *number))
    }

    /// The highest number under a name.
    pub(crate) fn highest(&self, name: &str) -> Option<u64> {
        self.iter().filter(|(what, _)| *what == name).map(|(_, number)| number).max()
    }
}

/// What a component is given.
pub(crate) struct Job {
    /// Where it keeps itself, on the disk that will lose its power.
    pub(crate) folder: PathBuf,
    /// What was acknowledged in the rounds before.
    pub(crate) acked: Acked,
    pub(crate) acks: Acks,
    /// Of this life.
    pub(crate) seed: u64,
    report: PathBuf,
    goes_on: bool,
}

impl Job {
    fn from_environment() -> (String, Self) {
        let get = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is set by the rig"));
        let job = get(JOB);
        let (mode, part) = job.split_once(' ').expect("a mode and a part");
        let acks = PathBuf::from(get(ACKS));
        let acked = Acked::read(&acks);
        let file = OpenOptions::new().append(true).open(&acks).expect("open the acknowledgements");
        let folder = PathBuf::from(get(FOLDER));
        fs::create_dir_all(&folder).expect("make a folder");
        let seed = get(SEED).parse().expect("a number");
        let (report, goes_on) = (get(REPORT).into(), mode == "write");
        (part.to_owned(), Self { folder, acked, acks: Acks(Mutex::new(file)), seed, report, goes_on })
    }

    /// Reports what was found, and says whether to go on writing.
    pub(crate) fn found(&self, verdict: Result<String, String>) -> bool {
        let line = match &verdict {
            Ok(found) => format!("{found}\n"),
            Err(lost) => format!("lost {}\n", lost.replace('\n', " ")),
        };
        let aside = self.report.with_extension("new");
        fs::write(&aside, line).and_then(|()| fs::rename(&aside, &self.report)).expect("report");
        verdict.is_ok() && self.goes_on
    }
}

/// Does what the environment says.
pub(crate) fn run() {
    let (part, job) = Job::from_environment();
    match part.as_str() {
        "cache" => cache::run(&job),
        "activity" => activity::run(&job),
        "state" => state::run(&job),
        "vault" => vault::run(&job),
        other => panic!("there is no part called {other}"),
    }
}
