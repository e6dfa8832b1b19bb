use std::path::{Path, PathBuf};
use std::sync::Arc;

use slog::{Logger, o};

use super::*;
use crate::nbd::{BackingDisk, BackingOptions, Export, FileExport, NbdServer, ServerOptions};
use crate::oracle::check::{Bounds, Subject, check};
use crate::oracle::image::DiskImage;
use crate::oracle::journal::Event;

struct Rig {
    dir: tempfile::TempDir,
    server: Option<NbdServer>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        for disk in 0..2 {
            let file = std::fs::File::create(dir.path().join(format!("d{disk}.img"))).expect("a file");
            file.set_len(4 << 20).expect("sized");
        }
        let mut rig = Self { dir, server: None };
        rig.serve();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn serve(&mut self) {
        let logger = Logger::root(slog::Discard, o!());
        let server = NbdServer::bind_unix(&self.path("s.sock"), ServerOptions::default(), &logger).expect("listens");
        let export = |disk: u16| {
            let disk_file = self.path(&format!("d{disk}.img"));
            let disk_file = BackingDisk::open(&disk_file, BackingOptions::default()).expect("opens");
            Arc::new(FileExport::new(format!("d{disk}"), Arc::new(disk_file))) as Arc<dyn Export>
        };
        server.set_exports(vec![export(0), export(1)]);
        self.server = Some(server);
    }

    fn plan(&self) -> Workload {
        let server = self.server.as_ref().expect("serves");
        let uris = (0..2).map(|disk| server.uri(&format!("d{disk}")).parse().expect("a URI")).collect();
        Workload {
            connections: 3,
            zero_percent: 5,
            trim_percent: 5,
            read_percent: 10,
            fua_percent: 1,
            ..Workload::new(uris)
        }
    }

    fn check(&self, journal: &Path) -> crate::oracle::Findings {
        let history = History::read(journal).expect("a whole journal");
        let mut disks: Vec<_> =
            (0..2).map(|disk| DiskImage::open(&self.path(&format!("d{disk}.img"))).expect("opens")).collect();
        let mut subjects: Vec<_> = disks.iter_mut().map(|image| Subject { image, base: None }).collect();
        let bounds = Bounds { at_least_seq: Some(u64::MAX), ..Bounds::default() };
        check(&history, &mut subjects, &bounds).expect("runs")
    }
}

fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_micros() as i64)
}

#[test]
fn what_a_workload_wrote_is_found_whole_with_every_pattern() {
    for pattern in [Pattern::Random, Pattern::Hot, Pattern::Sequential] {
        let rig = Rig::new();
        let plan = Workload { pattern, writes: Some(2000), flush_every: 100, ..rig.plan() };
        let path = rig.path("journal");
        let journal = Journal::create(&path, header(&plan).expect("known")).expect("created");
        let report = run(&plan, &journal, None, &now, &AtomicBool::new(false)).expect("runs");
        assert!(report.writes > 1500 && report.reads > 50 && report.flushes > 5, "{report:?}");
        let found = rig.check(&path);
        assert!(found.is_consistent(), "{pattern:?}: {:?}", found.violations);
        assert!(found.stamped_blocks > 100);
    }
}

#[test]
fn a_workload_goes_on_when_the_server_comes_back_and_all_it_was_told_is_there() {
    let mut rig = Rig::new();
    let plan = Workload { writes: Some(4000), ..rig.plan() };
    let path = rig.path("journal");
    let journal = Journal::create(&path, header(&plan).expect("known")).expect("created");
    let report = thread::scope(|scope| {
        let running = scope.spawn(|| run(&plan, &journal, None, &now, &AtomicBool::new(false)));
        for seq in [500, 1500, 2500] {
            let until = Instant::now() + Duration::from_secs(30);
            while journal.next_seq() < seq && Instant::now() < until {
                thread::yield_now();
            }
            // Not gracefully: requests in flight lose their answers.
            drop(rig.server.take());
            rig.serve();
        }
        running.join().expect("no panic")
    });
    let report = report.expect("reconnects");
    assert!(report.reconnects >= 3, "{report:?}");
    let found = rig.check(&path);
    assert!(found.is_consistent(), "{:?}", found.violations);
}

#[test]
fn a_resumed_workload_settles_what_was_left_unanswered_and_goes_on() {
    let rig = Rig::new();
    let plan = Workload { writes: Some(300), ..rig.plan() };
    let path = rig.path("journal");
    let header = header(&plan).expect("known");
    let journal = Journal::create(&path, header.clone()).expect("created");
    run(&plan, &journal, None, &now, &AtomicBool::new(false)).expect("runs");
    let left = Event::Submitted { kind: WriteKind::Stamped, disk: 1, block: 17, blocks: 2 };
    let seq = journal.submit(left, now()).expect("appended");
    drop(journal);
    let (journal, earlier) = Journal::resume(&path, header).expect("resumed");
    let report = run(&plan, &journal, Some(&earlier), &now, &AtomicBool::new(false)).expect("runs");
    assert_eq!(report.settled_writes, 1);
    assert!(report.last_seq > seq + 100);
    let found = rig.check(&path);
    assert!(found.is_consistent(), "{:?}", found.violations);
    assert_eq!(History::read(&path).expect("whole").unanswered().count(), 0);
}

#[test]
fn a_workload_whose_server_stays_away_gives_up_in_time() {
    let mut rig = Rig::new();
    let plan = Workload { reconnect: Duration::from_millis(50), ..rig.plan() };
    let header = header(&plan).expect("known");
    let journal = Journal::create(&rig.path("journal"), header).expect("created");
    drop(rig.server.take());
    let result = run(&plan, &journal, None, &now, &AtomicBool::new(false));
    assert!(matches!(result, Err(WorkloadError::Unreachable { .. })), "{result:?}");
}

#[test]
fn a_block_that_reads_wrong_while_it_is_served_ends_the_workload() {
    let rig = Rig::new();
    let plan = Workload { writes: Some(200), zero_percent: 0, trim_percent: 0, span_bytes: 65536, ..rig.plan() };
    let path = rig.path("journal");
    let header = header(&plan).expect("known");
    let journal = Journal::create(&path, header.clone()).expect("created");
    run(&plan, &journal, None, &now, &AtomicBool::new(false)).expect("runs");
    drop(journal);
    let file = std::fs::OpenOptions::new().write(true).open(rig.path("d0.img")).expect("opens");
    std::os::unix::fs::FileExt::write_all_at(&file, &vec![0; 65536], 0).expect("behind the server's back");
    let (journal, earlier) = Journal::resume(&path, header).expect("resumed");
    let plan = Workload { read_percent: 100, ..plan };
    let result = run(&plan, &journal, Some(&earlier), &now, &AtomicBool::new(false));
    assert!(matches!(result, Err(WorkloadError::WrongRead { disk: 0, .. })), "{result:?}");
}
