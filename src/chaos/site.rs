//! The installation under test: a configuration server, process servers and agents, each a process, with a proxy before
//! every listener, so that members know each other only by addresses that the harness rules.
//!
//! ```text
//!   <dir>/config/       configuration server's state, vault, key      <dir>/<name>.log    what each has said
//!   <dir>/ps-a/ ...     process servers' state                        <dir>/m1-d1.img     disks
//!   <dir>/m1/ ...       agents' state                                 <dir>/m1.journal    what was acknowledged
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farshore_engine::nbd::NbdUri;
use rustix::process::Signal;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::child::{Role, STOP_WAIT, STOP_WITHIN, command};
use super::damage::Damage;
use super::defects::{Defect, VERIFIER};
use super::netns::{Network, is_root};
use super::proxy::{Proxy, Weather};
use super::scenario::{Namespaces, Scenario};

/// How long an actor that was given up rests, in milliseconds: short, so that a run sees the end of a storm.
const STORM_REST_MS: u64 = 3000;

/// What a member is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The configuration server.
    Config,
    /// A process server.
    Server,
    /// A machine's agent.
    Agent,
}

/// What is wanted of a member's process.
enum Wanted {
    /// That it runs.
    Running(Role),
    /// That it ends by itself, and then runs again.
    Restarting(Role, Instant),
    /// That it stays away.
    Away,
}

/// A process of the installation and what it is started with.
struct Member {
    kind: Kind,
    process: Wanted,
    /// How wrong its clock is.
    clock_offset_ms: i64,
    /// What it does wrong, for negative controls.
    defect: Option<Defect>,
    /// Its endpoints were read.
    found: bool,
    starts: u32,
}

/// See the module.
pub(crate) struct Site {
    /// Where everything lies.
    pub(crate) dir: PathBuf,
    scenario: Scenario,
    members: BTreeMap<String, Member>,
    links: BTreeMap<String, Proxy>,
    /// The verifier sees no damage, for a negative control.
    pub(crate) blind: bool,
    /// What is changed in the vault at the moment.
    pub(crate) vault_damage: Damage,
    /// What went wrong with processes that nobody had touched.
    pub(crate) troubles: Vec<String>,
    /// Calls of the API that nobody waits for.
    asked: Vec<Role>,
    /// Where each process has a network of its own. After the processes: it ends when they have.
    network: Option<Network>,
    /// Drives the proxies; ends last.
    _runtime: Runtime,
}

fn read_json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

