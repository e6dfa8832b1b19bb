//! `farshore chaos agents`: many synthetic machines in one process, to see and measure an installation that has them.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use clap::Args;
use farshore_engine::agent::Papers;
use farshore_engine::control::client::enrol;
use farshore_engine::control::messages::{CONTROL_VERSION, Enrol, JoinSecret, MemberRole};
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::ids::DiskNo;
use farshore_engine::record::DiskInfo;
use farshore_engine::transport::{Fingerprint, KeyRequest};
use serde_json::json;

use crate::chaos::synthetic::{Counts, Synthetic, SyntheticPlan};
use crate::exit::{ExitKind, Failure, Outcome};

/// Longest that one enrolment may take.
const ENROL_WITHIN: Duration = Duration::from_secs(30);
/// Time between lines of figures.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// What a machine has open: a control session and a replication session.
const DESCRIPTORS_EACH: u64 = 2;

/// How many, and where.
#[derive(Debug, Args)]
pub(crate) struct ChaosAgentsArgs {
    /// How many machines.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// The configuration server's control address, once for each it has.
    #[arg(long = "config-server", visible_alias = "server", value_name = "HOST:PORT", required = true)]
    servers: Vec<String>,
    /// A join token for machines that may be used as often as there are machines.
    #[arg(long, env = "FARSHORE_JOIN_TOKEN", hide_env_values = true)]
    token: String,
    /// Fingerprint of the configuration server's authority.
    #[arg(long, value_name = "HEX")]
    ca_fingerprint: Fingerprint,
    /// Names are made of this and a number.
    #[arg(long, default_value = "synthetic")]
    prefix: String,
    /// Size of each machine's disk in MiB.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    disk_mib: u64,
    /// 4 KiB writes a second of each machine; 0: they are idle.
    #[arg(long, default_value_t = 0.2)]
    rate: f64,
    /// Time between marks under load, in milliseconds.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    mark_interval: u64,
    /// End after this many seconds, instead of at Ctrl-C.
    #[arg(long)]
    seconds: Option<f64>,
    /// Print the last figures as JSON.
    #[arg(long)]
    json: bool,
}

/// Resident memory of this process, in bytes.
fn memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

impl ChaosAgentsArgs {
    fn plan(&self, number: u32) -> SyntheticPlan {
        let every = (self.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / self.rate));
        SyntheticPlan {
            name: format!("{}-{number:05}", self.prefix),
            disk_bytes: self.disk_mib << 20,
            write_every: every,
            mark_interval: Duration::from_millis(self.mark_interval),
        }
    }

    async fn join(&self, number: u32) -> Result<Papers, String> {
        let key = KeyRequest::generate().map_err(|error| error.to_string())?;
        let plan = self.plan(number);
        let disk = DiskInfo { disk: DiskNo(0), name: "data".into(), size_bytes: plan.disk_bytes, sector_bytes: 4096 };
        let request = Enrol {
            version: CONTROL_VERSION,
            token: JoinSecret::new(self.token.trim()),
            csr_pem: key.request_pem.clone(),
            role: MemberRole::Machine,
            name: plan.name,
            disks: vec![disk],
            replication_addresses: Vec::new(),
            program_version: env!("CARGO_PKG_VERSION").into(),
        };
        let connect = TlsConnect::to_enrol(self.ca_fingerprint).map_err(|error| error.to_string())?;
        let enrolled =
            enrol(&connect, &self.servers, request, ENROL_WITHIN).await.map_err(|error| error.to_string())?;
        Papers::new(enrolled, &key.key_pem).map_err(|error| error.to_string())
    }
}

