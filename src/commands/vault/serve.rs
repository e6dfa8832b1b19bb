//! `farshore vault serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clap::Args;
use farshore_engine::nbd::{Export, NbdServer, ServerOptions};
use farshore_engine::vault::read::export::VolumeExport;
use farshore_engine::vault::read::frame_cache::FrameCache;
use farshore_engine::vault::read::hydrate::{Hydration, hydrate};
use farshore_engine::vault::read::near_frames::NearFrames;
use farshore_engine::vault::read::overlay::Overlay;
use farshore_engine::vault::read::restore::file_name;
use farshore_engine::vault::read::volume::{Volume, VolumeLimits};
use serde::Serialize;
use slog::{Logger, info, warn};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::access::{Access, MachineArgs, PointArgs, read_failure, runtime};
use super::ls::print_json;
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;

/// How long clients get to finish their requests when the server is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(8);

/// Hydration is told of so often, in percent of a disk.
const HYDRATION_STEP: u64 = 10;

/// What to serve, and where.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    machine: MachineArgs,
    #[command(flatten)]
    point: PointArgs,
    #[command(flatten)]
    place: PlaceArgs,
    /// Take writes, into an overlay that is thrown away at the end; the vault never changes.
    #[arg(long)]
    overlay: bool,
    /// Where overlays are kept while serving; the system's temporary directory, if not given.
    #[arg(long, value_name = "DIR", requires = "overlay")]
    overlay_dir: Option<PathBuf>,
    /// Memory for opened frames, in MiB.
    #[arg(long, default_value_t = 256, value_name = "MIB")]
    cache_mib: usize,
    /// A directory that keeps what was read of the vault, sealed as it lies there; it may be used again.
    #[arg(long, value_name = "DIR")]
    near: Option<PathBuf>,
    /// Most of it, in GiB.
    #[arg(long, default_value_t = 16, value_name = "GIB", requires = "near")]
    near_gib: u64,
    /// Bring all that the point needs near, in the background.
    #[arg(long, requires = "near")]
    hydrate: bool,
    /// Print the exports as JSON.
    #[arg(long)]
    json: bool,
}

/// Where exports are offered.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct PlaceArgs {
    /// A directory for one unix socket a disk; made where it is missing.
    #[arg(long, value_name = "DIR")]
    socket_dir: Option<PathBuf>,
    /// A loopback address; port 0 picks a free one.
    #[arg(long, value_name = "ADDRESS:PORT")]
    tcp: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct Served {
    disk: String,
    size_bytes: u64,
    uri: String,
}

/// Serves until SIGINT or SIGTERM.
pub(super) fn run(args: &ServeArgs, at: &VaultSettings, logger: &Logger) -> Outcome {
    let runtime = runtime()?;
    let vault = args.access.open(at, &runtime)?;
    let exports = runtime.block_on(exports(args, &vault, &runtime, logger))?;
    // Before anything is printed: whoever reads the URIs may stop this at once.
    let mut stops = {
        let _runtime = runtime.enter();
        let listen = |kind| signal(kind).map_err(|error| Failure::failed(format!("listen for signals: {error}")));
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?)
    };
    let (servers, served) = args.place.bind(&exports, logger)?;
    match args.json {
        true => print_json(&served)?,
        false => served.iter().for_each(|line| println!("{}  {} bytes  {}", line.disk, line.size_bytes, line.uri)),
    }
    // A closed pipe ends the output, not the serving.
    let _ = std::io::stdout().flush();
    runtime.block_on(async {
        let nearer = async {
            if args.hydrate {
                bring_near(&exports, logger).await;
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = stops.0.recv() => {}
            _ = stops.1.recv() => {}
            () = nearer => {}
        }
    });
    info!(logger, "stopping: requests in flight are answered first");
    servers.into_iter().for_each(|server| {
        server.shutdown(STOP_TIMEOUT / 2);
    });
    Ok(())
}

