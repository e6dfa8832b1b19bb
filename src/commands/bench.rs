//! `farshore bench`: what this machine can do for the parts that an operator has to size: sealing a thread, a folder as a
//! vault, an export over NBD. Ratios against other programs are measured by `make bench`.
//!
//! Everything is written into a folder of its own below the one that is named, and removed again, also when it fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use farshore_engine::digest::digests;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, Salt, Slot, TimelineId, Timestamp, WriterId};
use farshore_engine::nbd::{
    BackingDisk, BackingOptions, ClientOptions, FileExport, NbdClient, NbdServer, NbdUri, ServerOptions,
};
use farshore_engine::section::SectionBuilder;
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::segment::{FrameSealer, ItemNo, LogVersion, SegmentIdentity};
use farshore_engine::vault::store::ObjectStore;
use farshore_engine::vault::store::folder::FolderStore;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use serde::Serialize;
use slog::Logger;

use crate::exit::{Failure, Outcome};

/// What a frame is made of, in bytes: what an agent's batch carries.
const FRAME_BYTES: usize = 512 << 10;
/// An object as large as a full segment, in bytes.
const OBJECT_BYTES: usize = 16 << 20;
const BLOCK_BYTES: usize = 4096;

/// Measure this machine: sealing, a folder as a vault, an export over NBD.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A folder on the disk that would hold the vault; what is written there is removed again.
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Time for each measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Data for the vault and the export.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(16..=65536))]
    mib: u64,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// One line of the result.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figure {
    what: String,
    figure: f64,
    unit: &'static str,
}

fn figure(what: impl Into<String>, figure: f64, unit: &'static str) -> Figure {
    Figure { what: what.into(), figure, unit }
}

/// A folder that goes with its value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: &Path) -> Result<Self, Failure> {
        let path = below.join(format!("farshore-bench-{}", std::process::id()));
        fs::create_dir(&path).map_err(|error| Failure::usage(format!("create {}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("farshore: remove {} by hand: {error}", self.0.display());
        }
    }
}

/// Bytes that compress to about half, as a disk's do.
fn half_random(bytes: usize, seed: u64) -> Vec<u8> {
    let mut data = vec![0; bytes];
    let mut rng = SmallRng::seed_from_u64(seed);
    data.chunks_mut(1024).for_each(|piece| {
        let half = piece.len() / 2;
        rng.fill_bytes(&mut piece[..half]);
    });
    data
}

/// Gigabytes a second that all threads together digest, compress, encrypt and check.
fn sealing(threads: usize, time: Duration) -> f64 {
    let rate = |thread: usize| {
        let key = DataKey::from_bytes([3; 32]);
        let identity = SegmentIdentity {
            machine: MachineId([1; 16]),
            timeline: TimelineId([2; 8]),
            epoch: Epoch(1),
            writer: WriterId([4; 16]),
            salt: Salt([thread as u8; 16]),
            created_at: Timestamp(0),
            version: LogVersion::V1,
        };
        let (sealer, digest_key) = (FrameSealer::new(&key, identity), key.digest_key());
        let data = half_random(FRAME_BYTES, thread as u64);
        let mut builder = SectionBuilder::default();
        builder.data(Lsn(1), 0, data.clone().into(), &digests(&digest_key, 0, &data));
        let section = builder.finish();
        let (begun, mut frames) = (Instant::now(), 0);
        while begun.elapsed() < time {
            frames += 1;
            std::hint::black_box(digests(&digest_key, 0, &data));
            let sealed = sealer.seal_frame(ItemNo(frames), DiskNo(0), Lsn(1), Lsn(1), &section);
            std::hint::black_box(sealed.expect("a section"));
        }
        frames as f64 * FRAME_BYTES as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || rate(thread))).collect();
        running.into_iter().map(|thread| thread.join().expect("it measures")).sum()
    })
}

/// Durable objects of a segment's size into a folder, and back; and how long a small one takes.
fn vault(folder: &Path, mib: u64, figures: &mut Vec<Figure>) -> Outcome {
    let failed = |error| Failure::failed(format!("measure the folder: {error}"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("start a worker thread: {error}")))?;
    let store = FolderStore::open(folder, runtime.handle().clone()).map_err(Failure::usage)?;
    let name = |slot: u64| ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(slot));
    let objects = (mib << 20).div_ceil(OBJECT_BYTES as u64);
    let data = bytes::Bytes::from(half_random(OBJECT_BYTES, 1));
    let total = objects as f64 * OBJECT_BYTES as f64 / 1e6;
    runtime.block_on(async {
        let begun = Instant::now();
        for slot in 1..=objects {
            store.put_if_absent(&name(slot), "bench", data.clone()).await.map_err(failed)?;
        }
        figures.push(figure("vault: durable objects of 16 MiB", total / begun.elapsed().as_secs_f64(), "MB/s"));
        let begun = Instant::now();
        for slot in 1..=objects {
            store.get(&name(slot)).await.map_err(failed)?;
        }
        figures.push(figure("vault: read back (cached)", total / begun.elapsed().as_secs_f64(), "MB/s"));
        let mut times = Vec::new();
        for slot in objects + 1..=objects + 20 {
            let begun = Instant::now();
            store.put_if_absent(&name(slot), "bench", data.slice(..BLOCK_BYTES)).await.map_err(failed)?;
            times.push(begun.elapsed());
        }
        figures.push(figure("vault: a durable object of 4 KiB", median_ms(times), "ms"));
        Ok(())
    })
}

