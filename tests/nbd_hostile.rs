//! Clients that mean harm, or are broken: whatever they send, they get an error or are closed; nothing panics, nothing hangs,
//! memory stays in bounds, and the next good client is served (I9, I10).

mod nbd_rig;

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use farshore_engine::nbd::{ClientOptions, NbdClient, NbdServer, ServerOptions};
use nbd_rig::{Disk, Rig, quiet};

/// Longest time until a connection has to be over.
const HANG: Duration = Duration::from_secs(20);

/// Panics of the server's own threads, in this process.
static SERVER_PANICS: AtomicUsize = AtomicUsize::new(0);

fn watch_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if std::thread::current().name().is_some_and(|name| name.starts_with("nbd-")) {
                SERVER_PANICS.fetch_add(1, Ordering::SeqCst);
            }
            before(panic);
        }));
    });
}

/// SplitMix64: every case follows from the seed.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        (0..self.below(len_max + 1)).map(|_| self.next() as u8).collect()
    }
}

fn hostile_rig() -> Rig {
    watch_for_panics();
    Rig::new(&[Disk::new("a", 1 << 20, 512), Disk { read_only: false, ..Disk::new("b", 1 << 20, 4096) }])
}

/// A connection to the server without the listening socket between.
fn connect(server: &NbdServer) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    ours.set_read_timeout(Some(HANG)).expect("set");
    ours.set_write_timeout(Some(HANG)).expect("set");
    server.adopt(theirs).expect("adopted");
    ours
}

fn wait_until_gone(server: &NbdServer, case: &str) {
    let until = Instant::now() + HANG;
    while server.connection_count() > 0 {
        assert!(Instant::now() < until, "{case}: the connection hangs");
        std::thread::yield_now();
    }
}

fn a_good_client_is_served(server: &NbdServer, case: &str) {
    let mut client = NbdClient::over(own_end(server), "a", ClientOptions::default()).expect(case);
    let (data, mut out) = ([0x42; 4096], [0; 4096]);
    client.write(8192, &data, true).expect(case);
    client.read(8192, &mut out).expect(case);
    assert_eq!(data, out, "{case}");
    client.disconnect().expect(case);
    wait_until_gone(server, case);
    assert_eq!(SERVER_PANICS.load(Ordering::SeqCst), 0, "{case}: a thread of the server panicked");
}

fn own_end(server: &NbdServer) -> UnixStream {
    connect(server)
}

/// Sends all of `bytes`, ends the sending side, and gives all that comes back. Fails when the server does not close in time.
fn exchange(server: &NbdServer, bytes: &[u8], case: &str) -> Vec<u8> {
    let stream = connect(server);
    let sender = stream.try_clone().expect("cloned");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The server may close in the middle: that is one of its answers.
            let _ = (&sender).write_all(bytes);
            let _ = sender.shutdown(Shutdown::Write);
        });
        let mut back = Vec::new();
        match (&stream).read_to_end(&mut back) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            Err(error) => panic!("{case}: {error} after {} bytes", back.len()),
        }
        back
    })
}

fn option(number: u32, data: &[u8]) -> Vec<u8> {
    [b"IHAVEOPT", &number.to_be_bytes()[..], &(data.len() as u32).to_be_bytes(), data].concat()
}

