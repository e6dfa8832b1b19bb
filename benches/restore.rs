//! What the bench image costs to store, and how fast it comes back: stored bytes under Snappy and under zstd beside restic's
//! repository and beside snap alone; restore beside `restic restore` and beside a plain sparse copy, taking turns, all
//! synced; the same on one core; onto an old copy; and the CPU time of verify beside that of what it cannot do without.
//!
//! `cargo bench --bench restore`. The bars: zstd at most 1.1 times restic's bytes, Snappy at most 1.05 times snap alone;
//! restore 3 times as fast as restic and at least half as fast as cp; verify at least 0.8 of the sum of its parts a core.

mod rig;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_engine::digest::digests;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, Salt, TimelineId, Timestamp, WriterId};
use farshore_engine::section::SectionBuilder;
use farshore_engine::vault::crypto::{DataKey, TAG_BYTES};
use farshore_engine::vault::segment::{Codec, FrameSealer, ItemNo, LogVersion, SealedItem, SegmentIdentity};
use rig::image::{Restic, image, pieces, tree_bytes};
use rig::process::{run, text};
use rig::report::{Bar, Report};
use rig::site::{FARSHORE, Machine, Site, reader};
use rig::{eventually, is_bench, median, sized, thread_cpu};
use tokio::runtime::Runtime;

const MIB: f64 = (1 << 20) as f64;
const BLOCK: u64 = 4096;

/// A vault with the image in it.
struct Stored {
    dir: tempfile::TempDir,
    vault: PathBuf,
    key_file: PathBuf,
    /// Bytes of the machine's objects.
    bytes: u64,
}

fn store(below: &Path, image: &Path, codec: &str, runtime: &Runtime) -> Stored {
    let dir = tempfile::tempdir_in(below).expect("a directory");
    let site = Site::start_with(dir.path(), &[("FARSHORE_SEGMENT__CODEC", codec)]);
    let machine = Machine::start(dir.path(), &site, "m", image, &site.token(1));
    let mut reader = reader(&site.vault(runtime), runtime, "m");
    eventually("the first point", Duration::from_secs(600), || {
        runtime.block_on(reader.refresh()).map_err(|error| error.to_string())?;
        reader.newest().map(drop).ok_or_else(|| "not yet".into())
    });
    machine.agent.stop();
    let (vault, key_file) = (site.vault_dir(), site.key_file());
    site.servers.stop();
    let bytes = tree_bytes(&vault.join("machines"));
    Stored { dir, vault, key_file, bytes }
}

impl Stored {
    fn tool(&self, first: &[&str], verb: &str, args: &[&str]) -> String {
        let common = ["vault", verb, "--vault", text(&self.vault), "--key-file", text(&self.key_file)];
        let line = [first, &[FARSHORE], &common[..], args].concat();
        run(line[0], &line[1..])
    }

    /// Restores the newest point; with the time that it took.
    fn restore(&self, first: &[&str]) -> (PathBuf, Duration) {
        let to = self.dir.path().join("restored");
        if to.exists() {
            fs::remove_dir_all(&to).expect("the one before goes");
        }
        let begun = Instant::now();
        self.tool(first, "restore", &["--machine", "m", "--to", text(&to)]);
        (to.join("disk.raw"), begun.elapsed())
    }

    /// Verifies the vault; with the CPU time that it took.
    fn verify(&self) -> Duration {
        let before = children_cpu();
        self.tool(&[], "verify", &[]);
        children_cpu() - before
    }
}

/// CPU time of the children that have ended, to a hundredth of a second.
fn children_cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("this process");
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [13, 14].iter().map(|field| fields[*field].parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}

fn sync(path: &Path) {
    File::open(path).and_then(|file| file.sync_all()).expect("synced");
}

fn same(one: &Path, other: &Path) {
    run("cmp", &[text(one), text(other)]);
}

fn timed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn restic_restore(restic: &Restic, dir: &Path) -> Duration {
    let to = dir.join("from-restic");
    let spent = timed(|| {
        restic.run(&["restore", "latest", "--target", text(&to)]);
        run("sync", &["-f", text(&to)]);
    });
    fs::remove_dir_all(&to).expect("it goes");
    spent
}

fn copy(image: &Path, dir: &Path) -> Duration {
    let to = dir.join("copied");
    let spent = timed(|| {
        run("cp", &["--sparse=always", text(image), text(&to)]);
        sync(&to);
    });
    fs::remove_file(&to).expect("it goes");
    spent
}

/// Brings an old copy in which each hundredth block differs to the point; the time, and what the tool said.
fn onto(stored: &Stored, restored: &Path) -> (Duration, String) {
    let file = OpenOptions::new().write(true).open(restored).expect("the copy");
    let blocks = file.metadata().expect("measured").len() / BLOCK;
    for block in (0..blocks).step_by(100) {
        file.write_all_at(&[0x5a; BLOCK as usize], block * BLOCK).expect("written");
    }
    file.sync_all().expect("synced");
    let mut said = String::new();
    let spent = timed(|| said = stored.tool(&[], "restore", &["--machine", "m", "--onto", text(restored)]));
    (spent, said.lines().last().unwrap_or_default().to_owned())
}

