//! The cache disk full, the vault full, the vault away or hanging: application writes go on, the RPO grows, an event says
//! so and what to do, and afterwards it catches up by itself. // I1

use std::cell::Cell;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Load, Machine, Site};
use crate::kills::{check_all, check_point};
use crate::mounts::Mount;
use crate::rig::{Rig, eventually, is_root, privileged, sized};
use crate::vaults;

const MIB: u64 = 1 << 20;
/// RPO in seconds that an outage is waited for to reach; a quiet machine's is below three.
const RPO_BAR: [f64; 2] = [7.0, 180.0];
/// RPO in seconds at which a machine has caught up.
const RPO_QUIET: f64 = 5.0;
/// Room on the cache's filesystem.
const CACHE_ROOM: u64 = 192 * MIB;
/// Room on the vault's: for everything that a load writes, so that it is full only when it is filled on purpose.
const VAULT_ROOM: [u64; 2] = [192 * MIB, 1536 * MIB];

/// What the outage is known by.
struct Outage<'a> {
    code: &'a str,
    /// What the operator is told to do.
    remedy: &'a str,
}

/// A machine under load, and what is seen of it through the API.
struct Scene<'a> {
    rig: &'a Rig,
    site: &'a Site,
    machine: &'a Machine,
    load: Load,
}

impl<'a> Scene<'a> {
    fn begin(rig: &'a Rig, site: &'a Site, machine: &'a mut Machine, seconds: u32) -> Self {
        let token = site.token(rig, "machine");
        machine.start(rig, site, Some(&token));
        machine.settled(rig);
        let load = Load::start(rig, machine, seconds, 23, 200);
        let scene = Self { rig, site, machine, load };
        scene.writes_go_on_from(0);
        scene.is_quiet();
        scene
    }

    fn rpo(&self) -> Option<f64> {
        self.site.machine(self.rig, self.machine.name)["rpo_seconds"].as_f64()
    }

