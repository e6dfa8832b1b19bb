//! Network namespaces: each process of an installation on a host of its own, as far as the network goes. Needs root.
//!
//! ```text
//!   harness: proxies at 198.18.x.1 ── bridge fsb<pid> ──┬── fsp<pid>n0 ═ veth ═ eth0 198.18.x.10  in config's namespace
//!                                                       ├── fsp<pid>n1 ═ veth ═ eth0 198.18.x.11  in ps-a's ...
//! ```
//!
//! A cut takes the bridge's end down: packets vanish on every connection of that process at once, both ways, and nobody is told.
//! Nothing is mounted: a sleeping process keeps each namespace, and everything in it is gone when that ends. Only the bridge
//! stays behind where the harness itself was killed; the next one that starts takes it away.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Longest wait for a namespace to be there.
const MADE_WITHIN: Duration = Duration::from_secs(10);

/// A process's place.
struct Home {
    keeper: Child,
    port: String,
    address: Ipv4Addr,
}

/// See the module.
pub(crate) struct Network {
    bridge: String,
    gateway: Ipv4Addr,
    homes: BTreeMap<String, Home>,
}

/// Whether this process may make namespaces.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn succeed(program: &str, args: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("run {program}: {error}; it is part of iproute2 or util-linux"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim())),
    }
}

fn ip(args: &str) -> Result<String, String> {
    succeed("ip", &args.split(' ').collect::<Vec<_>>())
}

/// Takes away bridges whose harness was killed.
fn sweep() {
    let Ok(links) = fs::read_dir("/sys/class/net") else { return };
    for link in links.flatten() {
        let name = link.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix("fsb").filter(|pid| pid.parse::<u32>().is_ok()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            // Whoever else took it away meanwhile did the same.
            let _ = ip(&format!("link del {name}"));
        }
    }
}

impl Network {
    /// Makes a namespace for each of these.
    pub(crate) fn new(names: &[String]) -> Result<Self, String> {
        if !is_root() {
            return Err("network namespaces need root".into());
        }
        sweep();
        let pid = std::process::id();
        let taken = ip("-4 -o addr show")?;
        let free =
            (0..254_u32).map(|step| (pid + step) % 254 + 1).find(|x| !taken.contains(&format!(" 198.18.{x}.1/")));
        let x = free.and_then(|x| u8::try_from(x).ok()).ok_or("every network of 198.18.0.0/16 is in use")?;
        let (bridge, gateway) = (format!("fsb{pid}"), Ipv4Addr::new(198, 18, x, 1));
        ip(&format!("link add {bridge} type bridge"))?;
        let mut network = Self { bridge, gateway, homes: BTreeMap::new() };
        ip(&format!("addr add {gateway}/24 dev {}", network.bridge))?;
        ip(&format!("link set {} up", network.bridge))?;
        for (number, name) in (0_u8..).zip(names) {
            network.add(name, format!("fsp{pid}n{number}"), Ipv4Addr::new(198, 18, x, 10 + number))?;
        }
        Ok(network)
    }

    fn add(&mut self, name: &str, port: String, address: Ipv4Addr) -> Result<(), String> {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--", "sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let keeper = command.spawn().map_err(|error| format!("run unshare: {error}; it is part of util-linux"))?;
        let pid = keeper.id();
        self.homes.insert(name.to_owned(), Home { keeper, port: port.clone(), address });
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let begun = Instant::now();
        while of(&pid.to_string()).ok() == of("self").ok() {
            if begun.elapsed() > MADE_WITHIN {
                return Err(format!("no network namespace for {name}: unshare --net does nothing"));
            }
            thread::sleep(Duration::from_millis(2));
        }
        ip(&format!("link add {port} type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set {port} master {} up", self.bridge))?;
        for args in [format!("addr add {address}/24 dev eth0"), "link set eth0 up".into(), "link set lo up".into()] {
            let inside = format!("-t {pid} -n ip {args}");
            succeed("nsenter", &inside.split(' ').collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Where the harness itself is found.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.gateway
    }

    /// Where a process listens.
    pub(crate) fn address(&self, name: &str) -> Ipv4Addr {
        self.homes[name].address
    }

    /// What a command line begins with that shall run in a process's namespace. The process that is started stays the same.
    pub(crate) fn enter(&self, name: &str) -> Vec<String> {
        let pid = self.homes[name].keeper.id().to_string();
        ["nsenter", "-t", &pid, "-n", "--"].map(str::to_owned).to_vec()
    }

    /// Cuts a process off, or lets it back.
    pub(crate) fn cut(&self, name: &str, off: bool) -> Result<(), String> {
        ip(&format!("link set {} {}", self.homes[name].port, if off { "down" } else { "up" })).map(drop)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for home in self.homes.values_mut() {
            // What was never made cannot be taken away, and what is gone needs not be.
            let _ = ip(&format!("link del {}", home.port));
            let _ = home.keeper.kill();
            let _ = home.keeper.wait();
        }
        let _ = ip(&format!("link del {}", self.bridge));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_cut_swallows_what_is_sent_and_nothing_stays_behind() {
        if !is_root() {
            assert!(std::env::var_os("CI").is_none(), "network namespaces need root");
            eprintln!("skipped without root: a_cut_swallows_what_is_sent_and_nothing_stays_behind");
            return;
        }
        let network = Network::new(&["m1".into()]).expect("a network");
        let bridge = network.bridge.clone();
        let listener = TcpListener::bind((network.gateway(), 0)).expect("a listener");
        let to = listener.local_addr().expect("an address");
        let talk = format!("exec 3<>/dev/tcp/{}/{}; while read -r line; do echo $line >&3; done", to.ip(), to.port());
        let enter = network.enter("m1");
        let mut command = Command::new(&enter[0]);
        let mut child =
            command.args(&enter[1..]).args(["bash", "-c", &talk]).stdin(Stdio::piped()).spawn().expect("bash");
        let mut say = child.stdin.take().expect("a pipe");
        let (mut heard, from) = listener.accept().expect("it connects");
        assert_eq!(from.ip().to_string(), network.address("m1").to_string());
        let mut got = [0; 4];
        say.write_all(b"one\n").expect("said");
        heard.read_exact(&mut got).expect("arrives");
        network.cut("m1", true).expect("cut");
        say.write_all(b"two\n").expect("said");
        heard.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        assert_eq!(heard.read(&mut got).expect_err("nothing arrives").kind(), std::io::ErrorKind::WouldBlock);
        network.cut("m1", false).expect("back");
        heard.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
        heard.read_exact(&mut got).expect("it was only late");
        assert_eq!(&got, b"two\n");
        drop(say);
        child.wait().expect("bash ends");
        drop(network);
        assert!(!Path::new("/sys/class/net").join(bridge).exists());
    }
}
