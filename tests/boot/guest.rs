//! A virtual machine under emulation, and what its serial console says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::rig::{Proc, Rig};

/// The longest that a guest may take for anything: five times what a start takes on a quiet machine.
const PATIENCE: Duration = Duration::from_secs(240);

/// The image that `scripts/guest.sh` makes.
pub(crate) fn guest_image() -> PathBuf {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/guest/debian.img");
    assert!(image.exists(), "{} is not there: `make boot` makes it", image.display());
    image
}

/// A running guest; it is ended as by a power cut.
pub(crate) struct Guest {
    name: String,
    process: Proc,
    console: PathBuf,
    disk: String,
}

impl Guest {
    /// Starts a machine from a disk, as QEMU's `-drive` names it.
    pub(crate) fn start(rig: &Rig, name: &str, disk: &str) -> Self {
        let console = rig.path(&format!("{name}.console"));
        let mut command = Command::new("qemu-system-x86_64");
        command.args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "768", "-nodefaults"]);
        command.args(["-display", "none", "-no-reboot", "-serial", &format!("file:{}", console.display())]);
        command.args(["-drive", &format!("{disk},if=none,id=root,cache=none")]);
        command.args(["-device", "virtio-blk-pci,drive=root,bootindex=0"]);
        let process = Proc::start(name, command, &rig.path(&format!("{name}.qemu")));
        Self { name: name.into(), process, console, disk: disk.into() }
    }

    /// The starts and lines that its service finds on the disk when it comes up.
    pub(crate) fn up(&self) -> (u64, u64) {
        let said = self.said("LEDGER UP starts=");
        let (starts, lines) = said.split_once(" lines=").unwrap_or_else(|| panic!("{}: '{said}'", self.name));
        (number(starts), number(lines))
    }

    /// Waits until it has synced that many lines; gives how many it has told of.
    pub(crate) fn lines(&self, at_least: u64) -> u64 {
        let start = Instant::now();
        loop {
            let told = self.last("LEDGER LINE ").map_or(0, |line| number(&line));
            if told >= at_least {
                return told;
            }
            self.wait(start, &format!("line {at_least}"));
        }
    }

    /// No trouble with its disk on the console.
    pub(crate) fn is_well(&self) {
        let console = self.text();
        for trouble in ["I/O error", "EXT4-fs error", "Remounting filesystem read-only", "Kernel panic"] {
            assert!(!console.contains(trouble), "{} ({}): {trouble}\n{console}", self.name, self.disk);
        }
    }

    fn said(&self, what: &str) -> String {
        let start = Instant::now();
        loop {
            match self.last(what) {
                Some(rest) => return rest,
                None => self.wait(start, what),
            }
        }
    }

    /// What follows `what` in the last whole line of the console that has it.
    fn last(&self, what: &str) -> Option<String> {
        let text = self.text();
        let whole = text.rsplit_once('\n').map(|(whole, _)| whole)?;
        whole.lines().rev().find_map(|line| line.split_once(what).map(|(_, rest)| rest.trim().to_owned()))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn wait(&self, since: Instant, what: &str) {
        let end = || format!("{}\n{}", self.process.log_tail(), self.text());
        assert!(since.elapsed() < PATIENCE, "{} ({}): waited for '{what}':\n{}", self.name, self.disk, end());
        // Between two looks at the console, not in place of one.
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|_| panic!("'{text}' is no number"))
}
