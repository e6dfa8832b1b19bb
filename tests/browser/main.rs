//! The dashboard as an operator sees it: Chromium over a real installation. The steps in the browser are in `*.mjs`; where
//! one needs something of the world outside (an agent, a stopped server, an oracle) it says so on its standard output and
//! waits for an answer. Screenshots are kept in `target/artefacts/dashboard`.

#[path = "../system/cluster.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod cluster;
#[path = "../system/rig.rs"]
#[allow(dead_code, reason = "this test uses its part")]
mod rig;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use cluster::{Load, Machine, Site, check};
use rig::Rig;
use serde_json::{Value, json};

/// Longest silence of a browser script. Its own waits are shorter; this one only catches a script that hangs.
const SILENCE_MAX: Duration = Duration::from_secs(240);
const DISK_BYTES: u64 = 64 << 20;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A script that drives Chromium; it ends with its owner.
struct Browser {
    child: Child,
    answers: ChildStdin,
    lines: Receiver<String>,
    /// What it says on its standard error, whole once it has ended.
    why: Option<JoinHandle<String>>,
}

impl Browser {
    fn start(script: &str, settings: &Value) -> Self {
        let room = root().join("tests/browser");
        assert!(room.join("node_modules").is_dir(), "the browser's driver is missing: run scripts/setup.sh");
        let page = root().join("web/dashboard/dist/page/index.html");
        assert!(page.exists(), "the dashboard was not built: run `make dashboard`, then this test again");
        let artefacts = root().join("target/artefacts/dashboard");
        std::fs::create_dir_all(&artefacts).expect("make the folder for screenshots");
        let mut child = Command::new("node")
            .arg(room.join(script))
            .env("SETTINGS", settings.to_string())
            .env("ARTEFACTS", artefacts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start node");
        let (send, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let mut errors = child.stderr.take().expect("its errors");
        let why = thread::spawn(move || {
            let mut text = String::new();
            errors.read_to_string(&mut text).map_or_else(|error| error.to_string(), |_| text)
        });
        let answers = child.stdin.take().expect("its input");
        Self { child, answers, lines, why: Some(why) }
    }

    /// The next thing that the script needs; `None`: it is through.
    fn need(&mut self) -> Option<Value> {
        loop {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => match serde_json::from_str::<Value>(&line) {
                    Ok(value) if value["need"].is_string() => return Some(value),
                    _ => println!("browser: {line}"),
                },
                Err(RecvTimeoutError::Timeout) => panic!("the browser said nothing for {SILENCE_MAX:?}"),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn answer(&mut self) {
        self.answers.write_all(b"done\n").expect("answer the browser");
    }

    fn succeeded(mut self, last: &mut LastWord) {
        let status = self.child.wait().expect("wait for node");
        last.0 = self.why.take().expect("asked once").join().expect("read its errors");
        assert!(status.success(), "the browser's script failed with {status}: {}", last.0);
    }
}

/// Why a script failed, said again below all that the processes have to say: the end of a long output is what is kept.
#[derive(Default)]
struct LastWord(String);

impl Drop for LastWord {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- the browser's script said last:\n{}", self.0);
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // Node ends Chromium when its input ends; this is for a node that does not.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn login_path(rig: &Rig, site: &Site) -> String {
    let code = site.ctl(rig, &["login-code"]);
    code["path"].as_str().unwrap_or_else(|| panic!("no path in {code}")).to_owned()
}

/// The value behind a flag of the command that the page shows.
fn flag<'a>(command: &'a str, name: &str) -> &'a str {
    let mut words = command.split_whitespace();
    words.find(|word| *word == name);
    words.next().unwrap_or_else(|| panic!("no {name} in {command}"))
}

fn exports(need: &Value) -> Vec<(String, String)> {
    let list = need["exports"].as_array().unwrap_or_else(|| panic!("no exports in {need}"));
    let field = |export: &Value, name: &str| export[name].as_str().expect("a text").to_owned();
    list.iter().map(|export| (field(export, "name"), field(export, "uri"))).collect()
}

fn can_be_read(uri: &str) -> bool {
    Command::new("nbdinfo").arg(uri).output().is_ok_and(|output| output.status.success())
}

fn bytes_of(uri: &str, into: &Path) -> u64 {
    let status = Command::new("nbdcopy").arg(uri).arg(into).status().expect("run nbdcopy");
    assert!(status.success(), "nbdcopy of {uri}");
    std::fs::metadata(into).expect("the copy").len()
}

/// Nothing protected, enrolment by the command that the page shows, live load, RPO that rises and falls, a test failover
/// whose data the oracle judges, clean-up, a server that is not heard: all in the browser, in light and dark, at two widths.
#[test]
fn an_operator_protects_a_machine_and_tests_a_failover_in_the_browser() {
    let mut last = LastWord::default();
    let rig = Rig::new();
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "db 1", &[("system", DISK_BYTES, 4096), ("data", DISK_BYTES, 512)]);
    let mut load = None;
    let mut served = Vec::new();
    let token = std::fs::read_to_string(site.state.join("admin.token")).expect("the admin's token");
    let settings = json!({ "url": site.endpoints.management, "login": login_path(&rig, &site), "token": token.trim(), "machine": machine.name });
    let mut browser = Browser::start("operator.mjs", &settings);
    while let Some(need) = browser.need() {
        let up = site.up.as_ref().expect("the server runs");
        let agent = || machine.agent.as_ref().expect("the agent runs");
        match need["need"].as_str() {
            Some("agent") => {
                let command = need["command"].as_str().expect("a command");
                assert_eq!(flag(command, "--server"), site.endpoints.control, "where the page says to join");
                assert_eq!(flag(command, "--ca-fingerprint"), site.endpoints.fingerprint, "whom it says to trust");
                machine.start(&rig, &site, Some(flag(command, "--token")));
                load = Some(Load::start(&rig, &machine, 600, 11, 300));
            }
            Some("agent stops") => agent().signal("STOP"),
            Some("agent goes on") => agent().signal("CONT"),
            Some("read") => {
                let sources = exports(&need);
                assert_eq!(sources.len(), machine.disks.len(), "the page shows every disk of the test failover");
                let journal = &load.as_ref().expect("the load runs").journal;
                check(&rig, journal, &sources, &[]);
                for (name, uri) in &sources {
                    assert_eq!(
                        bytes_of(uri, &rig.path(&format!("{name}.copy"))),
                        DISK_BYTES,
                        "{name} as other tools read it"
                    );
                }
                served = sources;
            }
            Some("cleaned up") => {
                assert!(!served.is_empty(), "something was served before");
                served.iter().for_each(|(name, uri)| assert!(!can_be_read(uri), "{name} is still served at {uri}"));
            }
            Some("images") => {
                let directory = need["images"].as_str().expect("the page names the directory");
                let files = fs::read_dir(directory).expect("it is there").map(|file| file.expect("it lists").path());
                let images: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == "qcow2")).collect();
                assert_eq!(images.len(), machine.disks.len(), "{directory}");
                for image in images {
                    let checked = Command::new("qemu-img").arg("check").arg(&image).output().expect("qemu-img runs");
                    assert!(checked.status.success(), "{}: {checked:?}", image.display());
                }
            }
            Some("server stops") => up.signal("STOP"),
            Some("server goes on") => up.signal("CONT"),
            other => panic!("the browser needs {other:?}"),
        }
        browser.answer();
    }
    browser.succeeded(&mut last);
    assert!(!served.is_empty(), "the script came to its test failover");
}

/// A list of a thousand machines that all change each second: only rows in sight exist, and scrolling does not stall.
#[test]
fn a_list_of_a_thousand_machines_stays_smooth() {
    let mut last = LastWord::default();
    let rig = Rig::new();
    let site = Site::up(&rig, &[]);
    let settings = json!({ "url": site.endpoints.management, "login": login_path(&rig, &site), "machines": 1000 });
    let mut browser = Browser::start("thousand.mjs", &settings);
    assert_eq!(browser.need(), None, "it needs nothing");
    browser.succeeded(&mut last);
}
