use std::os::unix::net::UnixStream;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc;

use bytes::Bytes;

use super::*;
use crate::nbd::client::{ClientError, ClientOptions, NbdClient};
use crate::nbd::export::{ExportInfo, NbdError, Op, StatusExtent, ZeroFlags};

const SIZE: usize = 8 << 20;

/// A disk in memory whose slow calls wait at a gate, and that panics when it is trimmed.
struct Gated {
    name: &'static str,
    bytes: Mutex<Vec<u8>>,
    quick: bool,
    open: Mutex<bool>,
    opened: Condvar,
    inside: AtomicUsize,
    inside_max: AtomicUsize,
}

impl Gated {
    fn new(name: &'static str, quick: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            bytes: Mutex::new(vec![0; SIZE]),
            quick,
            open: Mutex::new(true),
            opened: Condvar::new(),
            inside: AtomicUsize::new(0),
            inside_max: AtomicUsize::new(0),
        })
    }

    fn set_open(&self, open: bool) {
        *self.open.lock() = open;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.inside_max.fetch_max(inside, Ordering::SeqCst);
        let mut open = self.open.lock();
        while !*open {
            self.opened.wait(&mut open);
        }
        drop(open);
        self.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Export for Gated {
    fn info(&self) -> ExportInfo {
        ExportInfo::full(self.name, SIZE as u64, 512)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), NbdError> {
        let at = offset as usize;
        out.copy_from_slice(&self.bytes.lock()[at..at + out.len()]);
        Ok(())
    }
    fn write(&self, offset: u64, data: Bytes, _: bool) -> Result<(), NbdError> {
        if !self.quick {
            self.pass();
        }
        let at = offset as usize;
        self.bytes.lock()[at..at + data.len()].copy_from_slice(&data);
        Ok(())
    }
    fn flush(&self) -> Result<(), NbdError> {
        self.pass();
        Ok(())
    }
    fn trim(&self, _: u64, _: u32, _: bool) -> Result<(), NbdError> {
        panic!("an export that panics, on purpose");
    }
    fn write_zeroes(&self, _: u64, _: u32, _: ZeroFlags) -> Result<(), NbdError> {
        Err(NbdError::NoSpace("full".into()))
    }
    fn block_status(&self, offset: u64, len: u32, _: usize) -> Result<Vec<StatusExtent>, NbdError> {
        // The second half of the disk is a hole.
        let left = (SIZE as u64 / 2).saturating_sub(offset).min(len.into());
        let data = StatusExtent { len: left, hole: false, zero: false };
        let hole = StatusExtent { len: u64::from(len) - left, hole: true, zero: true };
        Ok([data, hole].into_iter().filter(|extent| extent.len > 0).collect())
    }
    fn is_quick(&self, op: &Op) -> bool {
        self.quick && matches!(op, Op::Write { .. } | Op::Trim { .. })
    }
}

fn logger() -> Logger {
    Logger::root(slog::Discard, o!())
}

struct Rig {
    dir: tempfile::TempDir,
    server: NbdServer,
}

impl Rig {
    fn new(options: ServerOptions, exports: Vec<Arc<dyn Export>>) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let server = NbdServer::bind_unix(&dir.path().join("s.sock"), options, &logger()).expect("listens");
        server.set_exports(exports);
        Self { dir, server }
    }

    fn client(&self, name: &str) -> Result<NbdClient, ClientError> {
        NbdClient::connect(&self.server.uri(name).parse().expect("a URI"), ClientOptions::default())
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < until, "not within 20 s: {what}");
        thread::yield_now();
    }
}