fn median_ms(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64() * 1e3
}

/// Requests over a socket to an export of a file.
fn nbd(folder: &Path, mib: u64, time: Duration, figures: &mut Vec<Figure>) -> Outcome {
    let failed = |doing: &str, error: &dyn std::fmt::Display| Failure::failed(format!("{doing}: {error}"));
    let image = folder.join("disk");
    File::create(&image).and_then(|file| file.set_len(mib << 20)).map_err(|error| failed("make a disk", &error))?;
    let backing =
        BackingDisk::open(&image, BackingOptions::default()).map_err(|error| failed("open a disk", &error))?;
    let logger = Logger::root(slog::Discard, slog::o!());
    let server = NbdServer::bind_unix(&folder.join("nbd"), ServerOptions::default(), &logger);
    let server = server.map_err(|error| failed("listen", &error))?;
    server.set_exports(vec![Arc::new(FileExport::new("disk", Arc::new(backing)))]);
    let uri: NbdUri = server.uri("disk").parse().map_err(|error| failed("name the export", &error))?;
    let mut client = NbdClient::connect(&uri, ClientOptions::default()).map_err(|error| failed("connect", &error))?;
    let (mut rng, data) = (SmallRng::seed_from_u64(1), half_random(1 << 20, 2));
    let (begun, mut megabytes) = (Instant::now(), 0);
    while begun.elapsed() < time {
        let at = (megabytes % mib) << 20;
        client.write(at, &data, false).map_err(|error| failed("write", &error))?;
        megabytes += 1;
    }
    let rate = megabytes as f64 * 1.048_576 / begun.elapsed().as_secs_f64();
    figures.push(figure("NBD: 1 MiB sequential writes", rate, "MB/s"));
    for (what, flush) in [("NBD: 4 KiB random writes, depth 1", false), ("NBD: the same, each flushed", true)] {
        let (begun, mut writes) = (Instant::now(), 0_u64);
        while begun.elapsed() < time {
            let at = rng.random_range(0..(mib << 20) / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
            client.write(at, &data[..BLOCK_BYTES], false).map_err(|error| failed("write", &error))?;
            if flush {
                client.flush().map_err(|error| failed("flush", &error))?;
            }
            writes += 1;
        }
        figures.push(figure(what, writes as f64 / begun.elapsed().as_secs_f64(), "/s"));
    }
    client.disconnect().map_err(|error| failed("disconnect", &error))?;
    server.shutdown(Duration::from_secs(5));
    Ok(())
}

fn measure(args: &BenchArgs) -> Result<Vec<Figure>, Failure> {
    let time = Duration::try_from_secs_f64(args.seconds)
        .map_err(|error| Failure::usage(format!("--seconds {}: {error}", args.seconds)))?;
    let scratch = Scratch::new(&args.folder)?;
    let mut figures = Vec::new();
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for threads in [1, cores] {
        figures.push(figure(format!("sealing, {threads} threads"), sealing(threads, time), "GB/s"));
        if cores == 1 {
            break;
        }
    }
    vault(&scratch.0.join("vault"), args.mib, &mut figures)?;
    nbd(&scratch.0, args.mib, time, &mut figures)?;
    Ok(figures)
}

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> Outcome {
    let figures = measure(args)?;
    if args.json {
        let text = serde_json::to_string_pretty(&figures);
        println!("{}", text.map_err(|error| Failure::failed(format!("print the figures: {error}")))?);
        return Ok(());
    }
    for Figure { what, figure, unit } in figures {
        println!("{what:<40} {figure:>12.2} {unit}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_measured_and_nothing_stays_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        let args = BenchArgs { folder: dir.path().into(), seconds: 0.02, mib: 16, json: false };
        let figures = measure(&args).expect("it measures");
        for part in ["sealing", "vault", "NBD"] {
            assert!(figures.iter().any(|figure| figure.what.starts_with(part)), "{part}: {figures:?}");
        }
        assert!(figures.iter().all(|figure| figure.figure > 0.0), "{figures:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("lists").count(), 0, "what was written is removed");
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_wrong_command_line() {
        let args = BenchArgs { folder: "/nonexistent/bench".into(), seconds: 0.02, mib: 16, json: false };
        let failure = measure(&args).expect_err("refused");
        assert!(failure.text.contains("/nonexistent/bench"), "{failure:?}");
    }
}
