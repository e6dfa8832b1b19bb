//! Initial replication of a disk with a real filesystem on it, into a folder vault, TLS on, until the first point is
//! committed and read back; beside `restic backup` of the same file into a repository on the same filesystem, taking
//! turns. And its CPU time, agent and servers together, beside what cannot be done without: the sealing chain and both
//! ends of TLS, each alone, over the same data. Beside those the files, alone: reading the image once, and writing and
//! syncing what is stored twice, into a cache and into a vault. All three, spread over all processors without a pause,
//! are the shortest time that is possible on this machine.
//!
//! `cargo bench --bench replication`. The bars: 4 times as fast as restic; at most 1.4 of the CPU time of the parts.

mod rig;

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use farshore_engine::defaults::SEGMENT_BYTES_TARGET;
use farshore_engine::digest::digests;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, ProcessServerId, Salt, TimelineId, Timestamp, WriterId};
use farshore_engine::section::SectionBuilder;
use farshore_engine::transport::identity::{CertificateAuthority, Role};
use farshore_engine::transport::tls::{
    ClientAuth, Peers, SharedIdentity, Trust, accept, client_config, connect, server_config,
};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::segment::{FrameSealer, ItemNo, LogVersion, SegmentIdentity};
use rig::image::{Restic, image, pieces};
use rig::process::text;
use rig::report::{Bar, Report};
use rig::site::{Machine, Site, reader};
use rig::{eventually, is_bench, median, sized, thread_cpu};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// CPU time of digest, compression, encryption and checksum, with nothing around them; and how many bytes come out.
fn sealing_alone(pieces: &[Vec<u8>]) -> (Duration, usize) {
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
    let (sealer, digest_key) = (FrameSealer::new(&key, identity), key.digest_key());
    let (mut spent, mut stored) = (Duration::ZERO, 0);
    for (number, piece) in (1..).zip(pieces) {
        let mut builder = SectionBuilder::default();
        let begun = thread_cpu();
        let sums = digests(&digest_key, 0, piece);
        spent += thread_cpu() - begun;
        // Laying out is not the chain's.
        builder.data(Lsn(number), 0, Bytes::copy_from_slice(piece), &sums);
        let section = builder.finish();
        let begun = thread_cpu();
        let sealed = sealer.seal_frame(ItemNo(number), DiskNo(0), Lsn(number), Lsn(number), &section);
        let sealed = std::hint::black_box(sealed.expect("a section"));
        spent += thread_cpu() - begun;
        stored += sealed.bytes.len();
    }
    (spent, stored)
}

/// CPU time of reading as much of the image as it has data, and of writing and syncing what is stored twice, in files as
/// long as a segment.
fn files_alone(dir: &Path, image: &Path, pieces: &[Vec<u8>], stored: usize) -> Duration {
    let source = File::open(image).expect("the image");
    let mut buffer = vec![0; pieces.iter().map(Vec::len).max().unwrap_or(0)];
    let segment = SEGMENT_BYTES_TARGET as usize;
    let chunk = vec![0x5a; segment];
    let begun = thread_cpu();
    let mut offset = 0;
    for piece in pieces {
        source.read_exact_at(&mut buffer[..piece.len()], offset).expect("it reads");
        offset += piece.len() as u64;
    }
    for copy in ["cache", "vault"] {
        for (number, at) in (0..stored).step_by(segment).enumerate() {
            let mut file = File::create(dir.join(format!("{copy}-{number}"))).expect("a file");
            file.write_all(&chunk[..segment.min(stored - at)]).expect("it writes");
            file.sync_data().expect("it syncs");
        }
    }
    thread_cpu() - begun
}

