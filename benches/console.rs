//! The management API while replication takes the whole machine: how long a list call takes then.
//!
//! `cargo bench --bench console`. A thousand synthetic machines replicate over TLS, and fio writes to one more as fast as it
//! can. The bar: of list calls (machines in pages of 100 and of 500, process servers, jobs, events) 99 of 100 are answered
//! within 100 ms. How busy the processors were is told beside it.

mod rig;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rig::fio::{DEPTH_16, filled, turn};
use rig::report::{Bar, Report};
use rig::site::{Machine, Site};
use rig::{is_bench, quantile, sized};

const MIB: f64 = (1 << 20) as f64;
/// What is called, in turns.
const LISTS: [&str; 5] = ["machines?limit=100", "machines?limit=500", "process-servers", "jobs", "events?limit=100"];
/// Pause between calls. Chosen: twice what a busy dashboard asks for, and below the API's own limit for a token.
const APART: Duration = Duration::from_millis(25);

/// Time that all processors worked and had, in ticks, since the machine was started.
fn processors() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").expect("read /proc/stat");
    let line = text.lines().next().expect("a first line");
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).map(|ticks| ticks.parse().expect("ticks")).collect();
    let all = ticks.iter().sum();
    // The fourth and fifth are idle, and idle for a disk.
    (all - ticks[3] - ticks[4], all)
}

/// Calls each list in turns for this long; milliseconds of each call, by list.
async fn call(site: &Site, seconds: u32) -> Vec<Vec<f64>> {
    let (token, client) = (site.admin_token(), reqwest::Client::builder().no_proxy().build().expect("a client"));
    let mut took = vec![Vec::new(); LISTS.len()];
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds.into()) {
        for (list, took) in LISTS.iter().zip(&mut took) {
            let asked = Instant::now();
            let answer = client.get(format!("{}/api/v1/{list}", site.management())).bearer_auth(&token).send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{list}: {error}"));
            assert_eq!(answer.status().as_u16(), 200, "{list}");
            answer.bytes().await.expect("a whole body");
            took.push(asked.elapsed().as_secs_f64() * 1000.0);
            tokio::time::sleep(APART).await;
        }
    }
    took
}

fn tell(report: &mut Report, when: &str, took: &[Vec<f64>], judged: bool) {
    for (list, took) in LISTS.iter().zip(took) {
        report.tell(format!("{when}: {list}, median"), quantile(took, 500), "ms");
        match judged {
            true => report.judge(format!("{when}: {list}, p99"), quantile(took, 990), "ms", Bar::AtMost(100.0)),
            false => report.tell(format!("{when}: {list}, p99"), quantile(took, 990), "ms"),
        }
    }
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    // The client wants to know whose cryptography it is, even for plain HTTP. One for the process, whoever comes first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let (count, seconds, mib): (u32, _, _) = (sized(50, 1000), sized(5, 60), sized(64, 1024));
    let mut report = Report::new("console");
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let image = dir.path().join("disk.img");
    filled(&image, mib);
    let site = Site::start(dir.path());
    let machine = Machine::start(dir.path(), &site, "m", &image, &site.token(1));
    machine.exported();
    machine.settled(Duration::from_secs(600));
    let agents = site.crowd(count, 2.0);
    report.tell("machines", f64::from(count + 1), "");
    tell(&mut report, "machines at work", &runtime.block_on(call(&site, seconds)), false);
    let uri = machine.uri();
    // It writes longer than is looked.
    let load = std::thread::spawn(move || turn(&uri, mib, seconds + sized(2, 10), DEPTH_16.args));
    let before = processors();
    let took = runtime.block_on(call(&site, seconds));
    let after = processors();
    load.join().expect("fio ends");
    report.tell("full load: processors busy", (after.0 - before.0) as f64 / (after.1 - before.1) as f64, "");
    tell(&mut report, "full load", &took, true);
    report.tell("servers: most memory", site.servers.peak_bytes() as f64 / MIB, "MiB");
    agents.stop();
    machine.agent.stop();
    site.servers.stop();
    report.finish()
}
