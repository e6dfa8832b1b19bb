//! The read side against logs that the real writer wrote.

use std::fs;
use std::sync::Arc;

use proptest::prelude::*;
use rand::Rng;

use super::error::{Damage, ReadError};
use super::export::VolumeExport;
use super::frame_cache::FrameCache;
use super::hydrate::hydrate;
use super::near_frames::NearFrames;
use super::overlay::Overlay;
use super::restore::{self, RestoreError};
use super::tail::{Tail, find_tail};
use super::test_log::{Seeded, Taken, TestLog};
use super::timeline::TimelineReader;
use super::volume::{Volume, VolumeLimits};
use crate::ids::{DiskNo, Epoch, Lsn, Slot, TimelineId};
use crate::nbd::{ClientOptions, NbdClient, NbdServer, ServerOptions, ZeroFlags};
use crate::record::{GapReason, Record};
use crate::section::WriteKind;
use crate::vault::segment::Control;
use crate::vault::store::ObjectStore;

fn limits() -> VolumeLimits {
    VolumeLimits { map_bytes_max: 1 << 20, read_ahead_bytes: 64 << 10 }
}

async fn bytes_at(reader: &TimelineReader, disk: u16, lsn: Lsn) -> Result<Vec<u8>, ReadError> {
    let volume = Volume::at(reader, DiskNo(disk), lsn, Arc::new(FrameCache::new(1 << 20)), limits())?;
    let mut bytes = vec![0xee; volume.info().size_bytes as usize];
    volume.read(0, &mut bytes).await?;
    Ok(bytes)
}