impl Site {
    /// An installation whose processes are not started.
    pub(crate) fn new(dir: PathBuf, scenario: Scenario, defects: &[(String, Defect)]) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| format!("start the proxies: {error}"))?;
        let network = match scenario.site.namespaces {
            Namespaces::Never => None,
            Namespaces::Root if !is_root() => None,
            Namespaces::Root | Namespaces::Always => Some(Network::new(&scenario.processes())?),
        };
        let here = network.as_ref().map_or(Ipv4Addr::LOCALHOST, Network::gateway);
        let mut links = BTreeMap::new();
        for name in scenario.links() {
            let proxy = Proxy::start(name.clone(), here, runtime.handle());
            links.insert(name, proxy.map_err(|error| format!("listen on {here}: {error}"))?);
        }
        let member = |name: String| {
            let kind = match name.as_str() {
                "config" => Kind::Config,
                name if name.starts_with("ps-") => Kind::Server,
                _ => Kind::Agent,
            };
            let defect = defects.iter().find(|(at, _)| *at == name).map(|(_, defect)| *defect);
            let process = Wanted::Away;
            (name, Member { kind, process, clock_offset_ms: 0, defect, found: false, starts: 0 })
        };
        let members = scenario.processes().into_iter().map(member).collect();
        let blind = defects.iter().any(|(at, _)| at == VERIFIER);
        let vault_damage = Damage::of(dir.join("config/vault"));
        let (troubles, asked) = (Vec::new(), Vec::new());
        Ok(Self { dir, scenario, members, links, blind, vault_damage, troubles, asked, network, _runtime: runtime })
    }

    /// A member's state directory, and anything else that lies beside it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The names of members of a kind.
    pub(crate) fn names(&self, kind: Kind) -> Vec<String> {
        self.members.iter().filter(|(_, member)| member.kind == kind).map(|(name, _)| name.clone()).collect()
    }

    /// The names of every machine's disks.
    pub(crate) fn disks(&self) -> Vec<String> {
        (1..=self.scenario.site.disks).map(|number| format!("d{number}")).collect()
    }

    /// A disk's export.
    pub(crate) fn uri(&self, machine: &str, disk: &str) -> Result<NbdUri, String> {
        let socket = self.path(machine).join(format!("{disk}.sock"));
        let uri = format!("nbd+unix:///{disk}?socket={}", socket.display());
        uri.parse().map_err(|error| format!("{uri}: {error}"))
    }

    /// `farshore ctl --json`, the way anybody would call it.
    pub(crate) fn ctl(&self, args: &[&str]) -> Result<Value, String> {
        let state = self.path("config").display().to_string();
        let all = [&["ctl", "--state-dir", &state, "--json"], args].concat();
        let (ok, text, said) = self.run_at(&self.before("config"), &all)?;
        if !ok {
            return Err(said.trim().to_owned());
        }
        serde_json::from_str(&text).map_err(|error| format!("ctl {args:?}: {error}"))
    }

    /// The same, without waiting for the answer: a server may be away, or not answer for long.
    pub(crate) fn ask(&mut self, args: &[&str]) {
        let state = self.path("config").display().to_string();
        let all: Vec<String> =
            ["ctl", "--state-dir", &state, "--json"].iter().chain(args).map(|arg| (*arg).into()).collect();
        match Role::start(&self.before("config"), &all, &[], &self.path("asked.log")) {
            Ok(role) => self.asked.push(role),
            Err(why) => self.troubles.push(why),
        }
    }

    /// Questions that were answered with success, and all.
    pub(crate) fn answered(&mut self) -> (usize, usize) {
        let fine = self.asked.iter_mut().filter_map(Role::ended).filter(std::process::ExitStatus::success).count();
        (fine, self.asked.len())
    }

    /// Runs this binary to its end: whether it succeeded, standard output, standard error.
    pub(crate) fn run(&self, args: &[&str]) -> Result<(bool, String, String), String> {
        self.run_at(&[], args)
    }

    fn run_at(&self, before: &[String], args: &[&str]) -> Result<(bool, String, String), String> {
        let binary = std::env::current_exe().map_err(|error| format!("find this program: {error}"))?;
        let output = command(before, &binary).args(args).output().map_err(|error| format!("run {args:?}: {error}"))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
    }

    /// What a command line begins with that shall run where a member does.
    fn before(&self, name: &str) -> Vec<String> {
        self.network.as_ref().map(|network| network.enter(name)).unwrap_or_default()
    }

    /// Cuts a member off the network, or lets it back. Without namespaces nothing happens.
    pub(crate) fn cut(&self, name: &str, off: bool) -> Result<(), String> {
        self.network.as_ref().map_or(Ok(()), |network| network.cut(name, off))
    }

    /// An agent's own view.
    pub(crate) fn status(&self, machine: &str) -> Result<Value, String> {
        read_json(&self.path(machine).join("status.json"))
    }

    /// Whether that view is of the process that runs now.
    pub(crate) fn is_own(&self, machine: &str, status: &Value) -> bool {
        status["pid"].as_u64() == self.pid(machine).map(u64::from)
    }

    fn pid(&self, name: &str) -> Option<u32> {
        match &self.member(name).process {
            Wanted::Running(role) | Wanted::Restarting(role, _) => Some(role.pid()),
            Wanted::Away => None,
        }
    }

    fn member(&self, name: &str) -> &Member {
        self.members.get(name).expect("members are named by the scenario")
    }

    fn member_mut(&mut self, name: &str) -> &mut Member {
        self.members.get_mut(name).expect("members are named by the scenario")
    }

    /// A token for a new member.
    fn token(&self, role: &str) -> Result<String, String> {
        let token = self.ctl(&["token", "create", "--role", role])?;
        token["token"].as_str().map(str::to_owned).ok_or(format!("no token in {token}"))
    }

    /// Makes the disks.
    pub(crate) fn make_disks(&self) -> Result<(), String> {
        for machine in self.names(Kind::Agent) {
            for disk in self.disks() {
                let path = self.path(&format!("{machine}-{disk}.img"));
                fs::File::create(&path)
                    .and_then(|file| file.set_len(self.scenario.site.disk_mib << 20))
                    .map_err(|error| format!("make {}: {error}", path.display()))?;
            }
        }
        Ok(())
    }

    fn arguments(&self, name: &str) -> Result<Vec<String>, String> {
        let member = self.member(name);
        let mut args: Vec<String> = Vec::new();
        let mut add = |more: &[&str]| args.extend(more.iter().map(|text| (*text).to_owned()));
        let state = self.path(name).display().to_string();
        let own = self.network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.address(name));
        let any = format!("{own}:0");
        let control = self.links["control"].address().to_string();
        let vault = self.path("config/vault").display().to_string();
        match member.kind {
            Kind::Config => {
                add(&["config-server", "--listen-management", "127.0.0.1:0", "--listen-control", &any]);
                add(&["--plain-http", "--advertise-control", &control]);
            }
            Kind::Server => {
                let data = self.links[&format!("data:{name}")].address().to_string();
                add(&["process-server", "--name", name, "--listen-replication", &any]);
                add(&["--advertise", &data, "--vault", &vault, "--server", &control]);
            }
            Kind::Agent => {
                add(&["agent", "--name", name, "--server", &control]);
                let memory = (self.scenario.site.agent_memory_mib << 20).to_string();
                add(&["--memory-budget", &memory, "--mark-interval", "250"]);
                for (number, disk) in self.disks().iter().enumerate() {
                    let image = self.path(&format!("{name}-{disk}.img"));
                    let sector = [512, 4096][number % 2];
                    add(&["--disk", &format!("{disk}={},sector={sector}", image.display())]);
                }
            }
        }
        add(&["--state-dir", &state, "--enable-chaos"]);
        if member.starts == 0 && member.kind != Kind::Config {
            let role = if member.kind == Kind::Server { "process-server" } else { "machine" };
            let endpoints = read_json(&self.path("config/endpoints.json"))?;
            let fingerprint = endpoints["ca_fingerprint"].as_str().unwrap_or_default();
            add(&["--token", &self.token(role)?, "--ca-fingerprint", fingerprint]);
        }
        Ok(args)
    }

    /// Starts a member that is away.
    pub(crate) fn start(&mut self, name: &str) -> Result<(), String> {
        let args = self.arguments(name)?;
        let before = self.before(name);
        let (log, cache) = (self.path(&format!("{name}.log")), self.scenario.site.cache_mib << 20);
        let restarts_max = self.scenario.site.restarts_max;
        let member = self.member_mut(name);
        assert!(matches!(member.process, Wanted::Away), "{name} is started while it runs");
        let mut environment = vec![("FARSHORE_CACHE__BYTES_MAX", cache.to_string())];
        // The configuration server's word counts.
        environment.push(("FARSHORE_AGENT__MARK_INTERVAL_MS", "250".to_owned()));
        if member.clock_offset_ms != 0 {
            environment.push(("FARSHORE_CLOCK_OFFSET_MS", member.clock_offset_ms.to_string()));
        }
        environment.push(("FARSHORE_CHAOS_STORM_REST_MS", STORM_REST_MS.to_string()));
        environment.extend(restarts_max.map(|most| ("FARSHORE_CHAOS_RESTARTS_MAX", most.to_string())));
        let defect = member.defect.filter(|defect| member.starts > 0 || defect.is_inborn());
        environment.extend(defect.map(|defect| ("FARSHORE_CHAOS_DEFECT", defect.name().to_owned())));
        member.process = Wanted::Running(Role::start(&before, &args, &environment, &log)?);
        member.found = false;
        member.starts += 1;
        Ok(())
    }

    /// kill -9. Whatever was wanted of it before, it is away now.
    pub(crate) fn kill(&mut self, name: &str) {
        let member = self.member_mut(name);
        match std::mem::replace(&mut member.process, Wanted::Away) {
            Wanted::Running(role) | Wanted::Restarting(role, _) => role.kill(),
            Wanted::Away => {}
        }
    }

    /// The cache of a process server that is away is gone.
    pub(crate) fn lose_cache(&mut self, name: &str) -> Result<(), String> {
        let cache = self.path(name).join("process-server/cache");
        fs::remove_dir_all(&cache).map_err(|error| format!("remove {}: {error}", cache.display()))
    }

    /// SIGTERM; it is started again once it has ended, with this clock.
    pub(crate) fn restart(&mut self, name: &str, clock_offset_ms: Option<i64>) {
        let member = self.member_mut(name);
        member.clock_offset_ms = clock_offset_ms.unwrap_or(member.clock_offset_ms);
        member.process = match std::mem::replace(&mut member.process, Wanted::Away) {
            Wanted::Running(role) => {
                role.signal(Signal::TERM);
                Wanted::Restarting(role, Instant::now())
            }
            // One that is still ending starts with this clock once it has; one that is away stays away.
            other => other,
        };
    }

    /// SIGSTOP or SIGCONT.
    pub(crate) fn signal(&self, name: &str, signal: Signal) {
        if let Wanted::Running(role) | Wanted::Restarting(role, _) = &self.member(name).process {
            role.signal(signal);
        }
    }

    /// Sets what a link does.
    pub(crate) fn weather(&self, link: &str, weather: Weather) {
        self.links[link].set(weather);
    }

    /// Resets a link's connections.
    pub(crate) fn reset(&self, link: &str) {
        self.links[link].reset();
    }

    /// What the links have carried: name, connections, bytes.
    pub(crate) fn carried(&self) -> Vec<(String, u64, u64)> {
        let carried = self.links.values().map(|link| (link.name.clone(), link.carried()));
        carried.map(|(name, (connections, bytes))| (name, connections, bytes)).collect()
    }

    /// How often processes were started.
    pub(crate) fn starts(&self) -> u32 {
        self.members.values().map(|member| member.starts).sum()
    }

    /// Looks after the processes: those that ended by themselves are noted, those that are to restart do, links follow
    /// servers to their new addresses. True while every member is up and found.
    pub(crate) fn upkeep(&mut self) -> Result<bool, String> {
        let mut all = true;
        let names: Vec<String> = self.members.keys().cloned().collect();
        for name in names {
            all &= self.look_after(&name)?;
        }
        Ok(all)
    }

    fn look_after(&mut self, name: &str) -> Result<bool, String> {
        let member = self.member_mut(name);
        match std::mem::replace(&mut member.process, Wanted::Away) {
            Wanted::Away => return Ok(false),
            Wanted::Running(mut role) => match role.ended() {
                None => member.process = Wanted::Running(role),
                Some(status) => {
                    let words = role.last_words();
                    self.troubles.push(format!("{name} ended by itself with {status}:\n{words}"));
                    self.start(name)?;
                }
            },
            Wanted::Restarting(mut role, since) => match role.ended() {
                None if since.elapsed() > STOP_WAIT => {
                    self.troubles.push(format!("{name} still runs {:?} after SIGTERM", since.elapsed()));
                    role.kill();
                    self.start(name)?;
                }
                None => {
                    member.process = Wanted::Restarting(role, since);
                    return Ok(false);
                }
                Some(status) => {
                    if !status.success() {
                        let words = role.last_words();
                        self.troubles.push(format!("{name} was stopped and ended with {status}:\n{words}"));
                    }
                    self.start(name)?;
                }
            },
        }
        Ok(self.find(name))
    }

    /// Whether a member is ready; a server's link then leads to it.
    fn find(&mut self, name: &str) -> bool {
        if self.member(name).found {
            return true;
        }
        let (kind, pid) = (self.member(name).kind, self.pid(name));
        let found = match kind {
            Kind::Agent => self.status(name).is_ok_and(|status| self.is_own(name, &status)),
            Kind::Config | Kind::Server => {
                let Ok(endpoints) = read_json(&self.path(name).join("endpoints.json")) else { return false };
                if endpoints["pid"].as_u64() != pid.map(u64::from) {
                    return false;
                }
                let (link, field) = match kind {
                    Kind::Config => ("control".to_owned(), "control"),
                    _ => (format!("data:{name}"), "replication"),
                };
                let address: Option<SocketAddr> = endpoints[field].as_str().and_then(|text| text.parse().ok());
                if let Some(address) = address {
                    self.links[&link].lead_to(address);
                }
                address.is_some()
            }
        };
        self.member_mut(name).found = found;
        found
    }

    /// Members that are not up.
    pub(crate) fn missing(&self) -> Vec<String> {
        self.members.keys().filter(|name| !self.is_up(name)).cloned().collect()
    }

    /// Whether a member is up and found.
    pub(crate) fn is_up(&self, name: &str) -> bool {
        self.member(name).found && matches!(self.member(name).process, Wanted::Running(_))
    }

    /// Stops every process cleanly, agents first; says what went wrong.
    pub(crate) fn stop(&mut self) -> Vec<String> {
        let mut wrong = Vec::new();
        for kind in [Kind::Agent, Kind::Server, Kind::Config] {
            for name in self.names(kind) {
                let process = std::mem::replace(&mut self.member_mut(&name).process, Wanted::Away);
                let (Wanted::Running(role) | Wanted::Restarting(role, _)) = process else { continue };
                match role.stop() {
                    Ok(took) if took <= STOP_WITHIN + Duration::from_secs(1) => {}
                    Ok(took) => wrong.push(format!("{name} took {:.1} s to stop", took.as_secs_f64())),
                    Err(why) => wrong.push(format!("{name}: {why}")),
                }
            }
        }
        wrong
    }
}