/// One disk after the other.
async fn bring_near(exports: &[Arc<VolumeExport>], logger: &Logger) {
    for export in exports {
        let (volume, name) = (export.volume(), &export.info().name);
        let told = AtomicU64::new(0);
        let tell = |now: Hydration| {
            let percent = now.reached.saturating_mul(100) / now.size_bytes.max(1);
            if percent >= told.load(Relaxed) + HYDRATION_STEP {
                told.store(percent, Relaxed);
                info!(logger, "hydrating"; "disk" => name, "percent" => percent, "fetched_bytes" => now.fetched_bytes);
            }
        };
        match hydrate(volume, tell).await {
            Ok(done) if done.is_done() => {
                info!(logger, "all of the disk is near"; "disk" => name, "fetched_bytes" => done.fetched_bytes);
            }
            Ok(_) => {
                warn!(logger, "hydration ended: --near-gib is used up; the rest is read from the vault"; "disk" => name);
                return;
            }
            Err(error) => {
                warn!(logger, "hydration ended; what is missing is read from the vault"; "disk" => name,
                    "error" => %error);
                return;
            }
        }
    }
}

async fn exports(
    args: &ServeArgs,
    vault: &farshore_engine::vault::read::open_vault::OpenVault,
    runtime: &Runtime,
    logger: &Logger,
) -> Result<Vec<Arc<VolumeExport>>, Failure> {
    let chosen = args.machine.choose(vault).await?;
    let (point, disks) = args.point.choose(&chosen)?;
    let near = args.near(runtime)?;
    let frames = Arc::new(FrameCache::new(args.cache_mib.saturating_mul(1 << 20)).with_near(near));
    let mut exports: Vec<Arc<VolumeExport>> = Vec::new();
    for disk in disks {
        let limits = VolumeLimits::default();
        let volume = Volume::of_point(&chosen.reader, &point, disk, frames.clone(), limits).map_err(read_failure)?;
        let mut name = export_name(&volume.info().name);
        if exports.iter().any(|export| export.info().name == name) {
            name = format!("{name}-{disk}");
        }
        let overlay = match args.overlay {
            true => Some(args.overlay(volume.info().size_bytes)?),
            false => None,
        };
        exports.push(Arc::new(VolumeExport::new(volume, name, overlay, runtime.handle().clone(), logger)));
    }
    Ok(exports)
}

/// A disk's name as it can stand in a URI and a file name.
fn export_name(name: &str) -> String {
    file_name(name).chars().map(|c| if c.is_ascii() { c } else { '_' }).collect()
}

impl ServeArgs {
    fn near(&self, runtime: &Runtime) -> Result<Option<Arc<NearFrames>>, Failure> {
        let open = |dir: &PathBuf| {
            let near = NearFrames::open(dir, self.near_gib.saturating_mul(1 << 30), runtime.handle().clone());
            near.map(Arc::new).map_err(|error| Failure::usage(format!("use {} as --near: {error}", dir.display())))
        };
        self.near.as_ref().map(open).transpose()
    }

    fn overlay(&self, size_bytes: u64) -> Result<Overlay, Failure> {
        let dir = self.overlay_dir.clone().unwrap_or_else(std::env::temp_dir);
        let made = Overlay::create(&dir, size_bytes);
        made.map_err(|error| Failure::failed(format!("make an overlay in {}: {error}", dir.display())))
    }
}

impl PlaceArgs {
    fn bind(&self, exports: &[Arc<VolumeExport>], logger: &Logger) -> Result<(Vec<NbdServer>, Vec<Served>), Failure> {
        let mut servers = Vec::new();
        let mut served = Vec::new();
        if let Some(addr) = self.tcp {
            servers.push(NbdServer::bind_tcp(addr, ServerOptions::default(), logger).map_err(Failure::usage)?);
            let all = exports.iter().map(|export| Arc::clone(export) as Arc<dyn Export>);
            servers[0].set_exports(all.collect());
        }
        for export in exports {
            if let Some(dir) = &self.socket_dir {
                let made = std::fs::create_dir_all(dir);
                made.map_err(|error| Failure::usage(format!("make {}: {error}", dir.display())))?;
                let path = std::path::absolute(dir.join(format!("{}.sock", export.info().name)));
                let path = path.map_err(Failure::usage)?;
                let server = NbdServer::bind_unix(&path, ServerOptions::default(), logger).map_err(Failure::usage)?;
                server.set_exports(vec![export.clone()]);
                servers.push(server);
            }
            let server = servers.last().expect("one of the two places was given");
            let info = export.info();
            let disk = export.volume().info().name.clone();
            served.push(Served { disk, size_bytes: info.size_bytes, uri: server.uri(&info.name) });
        }
        Ok((servers, served))
    }
}