/// Every point of the log shows what the disks held.
async fn check_points(reader: &TimelineReader, taken: &[Taken]) {
    let points = reader.points();
    assert_eq!(points.iter().map(|p| p.id).collect::<Vec<_>>(), taken.iter().map(|t| t.id).collect::<Vec<_>>());
    for (point, taken) in points.iter().zip(taken) {
        assert_eq!(point.disks, taken.disks.keys().copied().collect::<Vec<_>>());
        for (disk, model) in &taken.disks {
            let bytes = bytes_at(reader, disk.0, point.lsn).await.expect("the point reads");
            assert!(bytes == *model, "disk {disk} at LSN {}", point.lsn);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Write { disk: u16, offset: u64, len: usize, byte: u8 },
    Fill { disk: u16, offset: u64, len: u32, undefined: bool },
    Resize { disk: u16, sectors: u64 },
    Mark,
    EndBatch,
    EndSegment,
}

const SECTORS: u64 = 96;

fn step() -> impl Strategy<Value = Step> {
    let place = (0..2_u16, 0..SECTORS, 1..24_u64);
    prop_oneof![
        6 => (place.clone(), any::<u8>()).prop_map(|((disk, at, len), byte)| {
            Step::Write { disk, offset: at * 512, len: len as usize * 512, byte }
        }),
        3 => (place, any::<bool>()).prop_map(|((disk, at, len), undefined)| {
            Step::Fill { disk, offset: at * 512, len: len as u32 * 512, undefined }
        }),
        1 => (0..2_u16, SECTORS / 2..=SECTORS).prop_map(|(disk, sectors)| Step::Resize { disk, sectors }),
        3 => Just(Step::Mark),
        2 => Just(Step::EndBatch),
        1 => Just(Step::EndSegment),
    ]
}

fn take_step(log: &mut TestLog, step: &Step) {
    match *step {
        Step::Write { disk, offset, len, byte } => {
            let room = log.models[&DiskNo(disk)].len().saturating_sub(offset as usize);
            let data: Vec<u8> = (0..len.min(room)).map(|n| byte ^ (n / 7) as u8).collect();
            if !data.is_empty() {
                log.write(disk, offset, &data);
            }
        }
        Step::Fill { disk, offset, len, undefined } => {
            let room = log.models[&DiskNo(disk)].len().saturating_sub(offset as usize) as u32;
            let kind = if undefined { WriteKind::Undefined } else { WriteKind::Zero };
            if room > 0 {
                log.fill(disk, offset, len.min(room), kind);
            }
        }
        Step::Resize { disk, sectors } => log.resize(disk, sectors * 512),
        Step::Mark => {
            log.mark();
        }
        Step::EndBatch => log.end_batch(),
        Step::EndSegment => {}
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_point_shows_exactly_the_writes_before_its_mark(steps in proptest::collection::vec(step(), 1..120)) {
        block_on(async {
            let mut log = TestLog::new(&[SECTORS * 512; 2]).await;
            for step in &steps {
                take_step(&mut log, step);
                if matches!(step, Step::EndSegment) {
                    log.record(Record::ActivityLogInvalid { disk: DiskNo(0) });
                    log.end_segment().await;
                }
            }
            log.mark();
            log.end_segment().await;
            check_points(&log.reader().await, &log.taken).await;
        });
    }
}

/// Two disks, four segments of writes and a mark each.
async fn small_log() -> TestLog {
    let mut log = TestLog::new(&[64 << 10, 128 << 10]).await;
    let mut rng = Seeded::new(3);
    for _ in 0..4 {
        for _ in 0..10 {
            let (disk, data) = (rng.0.random_range(0..2), vec![rng.0.random(); 4096]);
            log.write(disk, rng.0.random_range(0..15) * 4096, &data);
        }
        log.mark();
        log.end_segment().await;
    }
    log
}

#[tokio::test]
async fn the_tail_tells_an_owner_what_it_needs() {
    let mut log = small_log().await;
    let tail = find_tail(&*log.store, log.machine, log.timeline, &log.key, Slot(0)).await.expect("it is found");
    let expected = Tail {
        next: Slot(5),
        previous: log.chain.previous,
        state: log.state.clone(),
        highest_epoch: Epoch(1),
        last_owner: Some((Epoch(1), log.writer)),
    };
    assert_eq!(tail, expected);
    log.epoch = Epoch(9);
    log.control(Control::Fence).await;
    let tail = find_tail(&*log.store, log.machine, log.timeline, &log.key, Slot(3)).await.expect("it is found");
    assert_eq!((tail.next, tail.highest_epoch), (Slot(6), Epoch(9)));
    let other = TimelineId([9; 8]);
    let tail = find_tail(&*log.store, log.machine, other, &log.key, Slot(0)).await.expect("an empty log has an end");
    assert_eq!(tail, Tail::empty());
}

#[tokio::test]
async fn a_missing_slot_below_the_tail_is_damage_and_never_the_end() {
    let log = small_log().await;
    log.store.damage(&log.name(Slot(2)), None);
    let tail = find_tail(&*log.store, log.machine, log.timeline, &log.key, Slot(0)).await;
    let Err(ReadError::Damaged { object, damage: Damage::Missing }) = tail else { panic!("{tail:?}") };
    assert_eq!(object, log.name(Slot(2)));
    let beyond = find_tail(&*log.store, log.machine, log.timeline, &log.key, Slot(7)).await;
    assert!(matches!(beyond, Err(ReadError::Damaged { damage: Damage::Missing, .. })), "the floor was filled once");
}

#[tokio::test]
async fn a_reader_refreshes_to_what_was_added() {
    let mut log = small_log().await;
    let mut reader = log.reader().await;
    check_points(&reader, &log.taken).await;
    log.write(0, 0, &[0x5a; 512]);
    log.mark();
    log.end_segment().await;
    assert_eq!(reader.points().len(), 4);
    reader.refresh().await.expect("the store answers");
    check_points(&reader, &log.taken).await;
    let page = reader.page(None, 2);
    assert_eq!(page.points.iter().map(|p| p.lsn).collect::<Vec<_>>(), [log.taken[4].lsn, log.taken[3].lsn]);
    let rest = reader.page(page.next, 10);
    assert_eq!((rest.points.len(), rest.next), (3, None));
    assert_eq!(reader.point(log.taken[1].id).map(|p| p.slot), Some(log.taken[1].slot));
}

#[tokio::test]
async fn a_child_shows_its_parents_points_up_to_the_branch_and_then_its_own() {
    let mut parent = small_log().await;
    let mut child = parent.branch(TimelineId([0x72; 8])).await;
    parent.write(0, 0, &[1; 4096]);
    parent.mark();
    parent.end_segment().await;
    child.write(0, 0, &[2; 4096]);
    child.mark();
    child.end_segment().await;
    let mut grandchild = child.branch(TimelineId([0x73; 8])).await;
    grandchild.write(1, 4096, &[3; 4096]);
    grandchild.mark();
    grandchild.end_segment().await;
    for log in [&parent, &child, &grandchild] {
        let reader = log.reader().await;
        assert_eq!(reader.broken(), None);
        check_points(&reader, &log.taken).await;
    }
}

#[tokio::test]
async fn a_gap_takes_its_disk_out_of_the_points_and_leaves_the_other_in() {
    let mut log = small_log().await;
    let from = log.record(Record::CleanStop { captured_at: crate::ids::Timestamp(1) });
    log.record(Record::GapOpened { disk: DiskNo(1), from, reason: GapReason::Overload });
    log.write(0, 0, &[7; 512]);
    log.mark();
    log.record(Record::GapClosed { disk: DiskNo(1) });
    log.mark();
    log.end_segment().await;
    let points = log.reader().await.points();
    let disks: Vec<Vec<u16>> = points.iter().map(|p| p.disks.iter().map(|d| d.0).collect()).collect();
    assert_eq!(disks[4..], [vec![0], vec![0, 1]]);
    let reader = log.reader().await;
    let cache = Arc::new(FrameCache::new(1 << 20));
    let refused = Volume::of_point(&reader, &points[4], DiskNo(1), cache, limits());
    assert!(matches!(refused, Err(ReadError::NotCovered { .. })));
}

#[tokio::test]
async fn a_map_that_outgrows_its_budget_is_made_in_windows() {
    let mut log = TestLog::new(&[32 << 20]).await;
    let mut rng = Seeded::new(5);
    for _ in 0..3000 {
        let byte = rng.0.random();
        log.write(0, rng.0.random_range(0..(32 << 20) / 512) * 512, &[byte; 512]);
    }
    log.mark();
    log.end_segment().await;
    let reader = log.reader().await;
    let limits = VolumeLimits { map_bytes_max: 32 << 10, read_ahead_bytes: 1 << 20 };
    let cache = Arc::new(FrameCache::new(4 << 20));
    let volume = Volume::at(&reader, DiskNo(0), log.taken[0].lsn, cache, limits).expect("a point");
    let model = &log.taken[0].disks[&DiskNo(0)];
    for at in (0..model.len()).step_by(256 << 10) {
        let mut part = vec![0xee; 256 << 10];
        volume.read(at as u64, &mut part).await.expect("it reads");
        assert!(part == model[at..at + part.len()], "at {at}");
        assert!(volume.map_bytes() <= limits.map_bytes_max);
    }
}

#[tokio::test]
async fn what_was_brought_near_is_read_without_the_vault_and_what_rots_there_is_fetched_again() {
    let mut log = TestLog::new(&[4 << 20]).await;
    let mut rng = Seeded::new(6);
    for n in 0..1500 {
        let byte = rng.0.random();
        log.write(0, rng.0.random_range(0..(4 << 20) / 512) * 512, &[byte; 512]);
        if n % 100 == 99 {
            log.end_segment().await;
        }
    }
    log.mark();
    log.end_segment().await;
    let (reader, dir) = (log.reader().await, tempfile::tempdir().expect("a directory"));
    let open = |bytes_max| {
        let near = NearFrames::open(dir.path(), bytes_max, tokio::runtime::Handle::current()).expect("it opens");
        let frames = FrameCache::new(1).with_near(Some(Arc::new(near)));
        Volume::at(&reader, DiskNo(0), log.taken[0].lsn, Arc::new(frames), limits()).expect("a point")
    };
    let model = &log.taken[0].disks[&DiskNo(0)];
    let same = async |volume: &Volume| {
        let mut bytes = vec![0xee; model.len()];
        volume.read(0, &mut bytes).await.map(|()| bytes == *model)
    };
    let small = hydrate(&open(20 << 10), |_| ()).await.expect("it reads");
    assert!(small.full && !small.is_done() && small.fetched_bytes > 0, "{small:?}");
    let volume = open(1 << 30);
    let first = hydrate(&volume, |_| ()).await.expect("it reads");
    assert!(first.is_done() && first.fetched_bytes > 0, "{first:?}");
    let again = hydrate(&volume, |_| ()).await.expect("it reads");
    assert_eq!((again.is_done(), again.fetched_bytes), (true, 0));
    let mut files: Vec<_> =
        fs::read_dir(dir.path()).expect("it lists").map(|file| file.expect("a file").path()).collect();
    files.retain(|path| path.extension().is_none());
    assert_eq!(files.len(), 15, "a frame of each segment");
    for (n, path) in files.iter().enumerate() {
        let bytes = fs::read(path).expect("it reads");
        assert!(!bytes.windows(64).any(|part| part == [bytes[0]; 64]), "sealed, as in the vault");
        let rotten = if n % 2 == 0 { bytes[..bytes.len() / 2].to_vec() } else { vec![9; bytes.len()] };
        fs::write(path, rotten).expect("it rots");
    }
    assert!(same(&volume).await.expect("the vault has it"));
    assert!(same(&volume).await.expect("and now it is near again"));
    for line in log.store.list("machines/", None, 100).await.expect("it lists") {
        log.store.damage(&line.name, None);
    }
    assert!(same(&volume).await.expect("nothing but what is near"));
}

fn random_log_of_one_disk(log: &mut TestLog, rng: &mut Seeded) {
    for _ in 0..40 {
        let byte = rng.0.random();
        log.write(0, rng.0.random_range(0..1000) * 1024, &[byte; 2048]);
        log.fill(0, rng.0.random_range(0..1000) * 1024, 2048, WriteKind::Zero);
    }
    log.mark();
}

#[test]
fn a_served_point_reads_and_takes_writes_over_nbd_and_tells_its_holes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let (log, reader) = runtime.block_on(async {
        let mut log = TestLog::new(&[1 << 20]).await;
        random_log_of_one_disk(&mut log, &mut Seeded::new(11));
        log.end_segment().await;
        let reader = log.reader().await;
        (log, reader)
    });
    let dir = tempfile::tempdir().expect("a directory");
    let logger = slog::Logger::root(slog::Discard, slog::o!());
    let point = reader.newest().expect("a point");
    let cache = Arc::new(FrameCache::new(1 << 20));
    let volume = Volume::of_point(&reader, &point, DiskNo(0), cache, limits()).expect("it is covered");
    let export = |name: &str, overlay| {
        Arc::new(VolumeExport::new(volume.clone(), name, overlay, runtime.handle().clone(), &logger))
    };
    let server = NbdServer::bind_unix(&dir.path().join("nbd"), ServerOptions::default(), &logger).expect("it binds");
    let overlay = Overlay::create(dir.path(), 1 << 20).expect("an overlay");
    server.set_exports(vec![export("ro", None), export("rw", Some(overlay))]);
    let connect = |name: &str| {
        let uri = server.uri(name).parse().expect("a URI");
        NbdClient::connect(&uri, ClientOptions::default()).expect("it connects")
    };
    let (mut ro, mut rw) = (connect("ro"), connect("rw"));
    let model = &log.taken[0].disks[&DiskNo(0)];
    let mut out = vec![0xee; 1 << 20];
    ro.read(0, &mut out).expect("it reads");
    assert!(out == *model);
    assert!(ro.write(0, &[1; 512], false).is_err(), "a point is never written");

    let mut changed = model.clone();
    let mut rng = Seeded::new(12);
    for n in 0..60 {
        let (at, len) = (rng.0.random_range(0..2000_usize) * 512, rng.0.random_range(1..40_usize) * 512);
        let len = len.min((1 << 20) - at);
        match n % 3 {
            0 => rw.write_zeroes(at as u64, len as u32, ZeroFlags::default()).expect("it zeroes"),
            _ => rw.write(at as u64, &vec![n; len], false).expect("it writes"),
        }
        changed[at..at + len].fill(if n % 3 == 0 { 0 } else { n });
    }
    rw.read(0, &mut out).expect("it reads");
    assert!(out == changed);
    ro.read(0, &mut out).expect("it reads");
    assert!(out == *model, "the overlay is nobody else's");
    for (client, bytes) in [(&mut ro, model), (&mut rw, &changed)] {
        let mut at = 0;
        while at < 1 << 20 {
            for extent in client.block_status(at, (1 << 20) - at as u32).expect("it tells") {
                let part = &bytes[at as usize..(at + extent.len) as usize];
                assert!(!extent.zero || part.iter().all(|byte| *byte == 0), "zeroes at {at}");
                at += extent.len;
            }
        }
    }
    assert!(ro.block_status(0, 1 << 20).expect("it tells").iter().any(|extent| extent.hole));
    drop((ro, rw));
    assert!(server.shutdown(std::time::Duration::from_secs(10)));
}

#[tokio::test]
async fn a_restored_point_is_the_disks_and_nothing_is_written_over_without_force() {
    let mut log = TestLog::new(&[1 << 20, 4 << 20]).await;
    let mut rng = Seeded::new(21);
    random_log_of_one_disk(&mut log, &mut rng);
    log.write(1, 8192, &[9; 4096]);
    log.mark();
    log.end_segment().await;
    let reader = log.reader().await;
    let dir = tempfile::tempdir().expect("a directory");
    let point = reader.newest().expect("a point");
    let plan = restore::plan(&reader, point.clone(), &point.disks, dir.path()).await.expect("a plan");
    let seen = parking_lot::Mutex::new(Vec::new());
    plan.perform(false, &|progress| seen.lock().push(progress)).await.expect("it restores");
    let last = *seen.lock().last().expect("progress is told");
    assert_eq!((last.bytes_done, last.bytes_total), (plan.data_bytes(), plan.data_bytes()));
    let taken = log.taken.last().expect("a mark");
    for disk in &plan.disks {
        assert!(std::fs::read(&disk.target).expect("it is there") == taken.disks[&disk.disk.disk]);
    }
    let sparse = std::os::unix::fs::MetadataExt::blocks(&plan.disks[1].target.metadata().expect("it is there"));
    assert!(sparse * 512 < 1 << 20, "holes stay holes");

    let older = reader.points()[0].clone();
    let plan = restore::plan(&reader, older.clone(), &older.disks, dir.path()).await.expect("a plan");
    assert!(matches!(plan.perform(false, &|_| ()).await, Err(RestoreError::Exists(_))));
    plan.perform(true, &|_| ()).await.expect("it is told to");
    assert!(std::fs::read(&plan.disks[1].target).expect("it is there") == log.taken[0].disks[&DiskNo(1)]);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it lists").count(), 2, "nothing else is left");
}

#[tokio::test]
async fn a_restore_that_meets_damage_leaves_no_file() {
    let log = small_log().await;
    let reader = log.reader().await;
    let segment = reader.segments().last().expect("a segment");
    let (name, frame) = (log.name(segment.slot), segment.footer.frames[0]);
    let mut object = log.object(&name).await.to_vec();
    object[frame.offset as usize + 60] ^= 1;
    log.store.damage(&name, Some(object.into()));
    let dir = tempfile::tempdir().expect("a directory");
    let point = reader.newest().expect("a point");
    let plan = restore::plan(&reader, point.clone(), &point.disks, dir.path()).await.expect("a plan");
    let failed = plan.perform(false, &|_| ()).await;
    let Err(RestoreError::Read(ReadError::Damaged { object, .. })) = failed else { panic!("{failed:?}") };
    assert_eq!(object, name);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it lists").count(), 0);
}