fn text(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn request(flags: u16, command: u16, cookie: u64, offset: u64, length: u32) -> Vec<u8> {
    let mut out = 0x2560_9513_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(command.to_be_bytes());
    out.extend(cookie.to_be_bytes());
    out.extend(offset.to_be_bytes());
    out.extend(length.to_be_bytes());
    out
}

/// Flags, structured replies, block status, GO: a handshake as it should be.
fn good_handshake(name: &str) -> Vec<u8> {
    let selection = [text(name.as_bytes()), 1_u32.to_be_bytes().to_vec(), text(b"base:allocation")].concat();
    let go = [text(name.as_bytes()), vec![0, 0]].concat();
    [3_u32.to_be_bytes().to_vec(), option(8, &[]), option(10, &selection), option(7, &go)].concat()
}

/// Options that are wrong in all ways that chance finds; gives how many.
fn hostile_options(chance: &mut Chance, out: &mut Vec<u8>) -> usize {
    let count = chance.below(8);
    for _ in 0..count {
        let number = chance.pick(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 77, u32::MAX]);
        // ABORT and EXPORT_NAME end the handshake: rarely, or nothing comes behind them.
        if number <= 2 && !chance.one_in(4) {
            continue;
        }
        let name = chance.pick(&["a", "b", "", "nobody", "a\0b", "../../etc/passwd"]);
        let mut data = match chance.below(6) {
            0 => vec![],
            1 => chance.bytes(64),
            2 => [text(name.as_bytes()), vec![0, 0]].concat(),
            3 => [text(name.as_bytes()), 1_u32.to_be_bytes().to_vec(), text(b"base:allocation")].concat(),
            4 => [text(name.as_bytes()), (chance.next() as u32).to_be_bytes().to_vec()].concat(),
            _ => [(chance.next() as u32).to_be_bytes().to_vec(), chance.bytes(32)].concat(),
        };
        if chance.one_in(5) && !data.is_empty() {
            let at = chance.below(data.len());
            data[at] ^= 1 << chance.below(8);
        }
        let mut bytes = option(number, &data);
        match chance.below(40) {
            // Lengths that lie.
            0 => bytes[12..16].copy_from_slice(&(chance.next() as u32).to_be_bytes()),
            1 => bytes[12..16].copy_from_slice(&100_000_u32.to_be_bytes()),
            2 => bytes[chance.below(8)] ^= 0x20,
            _ => {}
        }
        out.extend(bytes);
    }
    count
}

/// What a request stream must come to: the cookies that have to be answered, if the server gets to the end of it.
struct Sent {
    cookies: Vec<u64>,
    /// Whether the stream breaks off or breaks the protocol, after which nothing is owed.
    broken: bool,
}

fn hostile_requests(chance: &mut Chance, out: &mut Vec<u8>) -> Sent {
    let mut sent = Sent { cookies: Vec::new(), broken: false };
    for cookie in 0..chance.below(40) as u64 {
        let command = chance.pick(&[0, 0, 1, 1, 1, 3, 4, 5, 6, 7, 8, 9, 0xffff]);
        let flags = if chance.one_in(3) { chance.pick(&[1, 2, 4, 8, 16, 3, 18, 0x8000, 0xffff]) } else { 0 };
        let offset = match chance.below(4) {
            0 => chance.pick(&[u64::MAX, u64::MAX - 511, 1 << 63, (1 << 20) - 512, 1 << 20, 1]),
            1 => chance.next(),
            _ => chance.below(256) as u64 * 4096,
        };
        let length = match chance.below(8) {
            0 => chance.pick(&[0, 1, 511, u32::MAX, 1 << 31, (32 << 20) + 512, 32 << 20]),
            1 => chance.next() as u32 % 70_000,
            _ => chance.pick(&[512, 4096, 8192, 65536]),
        };
        // A write owes as many bytes as it says: long ones only now and then, and then not all of them.
        let owed = if command == 1 { length as usize } else { 0 };
        out.extend(request(flags, command, cookie, offset, length));
        if owed > 70_000 {
            out.extend(std::iter::repeat_n(7, 70_000));
            sent.broken = true;
            return sent;
        }
        out.extend(std::iter::repeat_n(7, owed));
        sent.cookies.push(cookie);
        match chance.below(200) {
            0 => {
                out.extend(chance.bytes(60));
                sent.broken = true;
                return sent;
            }
            1 => {
                let cut = chance.below(20);
                out.truncate(out.len() - cut.min(out.len()));
                sent.broken = true;
                return sent;
            }
            _ => {}
        }
    }
    if chance.one_in(2) {
        out.extend(request(0, 2, 999, 0, 0));
    }
    sent
}

/// Takes the handshake's answers off the front; `None` where it did not come to the end.
fn behind_handshake(back: &[u8]) -> Option<&[u8]> {
    let mut rest = back.get(18..)?;
    loop {
        let (head, behind) = rest.split_at_checked(20)?;
        assert_eq!(head[..8], 0x0003_e889_0455_65a9_u64.to_be_bytes(), "an option's reply");
        let field = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        rest = behind.get(field(16) as usize..)?;
        if field(8) == 7 && field(12) == 1 {
            return Some(rest);
        }
    }
}

