//! Agent restarts and upgrades are survivable: exports are back at once, clients with a reconnect delay see no error.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::cluster::{Machine, Site};
use crate::mounted::run;
use crate::rig::{Proc, eventually};
use crate::vaults;

const MIB: u64 = 1 << 20;

#[test]
fn an_agent_restart_under_qemu_storage_daemon_is_no_io_error() {
    let rig = vaults::rig("restarts");
    let site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, "upgraded", &[("data", 64 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));

    let socket = rig.path("qsd.sock");
    let mut command = Command::new("qemu-storage-daemon");
    let node = format!(
        "driver=nbd,node-name=d0,server.type=unix,server.path={},export=data,reconnect-delay=60",
        machine.socket("data").display()
    );
    command.args(["--blockdev", &node, "--nbd-server", &format!("addr.type=unix,addr.path={}", socket.display())]);
    command.args(["--export", "type=nbd,id=e,node-name=d0,name=through,writable=on"]);
    let daemon = Proc::start("qemu-storage-daemon", command, &rig.path("qsd.log"));
    eventually("the daemon's export", || {
        std::os::unix::net::UnixStream::connect(&socket).map(drop).map_err(|error| error.to_string())
    });

    // fio verifies what it wrote; one I/O error ends it.
    let uri = format!("nbd+unix:///through?socket={}", socket.display());
    let mut fio = Command::new("fio");
    fio.args(["--name=w", "--ioengine=nbd", &format!("--uri={uri}"), "--rw=randwrite", "--bs=4k", "--size=32M"]);
    fio.args(["--iodepth=8", "--rate_iops=500", "--time_based", "--runtime=12", "--verify=crc32c"]);
    fio.args(["--do_verify=1", "--verify_fatal=1", "--verify_backlog=1000"]);
    let mut fio = Proc::start("fio", fio, &rig.path("fio.log"));
    for clean in [true, false, true, false] {
        let written = || machine.status(&rig).ok().and_then(|status| status["last_lsn"].as_u64()).unwrap_or(0);
        let before = written();
        eventually("fio to write", || if written() > before + 50 { Ok(()) } else { Err("no writes yet".into()) });
        let agent = machine.agent.take().expect("a running agent");
        if clean {
            agent.stop()
        } else {
            agent.kill()
        }
        let start = Instant::now();
        machine.start(&rig, &site, None);
        let back = start.elapsed();
        println!("exports back after {back:?} ({})", if clean { "clean stop" } else { "kill -9" });
        // Five times what is promised.
        assert!(back <= Duration::from_secs(10), "the exports were back after {back:?}");
        assert!(fio.runs(), "fio goes on:\n{}", fio.log_tail());
    }
    fio.succeeded();
    daemon.stop();
    machine.settled(&rig);
    machine.agent.take().expect("a running agent").stop();
    let served = site.ctl(&rig, &["serve", machine.name, "latest"]);
    let uri = served["exports"][0]["uri"].as_str().expect("an export");
    let image = machine.disks[0].image.display().to_string();
    run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, uri]);
}