#[test]
fn what_a_client_writes_it_reads_whole_and_in_chunks_with_and_without_structured_replies() {
    let rig = Rig::new(ServerOptions::default(), vec![Gated::new("d", true)]);
    let data: Vec<u8> = (0..SIZE / 2).map(|n| (n / 511) as u8).collect();
    for structured in [true, false] {
        let uri = rig.server.uri("d").parse().expect("a URI");
        let options = ClientOptions { structured, ..Default::default() };
        let mut client = NbdClient::connect(&uri, options).expect("connects");
        client.write(0, &data, true).expect("writes");
        client.flush().expect("flushes");
        let mut out = vec![1; SIZE];
        client.read(0, &mut out).expect("reads");
        assert_eq!(out[..SIZE / 2], data);
        assert!(out[SIZE / 2..].iter().all(|byte| *byte == 0));
        assert_eq!(client.can_status(), structured);
        if structured {
            let half = |hole| StatusExtent { len: SIZE as u64 / 2, hole, zero: hole };
            assert_eq!(client.block_status(0, SIZE as u32).expect("tells"), [half(false), half(true)]);
        }
        let full = client.write_zeroes(0, 512, ZeroFlags::default());
        assert!(matches!(full, Err(ClientError::Refused(NbdError::NoSpace(_)))));
        client.read(512, &mut out[..512]).expect("an error ends a request, not the connection");
        client.disconnect().expect("leaves");
    }
}

#[test]
fn a_slow_request_does_not_hold_up_quick_ones_behind_it() {
    let disk = Gated::new("d", true);
    let rig = Rig::new(ServerOptions::default(), vec![disk.clone()]);
    disk.set_open(false);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    rig.server.adopt(theirs).expect("adopted");
    let mut raw = super::super::tests::RawClient::open(ours, "d", false);
    raw.request(3, 0, 1, 0, 0, &[]);
    raw.request(1, 0, 2, 0, 512, &[9; 512]);
    assert_eq!(raw.simple_reply(), (0, 2), "the write overtakes the flush");
    disk.set_open(true);
    assert_eq!(raw.simple_reply(), (0, 1));
}

#[test]
fn a_stop_answers_what_was_taken_and_nothing_more() {
    let disk = Gated::new("d", false);
    let rig = Rig::new(ServerOptions::default(), vec![disk.clone()]);
    disk.set_open(false);
    let mut client = rig.client("d").expect("connects");
    let writing = thread::spawn(move || (client.write(0, &[5; 4096], false), client.flush()));
    eventually("the write is inside", || disk.inside.load(Ordering::SeqCst) == 1);
    let path = rig.dir.path().join("s.sock");
    let server = rig.server;
    let stopping = thread::spawn(move || server.shutdown(Duration::from_secs(20)));
    eventually("the socket file is gone", || !path.exists());
    disk.set_open(true);
    let (write, flush) = writing.join().expect("no panic");
    assert!(write.is_ok(), "the write was taken before the stop: {write:?}");
    assert!(matches!(flush, Err(ClientError::Broken(_))), "the flush came after it: {flush:?}");
    assert!(stopping.join().expect("no panic"), "all ended by itself");
}

#[test]
fn a_stop_does_not_wait_for_a_stuck_request_beyond_its_deadline() {
    let disk = Gated::new("d", false);
    let rig = Rig::new(ServerOptions::default(), vec![disk.clone()]);
    disk.set_open(false);
    let mut client = rig.client("d").expect("connects");
    let writing = thread::spawn(move || client.write(0, &[5; 4096], false));
    eventually("the write is inside", || disk.inside.load(Ordering::SeqCst) == 1);
    assert!(!rig.server.shutdown(Duration::from_millis(20)));
    assert!(matches!(writing.join().expect("no panic"), Err(ClientError::Broken(_))));
    disk.set_open(true);
}

#[test]
fn clients_of_an_export_that_is_taken_away_are_let_go_and_the_others_stay() {
    let (a, b) = (Gated::new("a", true), Gated::new("b", true));
    let rig = Rig::new(ServerOptions::default(), vec![a.clone(), b]);
    let (mut on_a, mut on_b) = (rig.client("a").expect("connects"), rig.client("b").expect("connects"));
    rig.server.set_exports(vec![a, Gated::new("c", true)]);
    eventually("one connection is gone", || rig.server.connection_count() == 1);
    on_a.write(0, &[1; 512], false).expect("stays");
    assert!(matches!(on_b.write(0, &[1; 512], false), Err(ClientError::Broken(_))));
    assert!(matches!(rig.client("b"), Err(ClientError::TurnedDown { .. })));
    rig.client("c").expect("a new export is there at once");
}