/// Reads replies to the end, each whole, each of a request that was sent and has none yet; gives the answered cookies.
fn answered(mut rest: &[u8], case: &str) -> HashSet<u64> {
    let mut open: HashMap<u64, usize> = HashMap::new();
    let mut done = HashSet::new();
    while !rest.is_empty() {
        let number =
            |at: usize, len: usize| rest[at..at + len].iter().fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
        let (cookie, finished, bytes) = match number(0, 4) {
            0x6744_6698 => (number(8, 8), true, 16),
            0x668e_33ef => (number(8, 8), number(4, 2) & 1 == 1, 20 + number(16, 4) as usize),
            other => panic!("{case}: {other:#x} is no reply"),
        };
        assert!(bytes <= rest.len(), "{case}: a reply is cut");
        rest = &rest[bytes..];
        *open.entry(cookie).or_default() += 1;
        if finished {
            assert!(done.insert(cookie), "{case}: request {cookie} answered twice");
        }
    }
    assert!(open.keys().all(|cookie| done.contains(cookie)), "{case}: an answer without its end");
    done
}

#[test]
fn a_hundred_thousand_hostile_handshakes_and_requests_do_no_harm() {
    const SEED: u64 = 20_260_101;
    let rig = hostile_rig();
    let before = peak_bytes();
    let (mut cases, mut connections, mut finished) = (0, 0, 0);
    while cases < 100_000 {
        connections += 1;
        let case = format!("seed {SEED}, connection {connections}");
        let mut chance = Chance(SEED ^ (connections << 20));
        let mut bytes = Vec::new();
        if chance.one_in(3) {
            // A handshake gone wrong; what follows is taken for options.
            bytes.extend(chance.pick(&[3_u32, 3, 3, 1, 0, 4, u32::MAX]).to_be_bytes());
            cases += 1 + hostile_options(&mut chance, &mut bytes);
            cases += hostile_requests(&mut chance, &mut bytes).cookies.len();
            exchange(&rig.server, &bytes, &case);
        } else {
            bytes.extend(good_handshake(chance.pick(&["a", "b"])));
            let sent = hostile_requests(&mut chance, &mut bytes);
            cases += 1 + sent.cookies.len();
            let back = exchange(&rig.server, &bytes, &case);
            let replies = behind_handshake(&back).unwrap_or_else(|| panic!("{case}: a good handshake failed"));
            if !sent.broken {
                finished += 1;
                let expected: HashSet<_> = sent.cookies.iter().copied().collect();
                assert_eq!(answered(replies, &case), expected, "{case}: each request is answered once");
            }
        }
        if connections % 500 == 0 {
            wait_until_gone(&rig.server, &case);
            a_good_client_is_served(&rig.server, &case);
        }
    }
    wait_until_gone(&rig.server, "the last");
    a_good_client_is_served(&rig.server, "after all");
    assert!(finished > connections / 4, "{finished} of {connections} connections were served to their end");
    let grown = peak_bytes().saturating_sub(before);
    assert!(grown < 512 << 20, "memory grew by {} MiB", grown >> 20);
}

/// The most memory that this process ever had in use.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}

