//! First contact through the shell, with the real program: login, the profile's permissions, a lost admin token,
//! completions; a machine that joins by the command as it is printed, and follows the policy that is set for it.

#[path = "system/cluster.rs"]
#[allow(dead_code, reason = "these tests use their part")]
mod cluster;
#[path = "system/rig.rs"]
#[allow(dead_code, reason = "these tests use their part")]
mod rig;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything; nothing is timed by it.
const WITHIN: Duration = Duration::from_secs(60);

/// A configuration server and process server of the test's own; ended with it.
struct Up(Child);

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn farshore(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
    command.args(args).env("FARSHORE_PROFILE", dir.join("profile.toml")).env_remove("FARSHORE_TOKEN").current_dir(dir);
    command.stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    farshore(dir, args).output().expect("it runs")
}

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < WITHIN, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn start(dir: &Path) -> (Up, Value) {
    let site = dir.join("site");
    let state = site.display().to_string();
    let any = "127.0.0.1:0";
    let listen = ["--listen-management", any, "--listen-replication", any, "--listen-control", any];
    let log = std::fs::File::create(dir.join("up.log")).expect("a log");
    let mut command = farshore(dir, &[&["up", "--state-dir", &state][..], &listen[..]].concat());
    let child = command.stdout(log.try_clone().expect("shared")).stderr(log).spawn().expect("it starts");
    let up = Up(child);
    let ready = || std::fs::read(site.join("endpoints.json")).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let endpoints = until("the servers", ready);
    (up, endpoints)
}

#[test]
fn login_keeps_a_profile_that_only_its_owner_reads_and_a_lost_admin_token_is_made_anew() {
    let dir = tempfile::tempdir().expect("temp dir");
    let dir = dir.path();
    let (_up, endpoints) = start(dir);
    let field = |name: &str| endpoints[name].as_str().expect("a text").to_owned();
    let token_file = dir.join("site/admin.token").display().to_string();
    assert!(field("management").starts_with("https://"), "TLS is the default");
    let printed = until("the dashboard's link", || {
        let log = std::fs::read_to_string(dir.join("up.log")).expect("the log");
        log.lines().find(|line| line.contains("/#login=")).map(str::to_owned)
    });
    assert!(printed.contains(&field("management")), "{printed}");

    let (server, trust) = (field("management"), field("ca_fingerprint"));
    let login = ["ctl", "login", "--server", &server, "--ca-fingerprint", &trust, "--token-file", &token_file];
    let said = run(dir, &login);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let profile = dir.join("profile.toml");
    let mode = || std::fs::metadata(&profile).expect("the profile").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let elsewhere = dir.join("nothing-here").display().to_string();
    let whoami = ["ctl", "--state-dir", &elsewhere, "--json", "whoami"];
    let said = run(dir, &whoami);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let me: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!((me["role"].as_str(), me["csrf_token"].as_str()), (Some("admin"), None));

    std::fs::set_permissions(&profile, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let said = run(dir, &whoami);
    assert_eq!(said.status.code(), Some(2), "a profile that others read is refused");
    std::fs::set_permissions(&profile, std::fs::Permissions::from_mode(0o600)).expect("chmod");

    let before = std::fs::read_to_string(&token_file).expect("the token");
    let site = dir.join("site").display().to_string();
    let said = run(dir, &["token", "reset", "--state-dir", &site]);
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let after = std::fs::read_to_string(&token_file).expect("the token");
    assert_ne!(before, after);
    let said = run(dir, &whoami);
    assert_eq!(said.status.code(), Some(4), "the token before is revoked: {}", String::from_utf8_lossy(&said.stderr));
    assert!(run(dir, &["ctl", "--state-dir", &site, "overview"]).status.success());
    let changing = run(dir, &["ctl", "--state-dir", &site, "--watch", "2", "login-code"]);
    assert_eq!(changing.status.code(), Some(2), "what changes something is not repeated");
}

#[test]
fn completions_name_the_commands() {
    let dir = tempfile::tempdir().expect("temp dir");
    for shell in ["bash", "zsh", "fish"] {
        let said = run(dir.path(), &["completions", shell]);
        let text = String::from_utf8_lossy(&said.stdout);
        assert!(said.status.success() && text.contains("test-failover"), "{shell}");
    }
}

/// Times between points that lie behind `after`, in milliseconds, the oldest first.
fn apart(points: &[Value], after: i64) -> Vec<i64> {
    let mut times: Vec<i64> = points.iter().map(captured_at).filter(|at| *at > after).collect();
    times.sort_unstable();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// When a point was taken, in milliseconds.
fn captured_at(point: &Value) -> i64 {
    let text = point["captured_at"].as_str().expect("a time");
    farshore_web::show::parse_time(text).expect("RFC 3339").0 / 1000
}

#[test]
fn a_machine_joins_by_the_printed_command_and_its_points_follow_the_policy_as_it_changes() {
    let rig = rig::Rig::new();
    let site = cluster::Site::up(&rig, &[]);
    let mut machine = cluster::Machine::new(&rig, "mail", &[("data", 16 << 20, 4096)]);
    let disk = format!("data={}", machine.disks[0].image.display());
    let ticket = site.ctl(&rig, &["token", "create", "--role", "machine", "--name", "mail", "--disk", &disk]);
    let command = ticket["command"].as_str().expect("a command");
    let state = machine.state.display().to_string();
    let words: Vec<&str> = command.split(' ').skip(1).chain(["--state-dir", &state]).collect();
    machine.agent = Some(rig.start("mail.agent-log", &words));
    rig::eventually("the machine's first point", || match machine.status(&rig)?["disks"][0]["gap"].is_null() {
        true => Ok(()),
        false => Err("its first contents are being sent".into()),
    });
    let load = cluster::Load::start(&rig, &machine, 600, 5, 100);

    let set = |interval: &str| {
        site.ctl(&rig, &["edit", "mail", "--mark-interval", interval]);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        i64::try_from(now.as_millis()).expect("a time")
    };
    let seen = |what: &str, after: i64, fits: &dyn Fn(&[i64]) -> bool| {
        rig::eventually(what, || {
            let apart = apart(&site.points(&rig, "mail"), after);
            if fits(&apart) { Ok(()) } else { Err(format!("{apart:?}")) }
        });
    };
    let at = set("3000");
    // No two points are nearer to each other than the interval; the first pair may still be one of before.
    seen("points three seconds apart", at, &|apart| apart.len() >= 4 && apart[1..].iter().all(|ms| *ms >= 2_900));
    let at = set("200");
    seen("points that come fast", at, &|apart| apart.iter().filter(|ms| **ms < 1_500).count() >= 5);
    let policy = site.machine(&rig, "mail")["policy"].clone();
    assert_eq!((policy["mark_interval_ms"].as_u64(), policy["own"].as_bool()), (Some(200), Some(true)), "{policy}");
    assert!(policy["wanted"]["rpo_warning_seconds"].is_null(), "what was not named is the installation's: {policy}");
    let said = rig::eventually("what it was told to be written down", || rig.json(&machine.state.join("policy.json")));
    assert_eq!(said["mark_interval_ms"].as_u64(), Some(200), "a restart without the server keeps to it");
    drop(load);
}