/// CPU time of checksum, opening, decompression and digests over the image's frames, each alone.
fn parts_alone(pieces: &[Vec<u8>]) -> Duration {
    let key = DataKey::from_bytes([3; 32]);
    let identity = SegmentIdentity {
        machine: MachineId([1; 16]),
        timeline: TimelineId([2; 8]),
        epoch: Epoch(1),
        writer: WriterId([4; 16]),
        salt: Salt([5; 16]),
        created_at: Timestamp(0),
        version: LogVersion::V1,
    };
    let (sealer, digest_key, seal) =
        (FrameSealer::new(&key, identity), key.digest_key(), key.frame_key(&identity.salt));
    let mut spent = Duration::ZERO;
    for (number, piece) in (1..).zip(pieces) {
        let mut builder = SectionBuilder::default();
        builder.data(Lsn(number), 0, Bytes::copy_from_slice(piece), &digests(&digest_key, 0, piece));
        let section = builder.finish();
        let item = sealer.seal_frame(ItemNo(number), DiskNo(0), Lsn(number), Lsn(number), &section);
        let SealedItem { header, bytes, .. } = item.expect("a section");
        let body = &bytes[bytes.len() - header.sealed_bytes as usize..];
        // The same bytes for both: what opens a frame is this, but for what the frame is bound to.
        let mut ours = match header.codec {
            Codec::Raw => section.to_vec(),
            _ => snap::raw::Encoder::new().compress_vec(&section).expect("it shrinks"),
        };
        let tag = seal.seal_detached(number, b"bench", &mut ours);
        ours.extend_from_slice(&tag);
        assert_eq!(ours.len(), body.len().max(TAG_BYTES));
        let begun = thread_cpu();
        std::hint::black_box(crc32fast::hash(&ours));
        let opened = seal.open(number, b"bench", &ours, "a frame").expect("it opens");
        if header.codec != Codec::Raw {
            std::hint::black_box(snap::raw::Decoder::new().decompress_vec(&opened).expect("it grows"));
        }
        std::hint::black_box(digests(&digest_key, 0, piece));
        spent += thread_cpu() - begun;
    }
    spent
}

fn snap_alone(pieces: &[Vec<u8>]) -> u64 {
    let mut encoder = snap::raw::Encoder::new();
    pieces.iter().map(|piece| encoder.compress_vec(piece).expect("it packs").len() as u64).sum()
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new("restore");
    let dir = tempfile::tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let image = image(dir.path());
    let pieces = pieces(&image);
    let restic = Restic::new(dir.path());
    restic.run(&["backup", text(&image)]);
    let (snappy, zstd) = (store(dir.path(), &image, "snappy", &runtime), store(dir.path(), &image, "zstd", &runtime));
    report.tell("data in the image", pieces.iter().map(Vec::len).sum::<usize>() as f64 / MIB, "MiB");
    report.tell("stored by restic", restic.bytes() as f64 / MIB, "MiB");
    report.tell("stored under snappy", snappy.bytes as f64 / MIB, "MiB");
    report.tell("stored under zstd", zstd.bytes as f64 / MIB, "MiB");
    report.judge("stored: zstd / restic", zstd.bytes as f64 / restic.bytes() as f64, "", Bar::AtMost(1.1));
    let alone = snappy.bytes as f64 / snap_alone(&pieces) as f64;
    report.judge("stored: snappy / snap alone", alone, "", Bar::AtMost(1.05));

    let mut taken = [const { Vec::new() }; 7];
    for _ in 0..sized(1, 3) {
        let (restored, ours) = snappy.restore(&[]);
        same(&restored, &image);
        let (_, one_core) = snappy.restore(&["taskset", "-c", "0"]);
        let (restored, packed) = zstd.restore(&[]);
        same(&restored, &image);
        let turn =
            [ours, one_core, packed, restic_restore(&restic, dir.path()), copy(&image, dir.path()), snappy.verify()];
        let turn = turn.into_iter().chain([parts_alone(&pieces)]);
        taken.iter_mut().zip(turn).for_each(|(turns, time)| turns.push(time.as_secs_f64()));
    }
    let [ours, one_core, packed, theirs, copied, verify, parts] = taken.map(median);
    report.tell("restore, snappy", ours, "s");
    report.tell("restore, zstd", packed, "s");
    report.tell("restic restore and sync", theirs, "s");
    report.tell("cp --sparse=always and sync", copied, "s");
    report.judge("restic / restore", theirs / ours, "", Bar::AtLeast(3.0));
    report.judge("cp / restore", copied / ours, "", Bar::AtLeast(0.5));
    report.tell("restore on one core / on all", one_core / ours, "");
    report.tell("verify: CPU time", verify, "s");
    report.tell("verify: CPU time of its parts alone", parts, "s");
    report.judge("verify: parts / all, a core", parts / verify, "", Bar::AtLeast(0.8));
    let (spent, said) = onto(&snappy, &snappy.dir.path().join("restored/disk.raw"));
    same(&snappy.dir.path().join("restored/disk.raw"), &image);
    report.tell("onto a copy with 1 % other blocks", spent.as_secs_f64(), "s");
    println!("{said}");
    report.finish()
}