/// Runs the machines until they shall end.
pub(super) fn run(args: &ChaosAgentsArgs, stop: &AtomicBool) -> Outcome {
    if !(0.0..=1000.0).contains(&args.rate) {
        return Err(Failure::usage(format!("--rate {}: it must lie between 0 and 1000", args.rate)));
    }
    let (open_max, wanted) = (crate::descriptors::raise_limit(), u64::from(args.count) * DESCRIPTORS_EACH + 64);
    if open_max < wanted {
        return Err(Failure::usage(format!(
            "{} machines open {wanted} files and sockets, and this process may open {open_max}: raise the limit (ulimit -Hn)",
            args.count
        )));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("start a runtime: {error}")))?;
    runtime.block_on(async {
        let counts = Arc::<Counts>::default();
        let before = memory_bytes();
        enrol_all(args, &counts, stop).await?;
        watch(args, &counts, stop, before).await
    })
}

/// One after the other: each is a signature and a synced change of the inventory.
async fn enrol_all(args: &ChaosAgentsArgs, counts: &Arc<Counts>, stop: &AtomicBool) -> Outcome {
    let (begun, mut shown) = (Instant::now(), Instant::now());
    for number in 1..=args.count {
        if stop.load(Relaxed) {
            return Err(Failure::failed("stopped before every machine was enrolled"));
        }
        let papers = args.join(number).await.map_err(|why| {
            let text = format!("enrol machine {number} of {}: {why}", args.count);
            Failure::new(ExitKind::Refused, text)
        })?;
        let machine = Synthetic::new(args.plan(number), papers, u64::from(number), counts.clone());
        let addresses = args.servers.clone();
        tokio::spawn(async move {
            if let Err(why) = machine.live(addresses).await {
                eprintln!("machine {number} ended: {why}");
            }
        });
        if shown.elapsed() >= SHOW_EVERY {
            shown = Instant::now();
            eprintln!("[{:6.1} s] {number} of {} machines are enrolled", begun.elapsed().as_secs_f64(), args.count);
        }
    }
    eprintln!("[{:6.1} s] all {} machines are enrolled", begun.elapsed().as_secs_f64(), args.count);
    Ok(())
}

async fn watch(args: &ChaosAgentsArgs, counts: &Counts, stop: &AtomicBool, before: u64) -> Outcome {
    let (begun, mut shown) = (Instant::now(), Instant::now());
    let (mut writes, mut committed) = (0, 0);
    let over = |begun: Instant| args.seconds.is_some_and(|seconds| begun.elapsed().as_secs_f64() >= seconds);
    while !stop.load(Relaxed) && !over(begun) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if shown.elapsed() >= SHOW_EVERY {
            let seconds = shown.elapsed().as_secs_f64();
            let (writes_now, committed_now) = (counts.writes.load(Relaxed), counts.committed.load(Relaxed));
            eprintln!(
                "[{:6.1} s] {} of {} sessions open, {:.0} writes/s, {:.0} LSNs committed/s, {} MiB",
                begun.elapsed().as_secs_f64(),
                counts.open.load(Relaxed),
                args.count,
                (writes_now - writes) as f64 / seconds,
                (committed_now - committed) as f64 / seconds,
                memory_bytes() >> 20
            );
            (writes, committed, shown) = (writes_now, committed_now, Instant::now());
        }
    }
    let figures = json!({
        "machines": args.count,
        "sessions_open": counts.open.load(Relaxed),
        "sessions_ended": counts.ended.load(Relaxed),
        "writes": counts.writes.load(Relaxed),
        "writes_lost": counts.lost.load(Relaxed),
        "lsns_committed": counts.committed.load(Relaxed),
        "memory_bytes": memory_bytes(),
        "memory_bytes_per_machine": memory_bytes().saturating_sub(before) / u64::from(args.count),
        "seconds": begun.elapsed().as_secs_f64(),
    });
    match args.json {
        true => println!("{figures:#}"),
        false => println!(
            "{} machines, {} sessions open, {} writes, {} LSNs committed, {} KiB of memory a machine",
            args.count,
            figures["sessions_open"],
            figures["writes"],
            figures["lsns_committed"],
            figures["memory_bytes_per_machine"].as_u64().unwrap_or(0) >> 10
        ),
    }
    Ok(())
}