#[test]
fn a_dead_servers_socket_is_taken_over_a_living_ones_never() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s.sock");
    drop(UnixListener::bind(&path).expect("listens, and leaves its file behind"));
    let bind = || NbdServer::bind_unix(&path, ServerOptions::default(), &logger());
    let first = bind().expect("takes over");
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert!(matches!(bind(), Err(BindError::InUse { .. })));
    drop(first);
    assert!(!path.exists(), "a stopped server takes its file along");
    std::fs::write(&path, "precious").expect("a file");
    assert!(matches!(bind(), Err(BindError::NotASocket { .. })));
    assert_eq!(std::fs::read(&path).expect("still there"), b"precious");
}

#[test]
fn only_loopback_is_served_over_tcp() {
    let bind = |addr: &str| NbdServer::bind_tcp(addr.parse().expect("an address"), ServerOptions::default(), &logger());
    assert!(matches!(bind("0.0.0.0:0"), Err(BindError::NotLoopback { .. })));
    let server = bind("127.0.0.1:0").expect("listens");
    server.set_exports(vec![Gated::new("d", true)]);
    let uri = server.uri("d").parse().expect("a URI");
    let mut client = NbdClient::connect(&uri, ClientOptions::default()).expect("connects");
    client.write(512, &[3; 512], false).expect("writes");
    assert!(server.shutdown(Duration::from_secs(20)));
}

#[test]
fn a_connection_too_many_is_closed_and_served_once_another_left() {
    let rig = Rig::new(ServerOptions { connections_max: 2, ..Default::default() }, vec![Gated::new("d", true)]);
    let first = rig.client("d").expect("connects");
    let _second = rig.client("d").expect("connects");
    assert!(matches!(rig.client("d"), Err(ClientError::Broken(_))));
    first.disconnect().expect("leaves");
    eventually("the place is free", || rig.server.connection_count() == 1);
    rig.client("d").expect("connects");
}

#[test]
fn a_client_that_never_finishes_its_handshake_is_closed_in_time() {
    let options = ServerOptions { handshake_timeout: Duration::from_millis(50), ..Default::default() };
    let rig = Rig::new(options, vec![Gated::new("d", true)]);
    let (_ours, theirs) = UnixStream::pair().expect("a pair");
    rig.server.adopt(theirs).expect("adopted");
    eventually("closed", || rig.server.connection_count() == 0);
}

#[test]
fn an_export_that_panics_ends_its_connection_and_nothing_else() {
    for quick in [true, false] {
        let rig = Rig::new(ServerOptions::default(), vec![Gated::new("d", quick)]);
        let mut other = rig.client("d").expect("connects");
        let mut client = rig.client("d").expect("connects");
        assert!(matches!(client.trim(0, 512, false), Err(ClientError::Broken(_))));
        eventually("its place is free", || rig.server.connection_count() == 1);
        other.write(0, &[1; 512], false).expect("goes on");
    }
}

#[test]
fn requests_in_flight_are_bounded_in_bytes_and_in_threads() {
    let disk = Gated::new("d", false);
    let options = ServerOptions { in_flight_bytes_max: 4 << 20, workers_max: 3, ..Default::default() };
    let rig = Rig::new(options, vec![disk.clone()]);
    disk.set_open(false);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_write_timeout(Some(Duration::from_secs(20))).expect("set");
    rig.server.adopt(theirs).expect("adopted");
    let mut raw = super::super::tests::RawClient::open(ours, "d", false);
    let (sent, written) = mpsc::channel();
    let mut sender = raw.sender();
    let sending = thread::spawn(move || {
        for cookie in 0..32 {
            sender.request(1, 0, cookie, 0, 1 << 20, &vec![1; 1 << 20]);
            // The receiver may have seen enough.
            let _ = sent.send(cookie);
        }
    });
    // What the server takes (4 MiB queued) and what buffers hold; not all 32 MiB.
    let taken = std::iter::from_fn(|| written.recv_timeout(Duration::from_millis(500)).ok()).count();
    assert!((2..=8).contains(&taken), "{taken} of 32 writes of 1 MiB taken");
    assert_eq!(disk.inside_max.load(Ordering::SeqCst), 3, "as many as there are workers");
    disk.set_open(true);
    let mut cookies: Vec<_> = (0..32).map(|_| raw.simple_reply()).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..32).map(|cookie| (0, cookie)).collect::<Vec<_>>());
    sending.join().expect("no panic");
}