/// CPU time of both ends of a TLS connection over loopback, on one thread, and of nothing else.
fn tls_alone(pieces: &[Vec<u8>]) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let now = Timestamp(since.as_micros() as i64);
    let authority = CertificateAuthority::generate(now, 2).expect("an authority");
    let shared = |role| SharedIdentity::new(&authority.issue(role, &[], now, 1).expect("issued")).expect("usable");
    let server_role = Role::ProcessServer(ProcessServerId([7; 16]));
    let server = server_config(&shared(server_role), authority.certificate(), ClientAuth::Required).expect("set up");
    let trust = Trust::Authority(authority.certificate().clone());
    let client = client_config(Some(&shared(Role::Machine(MachineId([8; 16])))), trust, Peers::AnyProcessServer);
    let client = client.expect("set up");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound").to_string();
        let begun = thread_cpu();
        let receiving = async {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut secured = accept(stream, server).await.expect("accepted");
            let mut buffer = vec![0; 256 << 10];
            while secured.stream.read(&mut buffer).await.expect("it reads") > 0 {}
        };
        let sending = async {
            let mut secured = connect(&address, client).await.expect("connected");
            for piece in pieces {
                secured.stream.write_all(piece).await.expect("it writes");
            }
            secured.stream.shutdown().await.expect("it ends");
        };
        tokio::join!(receiving, sending);
        thread_cpu() - begun
    })
}

/// One initial replication: wall and CPU time.
fn replicate(dir: &Path, image: &Path, runtime: &Runtime) -> (Duration, Duration) {
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let site = Site::start(dir.path());
    let token = site.token(1);
    let vault = site.vault(runtime);
    let servers_before = site.servers.cpu();
    let begun = Instant::now();
    let machine = Machine::start(dir.path(), &site, "m", image, &token);
    let mut reader = reader(&vault, runtime, "m");
    // A point covers a disk only when its first scan is in the vault as a whole.
    let point = eventually("the first point", Duration::from_secs(600), || {
        runtime.block_on(reader.refresh()).map_err(|error| error.to_string())?;
        reader.newest().ok_or_else(|| "not yet".into())
    });
    let wall = begun.elapsed();
    let cpu = machine.agent.cpu() + (site.servers.cpu() - servers_before);
    assert!(point.in_gap.is_empty(), "the point covers the disk");
    machine.agent.stop();
    site.servers.stop();
    (wall, cpu)
}

/// One restic backup into a new repository, made beforehand.
fn restic(dir: &Path, image: &Path) -> Duration {
    let dir = tempfile::tempdir_in(dir).expect("a directory");
    let repository = Restic::new(dir.path());
    let begun = Instant::now();
    repository.run(&["backup", text(image)]);
    begun.elapsed()
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new("replication");
    let dir = tempfile::tempdir().expect("a directory");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let image = image(dir.path());
    // Reading it all also warms the page cache for everyone.
    let pieces = pieces(&image);
    let bytes: usize = pieces.iter().map(Vec::len).sum();
    let mut taken = [const { Vec::new() }; 6];
    for _ in 0..sized(1, 3) {
        let (wall, cpu) = replicate(dir.path(), &image, &runtime);
        let (sealing, stored) = sealing_alone(&pieces);
        let aside = tempfile::tempdir_in(dir.path()).expect("a directory");
        let files = files_alone(aside.path(), &image, &pieces, stored);
        let turn = [wall, restic(dir.path(), &image), cpu, sealing, tls_alone(&pieces), files];
        taken.iter_mut().zip(turn).for_each(|(turns, time)| turns.push(time.as_secs_f64()));
    }
    let [wall, restic, cpu, sealing, tls, files] = taken.map(median);
    report.tell("data in the image", bytes as f64 / f64::from(1 << 20), "MiB");
    report.tell("initial replication", wall, "s");
    report.tell("restic backup", restic, "s");
    report.judge("restic / initial replication", restic / wall, "", Bar::AtLeast(4.0));
    report.tell("CPU time: agent and servers", cpu, "s");
    report.tell("CPU time: sealing chain alone", sealing, "s");
    report.tell("CPU time: both ends of TLS alone", tls, "s");
    report.judge("CPU time / (sealing + TLS)", cpu / (sealing + tls), "", Bar::AtMost(1.4));
    let floor = sealing + tls + files;
    let processors = std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64);
    report.tell("CPU time: files alone", files, "s");
    report.tell("(sealing + TLS + files) / (sealing + TLS)", floor / (sealing + tls), "");
    report.tell("restic / the shortest time possible", restic * processors / floor, "");
    report.tell("CPU time / (sealing + TLS + files)", cpu / floor, "");
    report.finish()
}
