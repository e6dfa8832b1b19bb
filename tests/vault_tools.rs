//! `farshore vault ls | verify | restore | serve` with nothing but a folder and a key: no server, no state.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use farshore_engine::ids::{DiskNo, Slot, Timestamp};
use farshore_engine::nbd::{ClientOptions, NbdClient};
use farshore_engine::vault::keys::print_key_file;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::manifest_keeper::ManifestKeeper;
use farshore_engine::vault::merge::{FullSpeed, MergeJob, MergeLimits, Merger};
use farshore_engine::vault::read::test_log::{PASSPHRASE, Seeded, TestLog};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::store::ObjectStore;
use parking_lot::Mutex;
use serde_json::Value;

const MACHINE: &str = "web server / 1";

/// A vault in a folder, its key file, and the log it was made from.
struct Rig {
    dir: tempfile::TempDir,
    log: TestLog,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let log = runtime.block_on(async {
            let mut log = TestLog::new(&[1 << 20, 8 << 20]).await;
            for n in 1..=3_u8 {
                log.write(0, u64::from(n) * 8192, &[n; 4096]);
                log.write(1, 1 << 20, &[n; 65536]);
                log.mark();
                log.end_segment().await;
            }
            let key = log.wrap_in_vault(MACHINE).await;
            let file = dir.path().join("key");
            fs::write(&file, print_key_file(&key).as_bytes()).expect("the key is written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode is set");
            put_objects(&log, &dir.path().join("vault")).await;
            log
        });
        Self { dir, log }
    }

    /// Merges all but the last segment; gives the name of the run's only part.
    fn merge(&self) -> ObjectName {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let log = &self.log;
        runtime.block_on(async {
            let chance = Arc::new(Mutex::new(Seeded::new(3)));
            let keeper = ManifestKeeper::new(log.store.clone(), log.machine, log.timeline, log.key.clone(), chance);
            let (owner, limits, pace) = ((log.epoch, log.writer), MergeLimits::default(), Arc::new(FullSpeed));
            let now = Arc::new(|| Timestamp(1_000_000_000));
            let merger = Merger::new(log.source(), log.timeline, keeper, owner, limits, pace, now);
            let reader = TimelineReader::open_with_log(log.source(), log.timeline).await.expect("it reads");
            let retained = log.taken.iter().map(|taken| taken.lsn).collect();
            let job = MergeJob { from: Slot(0), to: log.taken[1].slot, replaces: vec![], retained };
            let run = merger.merge(&reader, &job).await.expect("it merges");
            put_objects(log, &self.path("vault")).await;
            ObjectName::run_part(log.machine, log.timeline, run.id, 0)
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn object(&self, name: &ObjectName) -> PathBuf {
        self.path("vault").join(name.as_str())
    }

    fn command(&self, command: &str) -> Command {
        let mut farshore = Command::new(env!("CARGO_BIN_EXE_farshore"));
        farshore.env_clear().env("HOME", self.dir.path()).env("PASS", PASSPHRASE).env("WRONG", "incorrect horse");
        farshore.arg("vault").arg(command).arg("--vault").arg(self.path("vault"));
        farshore
    }

    fn run(&self, command: &str, args: &[&str]) -> Output {
        let key = self.path("key");
        let mut farshore = self.command(command);
        farshore.arg("--key-file").arg(key).args(args).output().expect("farshore runs")
    }

    fn restored(&self, to: &str, disk: u16) -> Vec<u8> {
        fs::read(self.path(to).join(format!("disk_{disk}.raw"))).expect("the disk is there")
    }
}

/// Writes a log's objects into a folder.
async fn put_objects(log: &TestLog, vault: &Path) {
    for line in log.store.list("", None, 1000).await.expect("it lists") {
        let path = vault.join(line.name.as_str());
        fs::create_dir_all(path.parent().expect("objects lie in folders")).expect("a folder");
        fs::write(path, log.object(&line.name).await).expect("an object");
    }
}

fn stdout(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("it is JSON")
}

#[test]
fn ls_tells_machines_timelines_and_points() {
    let rig = Rig::new();
    let text = stdout(&rig.run("ls", &[]));
    assert!(text.contains(MACHINE) && text.contains("3 points"), "{text}");
    let points = json(&rig.run("ls", &["--machine", MACHINE, "--json"]));
    let ids: Vec<_> = points.as_array().expect("a list").iter().map(|p| p["id"].as_str().expect("an id")).collect();
    let expected: Vec<String> = rig.log.taken.iter().rev().map(|taken| taken.id.to_string()).collect();
    assert_eq!(ids, expected);
    let limited = rig.run("ls", &["--machine", &rig.log.machine.to_string(), "--limit", "1"]);
    assert_eq!(stdout(&limited).lines().count(), 2);
    let opened = rig.command("ls").args(["--passphrase-env", "PASS"]).output().expect("farshore runs");
    assert!(stdout(&opened).contains(MACHINE));
    let machines = json(&rig.run("ls", &["--json"]));
    assert_eq!(machines[0]["timelines"][0]["points"], 3);
}

#[test]
fn a_tool_whose_output_nobody_reads_ends_without_a_word() {
    let rig = Rig::new();
    let (nobody, output) = std::io::pipe().expect("a pipe");
    drop(nobody);
    let mut command = rig.command("ls");
    let ended = command.args(["--passphrase-env", "PASS"]).stdout(output).stderr(Stdio::piped()).output();
    let ended = ended.expect("farshore runs");
    assert_eq!((ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()), (Some(141), ""));
}

#[test]
fn restore_brings_any_point_back_by_latest_id_or_time() {
    let rig = Rig::new();
    let target = rig.path("out");
    let to = target.to_str().expect("a plain path");
    stdout(&rig.run("restore", &["--machine", MACHINE, "--to", to, "--dry-run"]));
    assert!(!target.exists(), "a dry run writes nothing");
    stdout(&rig.run("restore", &["--machine", MACHINE, "--to", to]));
    for disk in [0, 1] {
        assert!(rig.restored("out", disk) == rig.log.taken[2].disks[&DiskNo(disk)]);
    }
    let refused = rig.run("restore", &["--machine", MACHINE, "--to", to]);
    assert_eq!(refused.status.code(), Some(2));
    let id = rig.log.taken[0].id.to_string();
    stdout(&rig.run("restore", &["--machine", MACHINE, "--to", to, "--force", "--point", &id]));
    assert!(rig.restored("out", 1) == rig.log.taken[0].disks[&DiskNo(1)]);
    // The test log's clock: a mark is captured as many seconds after 1970 as its LSN less one says.
    let time = format!("1970-01-01T00:00:{:02}.5Z", rig.log.taken[1].lsn.0 - 1);
    let by_time = ["--machine", MACHINE, "--to", to, "--force", "--point", &time, "--disk", "disk 0"];
    stdout(&rig.run("restore", &by_time));
    assert!(rig.restored("out", 0) == rig.log.taken[1].disks[&DiskNo(0)]);
    assert!(rig.restored("out", 1) == rig.log.taken[0].disks[&DiskNo(1)], "the other disk was not asked for");
}

#[test]
fn verify_ends_with_1_on_damage_and_4_on_a_wrong_key() {
    let rig = Rig::new();
    let sound = rig.run("verify", &[]);
    assert!(stdout(&sound).contains("everything is what was written"));
    let wrong = rig.command("verify").args(["--passphrase-env", "WRONG"]).output().expect("farshore runs");
    assert_eq!(wrong.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("this passphrase does not open the vault"));

    let sampled = stdout(&rig.run("verify", &["--sample", "50", "--seed", "7"]));
    assert!(sampled.contains("what was written"), "{sampled}");
    let pointed = stdout(&rig.run("verify", &["--machine", MACHINE, "--point", "latest"]));
    assert!(pointed.contains("what was written"), "{pointed}");
    for (args, says) in [(["--sample", "0"], "above 0"), (["--point", "latest"], "--machine")] {
        let refused = rig.run("verify", &args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(says), "{args:?}: {refused:?}");
    }

    let name = rig.log.name(rig.log.taken[1].slot);
    let mut bytes = fs::read(rig.object(&name)).expect("the object is there");
    bytes[200] ^= 1;
    fs::write(rig.object(&name), bytes).expect("it is damaged");
    let damaged = rig.run("verify", &["--json"]);
    assert_eq!(damaged.status.code(), Some(1));
    let report = json(&damaged);
    assert_eq!(report["bad"][0]["object"], name.as_str());
    assert_eq!(report["bad"][0]["points"].as_array().map(Vec::len), Some(2));
}

#[test]
fn what_is_damaged_or_gone_is_put_back_from_a_copy_where_it_is_proven() {
    let rig = Rig::new();
    let copied = Command::new("cp").arg("-a").arg(rig.path("vault")).arg(rig.path("copy")).status();
    assert!(copied.is_ok_and(|status| status.success()));
    let from = rig.path("copy");
    let repair = |more: &[&str]| rig.run("repair", &[&["--from", from.to_str().expect("a plain path")], more].concat());
    assert!(stdout(&repair(&[])).contains("0 objects put back or made again, 0 stay damaged"));

    let last = rig.log.name(rig.log.taken[2].slot);
    let damage = |name: &ObjectName, change: fn(&mut [u8])| {
        let mut bytes = fs::read(rig.object(name)).expect("the object is there");
        change(&mut bytes);
        fs::write(rig.object(name), bytes).expect("it is damaged");
    };
    let middle = rig.log.name(rig.log.taken[1].slot);
    damage(&middle, |bytes| bytes[bytes.len() - 900] ^= 1);
    damage(&last, |bytes| bytes[bytes.len() - 1] ^= 1);
    assert!(
        stdout(&repair(&[])).contains("2 objects put back or made again, 0 stay damaged"),
        "what is left of the last one proves it"
    );
    damage(&middle, |bytes| bytes[bytes.len() - 900] ^= 1);
    damage(&last, |bytes| bytes.fill(0));
    let gone = [ObjectName::keys(1), ObjectName::about(rig.log.machine, 1), rig.log.name(rig.log.taken[0].slot)];
    gone.iter().for_each(|name| fs::remove_file(rig.object(name)).expect("it was there"));
    let part = repair(&[]);
    let said = String::from_utf8_lossy(&part.stdout).into_owned();
    assert_eq!(part.status.code(), Some(1), "{said}");
    assert!(
        said.contains("4 objects put back or made again, 1 stay damaged") && said.contains("nothing proves"),
        "{said}"
    );
    assert!(said.contains(&format!("BAD {last}")), "{said}");
    assert!(stdout(&repair(&["--accept-unproven"])).contains("1 objects put back or made again, 0 stay damaged"));
    assert!(stdout(&rig.run("verify", &[])).contains("everything is what was written"));
    let differs = Command::new("diff")
        .args(["-r", "-x", ".staging"])
        .arg(rig.path("vault"))
        .arg(&from)
        .output()
        .expect("diff runs");
    assert!(differs.status.success(), "{}", String::from_utf8_lossy(&differs.stdout));
}

#[test]
fn a_damaged_run_is_made_again_while_what_it_was_merged_from_is_there() {
    let rig = Rig::new();
    let run = rig.merge();
    let mut bytes = fs::read(rig.object(&run)).expect("the run is there");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(rig.object(&run), bytes).expect("it is damaged");
    let damaged = rig.run("verify", &[]);
    assert_eq!(damaged.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&damaged.stdout).contains("repair: its process server, or `vault repair`"));
    let text = stdout(&rig.run("repair", &[]));
    assert!(text.contains(&format!("made again {run}")) && text.contains("0 stay damaged"), "{text}");
    assert!(stdout(&rig.run("verify", &[])).contains("everything is what was written"));
    let target = rig.path("out");
    stdout(&rig.run("restore", &["--machine", MACHINE, "--to", target.to_str().expect("a plain path")]));
    assert!(rig.restored("out", 0) == rig.log.taken[2].disks[&DiskNo(0)]);
}

#[test]
fn a_rotated_vault_key_opens_everything_and_the_old_one_nothing() {
    let rig = Rig::new();
    let rotate = |by: &str| {
        let mut farshore = Command::new(env!("CARGO_BIN_EXE_farshore"));
        farshore.env_clear().env("HOME", rig.dir.path()).args(["vault", "key", "rotate", "--vault"]);
        farshore.arg(rig.path("vault")).arg("--key-file").arg(rig.path(by));
        farshore.arg("--new-key-file").arg(rig.path("key.new")).output().expect("farshore runs")
    };
    let text = stdout(&rotate("key"));
    assert!(text.contains("recovery key, shown this once") && text.contains("wrapped again: 1"), "{text}");
    assert!(stdout(&rotate("key.new")).contains("already"));
    assert_eq!(rig.run("ls", &[]).status.code(), Some(4), "the old key file is refused");
    let old_passphrase = rig.command("ls").args(["--passphrase-env", "PASS"]).output().expect("farshore runs");
    assert_eq!(old_passphrase.status.code(), Some(4));
    fs::rename(rig.path("key.new"), rig.path("key")).expect("the new key takes the old one's place");
    assert!(stdout(&rig.run("verify", &[])).contains("everything is what was written"));
    let target = rig.path("out");
    stdout(&rig.run("restore", &["--machine", MACHINE, "--to", target.to_str().expect("a plain path")]));
    assert!(rig.restored("out", 0) == rig.log.taken[2].disks[&DiskNo(0)]);
}

#[test]
fn what_is_asked_wrongly_is_told_plainly() {
    let rig = Rig::new();
    let nobody = rig.run("ls", &["--machine", "nobody"]);
    assert_eq!(nobody.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("no machine of this vault is called 'nobody'"));
    let disk = rig.run("restore", &["--machine", MACHINE, "--to", "x", "--disk", "sdz"]);
    assert!(String::from_utf8_lossy(&disk.stderr).contains("has no disk 'sdz': disk 0 (0), disk 1 (1)"));
    let early = rig.run("restore", &["--machine", MACHINE, "--to", "x", "--point", "1969-01-01T00:00:00Z"]);
    assert_eq!(early.status.code(), Some(1));
    let empty = Command::new(env!("CARGO_BIN_EXE_farshore"))
        .args(["vault", "ls", "--key-file"])
        .arg(rig.path("key"))
        .arg("--vault")
        .arg(rig.dir.path().join("vault/machines"))
        .output()
        .expect("farshore runs");
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("there is no vault here"));
}

