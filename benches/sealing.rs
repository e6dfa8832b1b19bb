//! The sealing chain against the sum of its parts, measured in the same run: what does it cost to be a frame, beside
//! the compression, encryption and checksums that a frame cannot do without?
//!
//! Run with `cargo bench --bench sealing`; `-- --seconds 5` measures longer. The bar: at least 0.9, with one thread and with two.
//!
//! GB are 10^9 bytes of input per second of CPU time, summed over the threads; the ratio is the chain's rate by that of its
//! parts, so 1.00 is "nothing beside the parts".

mod rig;

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use bytes::Bytes;
use farshore_engine::batch::BATCH_PAYLOAD_BYTES_TARGET;
use farshore_engine::digest::digests;
use farshore_engine::ids::{DiskNo, Epoch, Lsn, MachineId, Salt, TimelineId, Timestamp, WriterId};
use farshore_engine::section::SectionBuilder;
use farshore_engine::vault::crypto::{DataKey, SealKey};
use farshore_engine::vault::segment::{FrameSealer, ItemNo, LogVersion, SegmentIdentity};
use rig::payload::{WRITE_BYTES, payload};
use rig::report::{Bar, Report};
use rig::{is_bench, sized, thread_cpu};

/// Frames that each thread goes through, over and over: more than its caches hold.
const FRAMES: usize = 32;

/// A batch's worth of 4 KiB writes, as raw bytes and as a section.
struct Frame {
    first: u64,
    payload: Vec<u8>,
    section: Bytes,
}

fn frames(key: &DataKey, seed: u64) -> Vec<Frame> {
    let digest_key = key.digest_key();
    let frame = |n: u64| {
        let payload = payload(seed * 1000 + n + 1, BATCH_PAYLOAD_BYTES_TARGET);
        let first = 1 + n * 1000;
        let mut builder = SectionBuilder::default();
        for (write, data) in payload.chunks(WRITE_BYTES).enumerate() {
            let offset = (write as u64 * 7919 % 100_000) * WRITE_BYTES as u64;
            let sums = digests(&digest_key, offset, data);
            builder.data(Lsn(first + write as u64), offset, Bytes::copy_from_slice(data), &sums);
        }
        Frame { first, payload, section: builder.finish() }
    };
    (0..FRAMES as u64).map(frame).collect()
}

struct Bench {
    key: DataKey,
    seal: SealKey,
    sealer: FrameSealer,
}

impl Bench {
    fn new(thread: u8) -> Self {
        let key = DataKey::from_bytes([3; 32]);
        let identity = SegmentIdentity {
            machine: MachineId([1; 16]),
            timeline: TimelineId([2; 8]),
            epoch: Epoch(1),
            writer: WriterId([4; 16]),
            salt: Salt([thread; 16]),
            created_at: Timestamp(0),
            version: LogVersion::V1,
        };
        let sealer = FrameSealer::new(&key, identity);
        Self { seal: key.frame_key(&Salt([5; 16])), sealer, key }
    }

    /// Digest at capture, then a frame out of the section.
    fn chain(&self, frames: &[Frame], number: &mut u64) {
        let digest_key = self.key.digest_key();
        for frame in frames {
            *number += 1;
            black_box(digests(&digest_key, 0, &frame.payload));
            let (first, last) = (Lsn(frame.first), Lsn(frame.first + 999));
            let item = self.sealer.seal_frame(ItemNo(*number), DiskNo(0), first, last, &frame.section);
            black_box(item.expect("a well-formed section"));
        }
    }

    /// The same digests, compression, encryption and checksum, each alone, over buffers that are there already.
    fn parts(&self, frames: &[Frame], number: &mut u64, scratch: &mut Scratch) {
        let digest_key = self.key.digest_key();
        for frame in frames {
            black_box(digests(&digest_key, 0, &frame.payload));
        }
        for (frame, packed) in frames.iter().zip(&mut scratch.packed) {
            let room = &mut packed.0;
            packed.1 = scratch.encoder.compress(&frame.section, room).expect("there is room");
        }
        for (room, len) in &mut scratch.packed {
            *number += 1;
            black_box(self.seal.seal_detached(
                *number,
                b"associated data of some length, as an item has it",
                &mut room[..*len],
            ));
        }
        for (room, len) in &scratch.packed {
            black_box(crc32fast::hash(&room[..*len]));
        }
    }
}

struct Scratch {
    encoder: snap::raw::Encoder,
    packed: Vec<(Vec<u8>, usize)>,
}

/// The best passes of one thread over its frames.
struct Best {
    payload_bytes: usize,
    chain: Duration,
    parts: Duration,
}

/// Alternates chain and parts, so that whatever else the machine does meets both; the best pass of each counts.
fn measure(thread: u8, time: Duration, start: &Barrier) -> Best {
    let bench = Bench::new(thread);
    let frames = frames(&bench.key, thread.into());
    let packed = frames.iter().map(|frame| (vec![0; snap::raw::max_compress_len(frame.section.len())], 0)).collect();
    let mut scratch = Scratch { encoder: snap::raw::Encoder::new(), packed };
    let payload_bytes = frames.iter().map(|frame| frame.payload.len()).sum();
    let mut best = Best { payload_bytes, chain: Duration::MAX, parts: Duration::MAX };
    let (mut chain_number, mut parts_number) = (0, 0);
    start.wait();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let chain = thread_cpu();
        bench.chain(&frames, &mut chain_number);
        best.chain = best.chain.min(thread_cpu() - chain);
        let parts = thread_cpu();
        bench.parts(&frames, &mut parts_number, &mut scratch);
        best.parts = best.parts.min(thread_cpu() - parts);
    }
    best
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let mut report = Report::new("sealing");
    let arguments: Vec<String> = std::env::args().collect();
    let seconds = arguments.iter().position(|argument| argument == "--seconds").and_then(|at| arguments.get(at + 1));
    let seconds = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| sized(0.2, 3.0));
    for threads in [1_u8, 2] {
        let start = Barrier::new(threads.into());
        let best: Vec<Best> = std::thread::scope(|scope| {
            let time = Duration::from_secs_f64(seconds);
            let running: Vec<_> = (0..threads)
                .map(|n| {
                    scope.spawn({
                        let start = &start;
                        move || measure(n, time, start)
                    })
                })
                .collect();
            running.into_iter().map(|thread| thread.join().expect("the thread measures")).collect()
        });
        let rate = |time: fn(&Best) -> Duration| -> f64 {
            best.iter().map(|best| best.payload_bytes as f64 / time(best).as_secs_f64() / 1e9).sum()
        };
        let (chain, parts) = (rate(|best| best.chain), rate(|best| best.parts));
        report.tell(format!("{threads} threads: chain"), chain, "GB/s");
        report.tell(format!("{threads} threads: parts"), parts, "GB/s");
        report.judge(format!("{threads} threads: chain / parts"), chain / parts, "", Bar::AtLeast(0.9));
    }
    report.finish()
}