    fn is_quiet(&self) {
        eventually("a small RPO", || match self.rpo() {
            Some(rpo) if rpo < RPO_QUIET => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    fn written(&self) -> u64 {
        self.machine.status(self.rig).ok().and_then(|status| status["last_lsn"].as_u64()).unwrap_or(0)
    }

    fn writes_go_on_from(&self, before: u64) {
        eventually("application writes", || match self.written() {
            now if now > before + 200 => Ok(()),
            now => Err(format!("{now} after {before}: {}", self.load.log_tail())),
        });
    }

    /// Events with a code, newest first.
    fn events(&self, code: &str) -> Vec<Value> {
        let events = self.site.ctl(self.rig, &["events", "--limit", "500"]);
        let items = events["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().filter(|event| event["code"] == code).collect()
    }

    /// The newest event of an outage and a severity, of those behind the first `before`.
    fn told(&self, outage: &Outage<'_>, before: usize, severity: &str) -> Result<Value, String> {
        let events = self.events(outage.code);
        let new = &events[..events.len() - before];
        let found = new.iter().find(|event| event["severity"] == severity).cloned();
        found.ok_or_else(|| format!("no {severity} event '{}' among {new:?}", outage.code))
    }

    /// Everything that is promised of an outage, from `begin` of it to `end`.
    fn suffers(&mut self, outage: &Outage<'_>, begin: impl FnOnce(), end: impl FnOnce()) {
        let told_before = self.events(outage.code).len();
        begin();
        let (start, before) = (Instant::now(), self.written());
        let event = eventually("the event that says so", || self.told(outage, told_before, "critical"));
        let text = event["text"].as_str().unwrap_or_default();
        assert!(text.contains(outage.remedy), "it says what to do ('{}'): {event}", outage.remedy);
        let bar = sized(RPO_BAR[0], RPO_BAR[1]);
        while self.rpo().is_none_or(|rpo| rpo < bar) {
            assert!(start.elapsed().as_secs_f64() < bar + 60.0, "the RPO does not grow: {:?}", self.rpo());
            std::thread::sleep(Duration::from_millis(100));
        }
        self.writes_go_on_from(before);
        println!("{}: RPO {:?} s after {:?}", outage.code, self.rpo(), start.elapsed());
        assert!(self.load.runs(), "the outage is over before the workload is: {}", self.load.log_tail());
        end();
        let start = Instant::now();
        self.is_quiet();
        println!("{}: caught up after {:?}", outage.code, start.elapsed());
        eventually("the event that it is over", || self.told(outage, told_before, "info"));
        assert!(self.load.runs(), "it caught up under load: {}", self.load.log_tail());
    }

    /// No write failed, and every point shows what it must.
    fn end(self) {
        let Self { rig, site, machine, load } = self;
        let journal = load.finish();
        let status = machine.settled(rig);
        assert_ne!(status["full_compare"], Value::Bool(true), "no full resync: {status}");
        check_all(rig, site, machine, &journal);
        let points = site.points(rig, machine.name);
        assert!(points.len() >= 5, "{points:?}");
        for point in points.iter().step_by((points.len() / 2).max(1)) {
            check_point(rig, site, machine, point["id"].as_str().expect("a point's id"), &journal, &[]);
        }
    }
}

fn may_mount(name: &str) -> bool {
    privileged(name, is_root(), "root, for small filesystems of its own")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}

#[test]
fn a_full_cache_disk_stops_no_write_and_is_caught_up_with() {
    if !may_mount("a_full_cache_disk_stops_no_write_and_is_caught_up_with") {
        return;
    }
    let rig = vaults::rig("outages");
    let cache = Mount::tmpfs(&rig.path("site/process-server"), CACHE_ROOM);
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "cache full", &[("data", 32 * MIB, 4096)]);
    let mut scene = Scene::begin(&rig, &site, &mut machine, sized(18, 400));
    let outage = Outage { code: "cache_full", remedy: "Make room" };
    scene.suffers(&outage, || cache.fill(), || cache.make_room());
    scene.end();
}

#[test]
fn a_full_vault_stops_no_write_and_is_caught_up_with() {
    if !may_mount("a_full_vault_stops_no_write_and_is_caught_up_with") {
        return;
    }
    let rig = Rig::new();
    let disk = Mount::tmpfs(&rig.path("vaults"), sized(VAULT_ROOM[0], VAULT_ROOM[1]));
    let vault = rig.path("vaults/vault");
    let site = Site::up(&rig, &["--vault", text(&vault)]);
    let mut machine = Machine::new(&rig, "vault full", &[("data", 32 * MIB, 512)]);
    let mut scene = Scene::begin(&rig, &site, &mut machine, sized(18, 400));
    let outage = Outage { code: "vault_full", remedy: "Make room" };
    scene.suffers(&outage, || disk.fill(), || disk.make_room());
    scene.end();
    // Nothing that was tried in vain is left in the way.
    let key = site.state.join("vault.key");
    rig.farshore_ok(&["vault", "verify", "--vault", text(&vault), "--key-file", text(&key)]);
}

#[test]
fn a_vault_that_is_away_or_hangs_stops_no_write_and_is_caught_up_with() {
    if !may_mount("a_vault_that_is_away_or_hangs_stops_no_write_and_is_caught_up_with") {
        return;
    }
    let rig = Rig::new();
    let disk = Mount::ext4(&rig, &rig.path("vaults"), sized(VAULT_ROOM[0], VAULT_ROOM[1]));
    let (vault, aside) = (rig.path("vaults/vault"), rig.path("vaults/aside"));
    let site = Site::up(&rig, &["--vault", text(&vault)]);
    let mut machine = Machine::new(&rig, "vault away", &[("data", 32 * MIB, 512)]);
    let mut scene = Scene::begin(&rig, &site, &mut machine, sized(36, 800));
    let outage = Outage { code: "vault_away", remedy: "Look at the vault" };
    // What a vault looks like whose filesystem is not mounted: an empty folder. Nothing may be taken for committed there.
    let unmount = || {
        fs::rename(&vault, &aside).expect("take the vault away");
        fs::create_dir(&vault).expect("leave an empty folder");
    };
    let mount = || {
        let left = fs::read_dir(&vault).expect("read the empty folder").count();
        assert_eq!(left, 0, "nothing is written where the vault is not");
        fs::remove_dir(&vault).expect("take the empty folder away");
        fs::rename(&aside, &vault).expect("bring the vault back");
    };
    scene.suffers(&outage, unmount, mount);
    // A dead file server: whoever writes to it waits.
    let frozen = Cell::new(None);
    scene.suffers(&outage, || frozen.set(Some(disk.freeze())), || drop(frozen.take()));
    scene.end();
    let key = site.state.join("vault.key");
    rig.farshore_ok(&["vault", "verify", "--vault", text(&vault), "--key-file", text(&key)]);
}
