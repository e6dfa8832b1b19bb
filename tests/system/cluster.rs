//! A whole installation of real processes: `up` or its roles alone, agents with disks, a stamped workload, and the
//! checks of the oracle on what is served.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::rig::{FARSHORE, Proc, Rig, eventually};

/// What the workload uses of each disk, in bytes: a part, so that a full resync would show.
const SPAN_BYTES: u64 = 16 << 20;

/// A machine's name, fit for a file.
fn file_name(name: &str) -> String {
    name.replace([' ', '/'], "_")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of the rig are text")
}

/// What a server wrote into its state directory when it was ready.
#[derive(Clone, Debug)]
pub(crate) struct Endpoints {
    pub(crate) management: String,
    pub(crate) control: String,
    pub(crate) fingerprint: String,
}

/// The servers.
pub(crate) struct Site {
    role: &'static str,
    pub(crate) up: Option<Proc>,
    pub(crate) state: PathBuf,
    pub(crate) endpoints: Endpoints,
    /// What `up` was given beside its addresses.
    more: Vec<String>,
}

impl Site {
    /// `farshore up`, ready.
    pub(crate) fn up(rig: &Rig, more: &[&str]) -> Self {
        let loopback = "127.0.0.1:0";
        let site = Self::start(rig, "up", &[&["--listen-replication", loopback][..], more].concat());
        Self { more: more.iter().map(|&arg| arg.to_owned()).collect(), ..site }
    }

    /// `farshore config-server` alone, ready.
    pub(crate) fn config_server(rig: &Rig) -> Self {
        Self::start(rig, "config-server", &[])
    }

    fn start(rig: &Rig, role: &'static str, more: &[&str]) -> Self {
        let state = rig.path("site");
        let loopback = "127.0.0.1:0";
        let args = [role, "--state-dir", text(&state), "--listen-management", loopback, "--plain-http"];
        let up = rig.start(role, &[&args[..], &["--listen-control", loopback], more].concat());
        let endpoints = Self::endpoints(rig, &state, up.pid());
        Self { role, up: Some(up), state, endpoints, more: Vec::new() }
    }

    /// Waits for what process `pid` wrote.
    pub(crate) fn endpoints(rig: &Rig, state: &Path, pid: u32) -> Endpoints {
        eventually("the server's endpoints", || {
            let json = rig.json(&state.join("endpoints.json"))?;
            if json["pid"].as_u64() != Some(pid.into()) {
                return Err(format!("endpoints are of process {}", json["pid"]));
            }
            let field = |name: &str| json[name].as_str().map(str::to_owned).ok_or(format!("no {name} in {json}"));
            Ok(Endpoints {
                management: field("management")?,
                control: field("control")?,
                fingerprint: field("ca_fingerprint")?,
            })
        })
    }

    /// Starts the server again on the addresses it had.
    pub(crate) fn start_again(&mut self, rig: &Rig) {
        let address = |url: &str| url.rsplit('/').next().unwrap_or(url).to_owned();
        let json = rig.json(&self.state.join("endpoints.json")).expect("endpoints of the last life");
        let (management, control) = (address(&self.endpoints.management), self.endpoints.control.clone());
        let mut args = vec![self.role, "--state-dir", text(&self.state), "--listen-management", &management];
        args.extend(["--plain-http", "--listen-control", &control]);
        args.extend(json["replication"].as_str().iter().flat_map(|address| ["--listen-replication", address]));
        args.extend(self.more.iter().map(String::as_str));
        let up = rig.start(self.role, &args);
        self.endpoints = Self::endpoints(rig, &self.state, up.pid());
        self.up = Some(up);
    }

    /// `farshore ctl --json`, as the first admin.
    pub(crate) fn ctl(&self, rig: &Rig, args: &[&str]) -> Value {
        rig.farshore_json(&self.ctl_args(args).iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The arguments of a `ctl` call.
    pub(crate) fn ctl_args(&self, args: &[&str]) -> Vec<String> {
        let token = self.state.join("admin.token");
        let mut all = vec!["ctl", "--server", &self.endpoints.management, "--token-file", text(&token), "--json"];
        all.extend(args);
        all.into_iter().map(str::to_owned).collect()
    }

    /// A join token.
    pub(crate) fn token(&self, rig: &Rig, role: &str) -> String {
        let token = self.ctl(rig, &["token", "create", "--role", role]);
        token["token"].as_str().unwrap_or_else(|| panic!("no token in {token}")).to_owned()
    }

    /// The machine of that name.
    pub(crate) fn machine(&self, rig: &Rig, name: &str) -> Value {
        let machines = self.ctl(rig, &["machines"]);
        let items = machines["items"].as_array().unwrap_or_else(|| panic!("no items in {machines}"));
        items
            .iter()
            .find(|machine| machine["name"] == name)
            .unwrap_or_else(|| panic!("no {name} in {machines}"))
            .clone()
    }

    /// Recovery points of a machine, newest first.
    pub(crate) fn points(&self, rig: &Rig, machine: &str) -> Vec<Value> {
        let points = self.ctl(rig, &["points", machine]);
        points["items"].as_array().cloned().unwrap_or_else(|| panic!("no items in {points}"))
    }
}

/// A protected disk.
#[derive(Clone, Debug)]
pub(crate) struct DiskAt {
    pub(crate) name: &'static str,
    pub(crate) image: PathBuf,
    pub(crate) sector: u32,
}

/// An agent's process and what it protects.
pub(crate) struct Machine {
    pub(crate) name: &'static str,
    pub(crate) disks: Vec<DiskAt>,
    pub(crate) state: PathBuf,
    pub(crate) agent: Option<Proc>,
}

impl Machine {
    /// A machine with fresh images; its agent is not started.
    pub(crate) fn new(rig: &Rig, name: &'static str, disks: &[(&'static str, u64, u32)]) -> Self {
        let disks = disks.iter().map(|&(disk, bytes, sector)| {
            let image = rig.image(&format!("{}-{disk}.img", file_name(name)), bytes);
            DiskAt { name: disk, image, sector }
        });
        Self { name, disks: disks.collect(), state: rig.path(&format!("{}.agent", file_name(name))), agent: None }
    }