/// A child that does not outlive its test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // Gone already where the test went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn serve(rig: &Rig, sockets: &Path, extra: &[&str]) -> (Serving, Vec<String>) {
    let mut command = rig.command("serve");
    command.arg("--key-file").arg(rig.path("key")).args(["--machine", MACHINE, "--socket-dir"]).arg(sockets);
    let mut child = Serving(command.args(extra).stdout(Stdio::piped()).spawn().expect("farshore runs"));
    let lines = BufReader::new(child.0.stdout.take().expect("it is piped")).lines().take(2);
    let uris = lines.map(|line| line.expect("a line").rsplit("  ").next().expect("a URI").to_owned()).collect();
    (child, uris)
}

#[test]
fn serve_keeps_what_it_read_near_and_takes_it_from_there_again() {
    let rig = Rig::new();
    let near = rig.path("near");
    let text = near.to_str().expect("text");
    for _ in 0..2 {
        let (mut child, uris) = serve(&rig, &rig.path("sockets"), &["--near", text, "--hydrate"]);
        for (disk, uri) in uris.iter().enumerate() {
            let mut client =
                NbdClient::connect(&uri.parse().expect("a URI"), ClientOptions::default()).expect("connects");
            let model = &rig.log.taken[2].disks[&DiskNo(disk as u16)];
            let mut bytes = vec![0xee; model.len()];
            client.read(0, &mut bytes).expect("it reads");
            assert!(bytes == *model);
            client.disconnect().expect("it leaves");
        }
        let second = rig.run("serve", &["--machine", MACHINE, "--socket-dir", text, "--near", text]);
        assert_eq!(second.status.code(), Some(2), "one process at a time");
        assert!(String::from_utf8_lossy(&second.stderr).contains("another process uses this folder"), "{second:?}");
        let pid = child.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
        assert!(child.0.wait().expect("it ends").success());
        let kept = fs::read_dir(&near).expect("it lists").count();
        assert!(kept > 1, "frames beside the lock");
    }
}

#[test]
fn serve_offers_every_disk_takes_writes_into_an_overlay_and_stops_on_sigterm() {
    let rig = Rig::new();
    let (mut child, uris) = serve(&rig, &rig.path("sockets"), &["--overlay"]);
    for (disk, uri) in uris.iter().enumerate() {
        let mut client = NbdClient::connect(&uri.parse().expect("a URI"), ClientOptions::default()).expect("connects");
        let model = &rig.log.taken[2].disks[&DiskNo(disk as u16)];
        let mut bytes = vec![0xee; model.len()];
        client.read(0, &mut bytes).expect("it reads");
        assert!(bytes == *model);
        client.write(0, &[0x77; 4096], false).expect("the overlay takes it");
        client.read(0, &mut bytes[..4096]).expect("it reads");
        assert_eq!(bytes[..4096], [0x77; 4096]);
        client.disconnect().expect("it leaves");
    }
    let pid = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs").success());
    assert!(child.0.wait().expect("it ends").success());
    assert_eq!(fs::read_dir(rig.path("sockets")).expect("it lists").count(), 0, "sockets are taken away");
    assert!(stdout(&rig.run("verify", &[])).contains("everything"), "the vault did not change");
}