#[test]
fn named_attacks_are_answered_or_closed_and_leave_nothing_behind() {
    let rig = hostile_rig();
    let flags = 3_u32.to_be_bytes().to_vec();
    let behind = |bytes: &[u8]| [good_handshake("a"), bytes.to_vec()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("silence", vec![]),
        ("half the client's flags", vec![0, 0]),
        ("a web browser", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a TLS hello", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]),
        ("an option of 4 GiB", [flags.clone(), b"IHAVEOPT\0\0\0\x07\xff\xff\xff\xff".to_vec()].concat()),
        ("an option of 100,000 bytes", [flags.clone(), option(7, &vec![9; 100_000])].concat()),
        ("a name of 5000 bytes", [flags.clone(), option(1, &vec![b'x'; 5000])].concat()),
        ("a name that is no text", [flags.clone(), option(1, &[0xff, 0xfe])].concat()),
        ("five thousand lists", [flags.clone(), option(3, &[]).repeat(5000)].concat()),
        ("two billion queries", [flags.clone(), option(8, &[]), option(9, b"\0\0\0\x01a\x7f\xff\xff\xff")].concat()),
        ("a name longer than its option", [flags.clone(), option(7, &[0xff; 4])].concat()),
        ("STARTTLS, then as if it had worked", [flags, option(5, &[]), vec![0x16, 3, 1]].concat()),
        ("a request without magic", behind(&[0; 28])),
        ("half a request", behind(&request(0, 0, 1, 0, 512)[..13])),
        ("a write of 4 GiB without its bytes", behind(&request(0, 1, 1, 0, u32::MAX))),
        ("a read of 4 GiB", behind(&request(0, 0, 1, 0, u32::MAX))),
        ("a trim that ends past 2^64", behind(&request(0, 4, 1, u64::MAX - 4095, 4096))),
        ("a write whose bytes do not come", behind(&request(0, 1, 1, 0, 65536))),
        ("a request behind the goodbye", behind(&[request(0, 2, 1, 0, 0), request(0, 0, 2, 0, 512)].concat())),
        ("ten thousand flushes", behind(&request(0, 3, 1, 0, 0).repeat(10_000))),
        ("ten thousand reads", behind(&request(0, 0, 1, 0, 4096).repeat(10_000))),
    ];
    for (case, bytes) in &cases {
        exchange(&rig.server, bytes, case);
        wait_until_gone(&rig.server, case);
        a_good_client_is_served(&rig.server, case);
    }
}

#[test]
fn a_client_that_asks_and_never_listens_holds_up_only_itself() {
    let rig = hostile_rig();
    let mut deaf = connect(&rig.server);
    deaf.set_write_timeout(Some(Duration::from_millis(300))).expect("set");
    deaf.write_all(&good_handshake("a")).expect("sent");
    let before = peak_bytes();
    let asks = request(0, 0, 1, 0, 1 << 20).repeat(1000);
    // It gets stuck once the server is: its own replies fill its own socket, and 1000 MiB of them are not kept for it.
    let stuck = (0..200).any(|_| deaf.write_all(&asks).is_err());
    assert!(stuck, "5 MiB of requests for 195 GiB were all taken");
    a_good_client_beside(&rig.server);
    assert!(peak_bytes() - before < 256 << 20, "replies that nobody takes are not piled up");
    drop(deaf);
    wait_until_gone(&rig.server, "the deaf client left");
    a_good_client_is_served(&rig.server, "after the deaf client");
}

fn a_good_client_beside(server: &NbdServer) {
    let mut client = NbdClient::over(connect(server), "a", ClientOptions::default()).expect("connects");
    client.write(0, &[1; 512], false).expect("served");
    client.disconnect().expect("leaves");
}

#[test]
fn clients_that_open_and_stay_are_bounded_in_number_and_time() {
    watch_for_panics();
    let dir = tempfile::tempdir().expect("a directory");
    let options = ServerOptions { handshake_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = NbdServer::bind_unix(&dir.path().join("s.sock"), options, &quiet()).expect("listens");
    let rig = hostile_rig();
    server.set_exports(vec![rig.export(&Disk::new("c", 1 << 20, 512))]);
    let silent: Vec<_> = (0..200).map(|_| connect(&server)).collect();
    assert!(server.connection_count() <= 64, "{} connections", server.connection_count());
    // A byte now and then does not buy more time.
    let until = Instant::now() + HANG;
    while server.connection_count() > 0 {
        assert!(Instant::now() < until, "silent clients are closed in time");
        for mut stream in &silent {
            // Closed ones cannot be written to.
            let _ = stream.write_all(&[0]);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = NbdClient::over(connect(&server), "c", ClientOptions::default()).expect("connects");
    client.flush().expect("served");
    assert_eq!(SERVER_PANICS.load(Ordering::SeqCst), 0);
}
