//! Faults from outside, over REST: the script of the manual, and a crowd of synthetic machines.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::rounds::alone;

/// `farshore up --enable-chaos` in a directory of its own; ends when it is dropped.
struct Site {
    dir: TempDir,
    child: Child,
}

impl Site {
    fn up() -> Self {
        // Process servers slow agents down where the disk is nearly full, whoever filled it.
        let roomy = Path::new("/dev/shm");
        let place = if roomy.is_dir() { roomy.to_owned() } else { std::env::temp_dir() };
        let dir = tempfile::Builder::new().prefix("fs").tempdir_in(place).expect("temporary directory");
        let any = "127.0.0.1:0";
        let child = Command::new(env!("CARGO_BIN_EXE_farshore"))
            .args(["up", "--enable-chaos", "--plain-http", "--state-dir"])
            .arg(dir.path())
            .args(["--listen-management", any, "--listen-replication", any, "--listen-control", any])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start");
        let site = Self { dir, child };
        eventually("the servers", || site.endpoints().map(drop));
        site
    }

    fn endpoints(&self) -> Result<Value, String> {
        let text = std::fs::read_to_string(self.dir.path().join("endpoints.json")).map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|e| e.to_string())
    }

    fn endpoint(&self, name: &str) -> String {
        let endpoints = self.endpoints().expect("endpoints");
        endpoints[name].as_str().unwrap_or_else(|| panic!("no {name} in {endpoints}")).to_owned()
    }

    fn ctl(&self, args: &[&str]) -> Result<Value, String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        let output = command.arg("ctl").arg("--state-dir").arg(self.dir.path()).arg("--json").args(args).output();
        let output = output.map_err(|e| e.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
    }

    fn crowd(&self, count: u32, more: &[&str]) -> Command {
        let uses = count.to_string();
        let token = self.ctl(&["token", "create", "--role", "machine", "--uses", &uses]).expect("a token");
        let mut command = Command::new(env!("CARGO_BIN_EXE_farshore"));
        command.args(["chaos", "agents", "--count", &uses, "--config-server", &self.endpoint("control")]);
        command.args(["--ca-fingerprint", &self.endpoint("ca_fingerprint")]);
        command.args(["--token", token["token"].as_str().expect("its text")]).args(more);
        command
    }

    /// How many machines are protected.
    fn protected(&self) -> Result<usize, String> {
        let machines = self.ctl(&["machines"])?;
        let items = machines["items"].as_array().cloned().unwrap_or_default();
        Ok(items.iter().filter(|machine| machine["state"] == "protected" && !machine["rpo_seconds"].is_null()).count())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(why) => assert!(begun.elapsed() < Duration::from_secs(90), "waited for {what}: {why}"),
        }
        // Between two looks at a condition, not in place of one.
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_script_of_the_manual_drives_faults_from_outside_and_reads_their_verdicts() {
    let _alone = alone();
    let site = Site::up();
    let crowd = site.crowd(3, &["--rate", "10"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let _crowd = Ends(crowd.expect("start"));
    let all = || match site.protected()? {
        3 => Ok(()),
        count => Err(format!("{count} are protected")),
    };
    eventually("three protected machines", all);
    let manual = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/chaos.md")).expect("manual");
    let script = manual.split("```bash\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the script");
    assert!(script.lines().count() <= 36, "the manual promises a short one");
    let token = std::fs::read_to_string(site.dir.path().join("admin.token")).expect("the token");
    let run = |process: &str| {
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).env("SERVER", site.endpoint("management")).env("TOKEN", token.trim());
        bash.env("PROCESS", process).output().expect("run bash")
    };
    let output = run("config-server");
    let (said, wrong) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}");
    assert_eq!(said.matches("struck").count(), 3, "{said}");
    assert!(!run("nobody").status.success(), "a process that is not there cannot be broken");
}

#[test]
fn a_crowd_of_synthetic_machines_is_protected_like_real_ones() {
    let _alone = alone();
    let site = Site::up();
    let count = if std::env::var_os("FARSHORE_SOAK").is_some() { 1000 } else { 40 };
    let seconds = if count == 40 { "12" } else { "120" };
    let mut crowd = site.crowd(count, &["--rate", "1", "--seconds", seconds, "--json"]);
    let child = crowd.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("start");
    eventually("every machine to be protected", || match site.protected()? {
        protected if protected >= count as usize => Ok(()),
        protected => Err(format!("{protected} of {count}")),
    });
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success());
    let figures: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(figures["sessions_open"], count, "{figures}");
    assert!(figures["writes"].as_u64() > Some(u64::from(count)), "{figures}");
    assert!(figures["lsns_committed"].as_u64() >= figures["writes"].as_u64().map(|writes| writes / 2), "{figures}");
    // What is written before the first scan has come by is the scan's to send; nothing else may be.
    assert!(figures["writes_lost"].as_u64() <= Some(u64::from(count)), "{figures}");
    assert!(figures["memory_bytes_per_machine"].as_u64() < Some(1 << 20), "{figures}");
}