    /// What the agent is started with; the first time with a token.
    pub(crate) fn args(&self, site: &Site, token: Option<&str>) -> Vec<String> {
        let mut args = vec!["agent".to_owned(), "--name".into(), self.name.into()];
        args.extend(["--state-dir".into(), text(&self.state).into()]);
        for disk in &self.disks {
            let at = format!("{}={},sector={}", disk.name, disk.image.display(), disk.sector);
            args.extend(["--disk".into(), at]);
        }
        args.extend(["--server".into(), site.endpoints.control.clone()]);
        args.extend(["--ca-fingerprint".into(), site.endpoints.fingerprint.clone()]);
        args.extend(token.iter().flat_map(|token| ["--token".to_owned(), (*token).to_owned()]));
        args
    }

    /// Starts the agent; the first time with a token.
    pub(crate) fn start(&mut self, rig: &Rig, site: &Site, token: Option<&str>) {
        let args = self.args(site, token);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.agent = Some(rig.start(&format!("{}.agent-log", file_name(self.name)), &args));
        for disk in &self.disks {
            let socket = self.socket(disk.name);
            eventually("the agent's export", || {
                std::os::unix::net::UnixStream::connect(&socket).map(drop).map_err(|error| error.to_string())
            });
        }
    }

    pub(crate) fn socket(&self, disk: &str) -> PathBuf {
        self.state.join(format!("{disk}.sock"))
    }

    pub(crate) fn uri(&self, disk: &str) -> String {
        format!("nbd+unix:///{disk}?socket={}", self.socket(disk).display())
    }

    /// The agent's own view.
    pub(crate) fn status(&self, rig: &Rig) -> Result<Value, String> {
        rig.json(&self.state.join("status.json"))
    }

    /// Waits until all that was written is committed and no disk has a gap.
    pub(crate) fn settled(&self, rig: &Rig) -> Value {
        eventually("everything written to be committed", || {
            let status = self.status(rig)?;
            let pid = self.agent.as_ref().map(Proc::pid);
            let own = status["pid"].as_u64() == pid.map(u64::from);
            let gapless =
                status["disks"].as_array().is_some_and(|disks| disks.iter().all(|disk| disk["gap"].is_null()));
            let last = status["last_lsn"].as_u64();
            if own && gapless && last.is_some() && status["committed"].as_u64() >= last {
                return Ok(status);
            }
            Err(status.to_string())
        })
    }
}

/// A stamped workload over all disks of a machine, with its journal.
pub(crate) struct Load {
    process: Proc,
    /// When it is to end.
    until: Instant,
    pub(crate) journal: PathBuf,
}

impl Load {
    pub(crate) fn start(rig: &Rig, machine: &Machine, seconds: u32, seed: u64, rate: u32) -> Self {
        let journal = rig.path(&format!("{}-{seed}.journal", file_name(machine.name)));
        let mut command = Command::new(&*FARSHORE);
        command.args(["chaos", "workload", "--journal", text(&journal), "--seconds", &seconds.to_string()]);
        command.args([
            "--seed",
            &seed.to_string(),
            "--rate",
            &rate.to_string(),
            "--span-bytes",
            &SPAN_BYTES.to_string(),
        ]);
        command.args(["--connections", "2", "--flush-every", "20", "--zero-percent", "2", "--trim-percent", "1"]);
        for disk in &machine.disks {
            command.args(["--nbd", &machine.uri(disk.name)]);
        }
        let process = Proc::start("workload", command, &rig.path(&format!("workload-{seed}.log")));
        Self { process, until: Instant::now() + Duration::from_secs(seconds.into()), journal }
    }

    /// Whether it still writes.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// What it said last.
    pub(crate) fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Waits for its end; no write may have failed.
    pub(crate) fn finish(mut self) -> PathBuf {
        while self.process.runs() && Instant::now() < self.until {
            std::thread::sleep(Duration::from_millis(50));
        }
        eventually("the workload's end", || if self.process.runs() { Err("it still runs".into()) } else { Ok(()) });
        let journal = self.journal.clone();
        self.process.succeeded();
        journal
    }
}

/// The oracle's verdict on images or exports, one per disk.
pub(crate) fn check(rig: &Rig, journal: &Path, sources: &[(String, String)], more: &[&str]) {
    let images: Vec<String> = sources.iter().map(|(disk, at)| format!("{disk}={at}")).collect();
    let mut args = vec!["chaos", "check", "--journal", text(journal)];
    images.iter().for_each(|image| args.extend(["--image", image]));
    args.extend(more);
    rig.farshore_ok(&args);
}
