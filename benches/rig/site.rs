//! A whole installation of this binary: `farshore up` with a folder vault, an agent with one disk, TLS between them; and the
//! vault read beside it with nothing but its key, as anybody would after a disaster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use farshore_engine::vault::keys::parse_key_file;
use farshore_engine::vault::read::open_vault::{Credential, OpenVault};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::store::folder::FolderStore;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::eventually;
use super::process::{Process, run, text};

/// The binary.
pub const FARSHORE: &str = env!("CARGO_BIN_EXE_farshore");
const DISK: &str = "disk";
/// Longest wait for a step of the set-up.
const STEP: Duration = Duration::from_secs(120);

/// What the servers may hold beside their base: the data path's buffers and the readers' frame cache, in MiB.
pub const BUFFERS_MIB: f64 = 128.0;

/// The servers, in a directory of their own.
pub struct Site {
    pub servers: Process,
    dir: PathBuf,
    control: String,
    fingerprint: String,
    management: String,
}

impl Site {
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// With settings, as variables of the environment.
    pub fn start_with(dir: &Path, settings: &[(&str, &str)]) -> Self {
        let state = dir.join("site");
        let loopback = "127.0.0.1:0";
        let mut command = Command::new(FARSHORE);
        command.envs(settings.iter().copied());
        command.args(["up", "--plain-http", "--state-dir", text(&state), "--listen-management", loopback]);
        command.args(["--listen-replication", loopback, "--listen-control", loopback]);
        let servers = Process::start("up", command, &dir.join("up.log"));
        let endpoints = eventually("the servers", STEP, || json(&state.join("endpoints.json")));
        let field = |name: &str| endpoints[name].as_str().expect("an endpoint").to_owned();
        let (control, fingerprint, management) = (field("control"), field("ca_fingerprint"), field("management"));
        Self { servers, dir: dir.to_owned(), control, fingerprint, management }
    }

    /// Where the API is.
    pub fn management(&self) -> &str {
        &self.management
    }

    /// A token of the API that allows everything.
    pub fn admin_token(&self) -> String {
        std::fs::read_to_string(self.dir.join("site/admin.token")).expect("the admin's token").trim().to_owned()
    }

    /// What the shell client answers.
    pub fn ctl(&self, args: &[&str]) -> Value {
        let file = self.dir.join("site/admin.token");
        let first = ["ctl", "--server", &self.management, "--token-file", text(&file), "--json"];
        serde_json::from_str(&run(FARSHORE, &[&first[..], args].concat())).expect("JSON")
    }

    /// A join token for so many machines.
    pub fn token(&self, machines: u32) -> String {
        let token = self.ctl(&["token", "create", "--role", "machine", "--uses", &machines.to_string()]);
        token["token"].as_str().expect("a token").to_owned()
    }

    /// So many synthetic machines in one process, each of which writes so often in a second; all have sessions on return.
    pub fn crowd(&self, machines: u32, writes: f64) -> Process {
        let mut command = Command::new(FARSHORE);
        command.args(["chaos", "agents", "--count", &machines.to_string(), "--rate", &writes.to_string()]);
        command.args(["--server", &self.control, "--ca-fingerprint", &self.fingerprint]);
        command.args(["--token", &self.token(machines), "--disk-mib", "16"]);
        let log = self.dir.join("agents.log");
        let agents = Process::start("agents", command, &log);
        let all = format!("{machines} of {machines} sessions open");
        eventually("every machine's session", Duration::from_secs(1800), || {
            let log = std::fs::read_to_string(&log).map_err(|error| error.to_string())?;
            if log.contains(&all) { Ok(()) } else { Err(log.lines().last().unwrap_or_default().to_owned()) }
        });
        agents
    }

    /// Where the vault lies.
    pub fn vault_dir(&self) -> PathBuf {
        self.dir.join("site/vault")
    }

    /// The vault key's file.
    pub fn key_file(&self) -> PathBuf {
        self.dir.join("site/vault.key")
    }

    /// The vault, opened for reading.
    pub fn vault(&self, runtime: &Runtime) -> OpenVault {
        let key = std::fs::read_to_string(self.dir.join("site/vault.key")).expect("the key file");
        let key = Credential::Key(parse_key_file(&key).expect("a key"));
        let store = FolderStore::open_read_only(&self.dir.join("site/vault"), runtime.handle().clone());
        runtime.block_on(OpenVault::open(Arc::new(store.expect("the vault")), &key)).expect("it opens")
    }
}

/// A machine with one disk.
pub struct Machine {
    pub agent: Process,
    state: PathBuf,
}

impl Machine {
    /// Starts its agent for the first time; does not wait for anything.
    pub fn start(dir: &Path, site: &Site, name: &str, image: &Path, token: &str) -> Self {
        let state = dir.join(name);
        let disk = format!("{DISK}={}", image.display());
        let mut command = Command::new(FARSHORE);
        command.args(["agent", "--name", name, "--state-dir", text(&state), "--disk", &disk]);
        command.args(["--server", &site.control, "--ca-fingerprint", &site.fingerprint, "--token", token]);
        let agent = Process::start("agent", command, &dir.join(format!("{name}.log")));
        Self { agent, state }
    }

    /// Where its disk is exported.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{DISK}?socket={}", self.state.join(format!("{DISK}.sock")).display())
    }

    /// Its agent's own view; a second old at most.
    pub fn status(&self) -> Result<Value, String> {
        json(&self.state.join("status.json"))
    }

    /// Waits until the disk is exported.
    pub fn exported(&self) {
        let socket = self.state.join(format!("{DISK}.sock"));
        eventually("the export", STEP, || {
            std::os::unix::net::UnixStream::connect(&socket).map(drop).map_err(|error| error.to_string())
        });
    }

    /// Waits until a status written from now on says that all is committed and nothing is missing.
    pub fn settled(&self, patience: Duration) -> Value {
        let before = self.status().map_or(Value::Null, |status| status["at"].clone());
        eventually("everything to be committed", patience, || {
            let status = self.status()?;
            let last = status["last_lsn"].as_u64();
            let whole = status["disks"][0]["gap"].is_null() && status["disks"][0]["scan_bytes_left"] == 0;
            if status["at"] != before && whole && last.is_some() && status["committed"].as_u64() >= last {
                return Ok(status);
            }
            Err(status.to_string())
        })
    }
}

/// The machine's log in the vault, as soon as there is one.
pub fn reader(vault: &OpenVault, runtime: &Runtime, machine: &str) -> TimelineReader {
    eventually("the machine's log", STEP, || {
        runtime.block_on(async {
            let entries = vault.machines().await.map_err(|error| error.to_string())?;
            let about = entries.into_iter().filter_map(|entry| entry.about).find(|about| about.name == machine);
            let about = about.ok_or("it is not there yet")?;
            let timeline = about.timelines.first().ok_or("it has no timeline yet")?.id;
            let source = vault.source(&about).map_err(|error| error.to_string())?;
            TimelineReader::open(source, timeline).await.map_err(|error| error.to_string())
        })
    })
}

fn json(path: &Path) -> Result<Value, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}
