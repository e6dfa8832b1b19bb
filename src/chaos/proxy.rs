//! A TCP proxy that misbehaves on demand. It stands between members of an installation, knows nothing of what they say, and
//! does to their bytes what networks do.
//!
//! ```text
//!   connecting side ──► [listener] ──up──►  target, which may move or be unknown
//!                                  ◄─down─
//!   each way:  read ─► queue (each piece with the time it is due) ─► wait: due? held? rate ─► write
//! ```
//!
//! Held bytes are not lost: TCP would send them again, so they flow once the way is free. A link that has no target yet
//! resets. Bounds: each way of a connection holds at most [`QUEUE_PIECES`] pieces of [`PIECE_BYTES`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes read at a time.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that wait in one direction. Chosen: with 16 KiB they carry 4 MiB/s over a delay of 250 ms.
const QUEUE_PIECES: usize = 64;

/// What a link does to what it carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weather {
    /// How much later everything arrives, each way.
    pub(crate) latency: Duration,
    /// Bytes a second, each way; `None`: as fast as it goes.
    pub(crate) bytes_per_second: Option<u64>,
    /// What the connecting side says is held.
    pub(crate) up_held: bool,
    /// What the listening side says is held.
    pub(crate) down_held: bool,
    /// Connections are reset.
    pub(crate) refuses: bool,
}

/// What a link has carried.
#[derive(Debug, Default)]
struct Counts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

/// Everything that a link's connections look at.
struct Shared {
    target: watch::Sender<Option<SocketAddr>>,
    weather: watch::Sender<Weather>,
    /// Counts resets: a connection ends when it changes.
    resets: watch::Sender<u64>,
    counts: Counts,
}

/// See the module. Ends when it is dropped.
pub(crate) struct Proxy {
    /// What the scenario calls it.
    pub(crate) name: String,
    address: SocketAddr,
    shared: Arc<Shared>,
    accepts: JoinHandle<()>,
}

impl Proxy {
    /// A link that leads nowhere yet, on a free port of this address of the host.
    pub(crate) fn start(name: String, at: Ipv4Addr, runtime: &Handle) -> io::Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((at, 0)))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target: watch::Sender::new(None),
            weather: watch::Sender::new(Weather::default()),
            resets: watch::Sender::new(0),
            counts: Counts::default(),
        });
        let accepts = runtime.spawn(accept(listener, shared.clone()));
        Ok(Self { name, address, shared, accepts })
    }

    /// Where the connecting side finds it.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it leads from now on. Connections to another target are reset, as they would be where it has gone.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        if self.shared.target.send_replace(Some(target)) != Some(target) {
            self.reset();
        }
    }

    /// What it does from now on.
    pub(crate) fn set(&self, weather: Weather) {
        self.shared.weather.send_replace(weather);
        if weather.refuses {
            self.reset();
        }
    }

    /// Ends every connection with a reset.
    pub(crate) fn reset(&self) {
        self.shared.resets.send_modify(|count| *count += 1);
    }

    /// Connections and bytes that it has carried.
    pub(crate) fn carried(&self) -> (u64, u64) {
        (self.shared.counts.connections.load(Relaxed), self.shared.counts.bytes.load(Relaxed))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
        self.reset();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(carry(stream, shared.clone()));
            }
            // Out of descriptors: try again when some may be free.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One connection, from its beginning to its end.
async fn carry(near: TcpStream, shared: Arc<Shared>) {
    let resets = shared.resets.subscribe();
    let target = *shared.target.borrow();
    let weather = *shared.weather.borrow();
    let far = match target {
        Some(target) if !weather.refuses => TcpStream::connect(target).await.ok(),
        _ => None,
    };
    let Some(far) = far else {
        // A peer that is gone already cannot be told.
        let _ = near.set_zero_linger();
        return;
    };
    shared.counts.connections.fetch_add(1, Relaxed);
    for stream in [&near, &far] {
        // Only latency suffers without it.
        let _ = stream.set_nodelay(true);
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let up = Flow { read: near_read, write: far_write, held: |weather| weather.up_held, shared: shared.clone() };
    let down = Flow { read: far_read, write: near_write, held: |weather| weather.down_held, shared };
    tokio::join!(up.run(resets.clone()), down.run(resets));
}

/// One direction of a connection.
struct Flow {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    held: fn(&Weather) -> bool,
    shared: Arc<Shared>,
}

impl Flow {
    async fn run(self, mut resets: watch::Receiver<u64>) {
        let Self { read, mut write, held, shared } = self;
        let (queue, pieces) = mpsc::channel(QUEUE_PIECES);
        let both = async { tokio::join!(fill(read, queue, shared.clone()), drain(pieces, &mut write, held, &shared)) };
        tokio::select! {
            ((), ()) = both => {}
            _ = resets.changed() => {
                // Where it fails the end is a plain one.
                let _ = write.as_ref().set_zero_linger();
                // Dropped it would say goodbye.
                write.forget();
            }
        }
    }
}

/// Writes what is due, unless it is held.
async fn drain(
    mut pieces: mpsc::Receiver<(Instant, Vec<u8>)>,
    write: &mut OwnedWriteHalf,
    held: fn(&Weather) -> bool,
    shared: &Shared,
) {
    let mut weather = shared.weather.subscribe();
    while let Some((due, piece)) = pieces.recv().await {
        tokio::time::sleep_until(due).await;
        if weather.wait_for(|weather| !held(weather)).await.is_err() {
            return;
        }
        shared.counts.bytes.fetch_add(piece.len() as u64, Relaxed);
        if write.write_all(&piece).await.is_err() {
            return;
        }
        let rate = weather.borrow().bytes_per_second;
        if let Some(rate) = rate {
            tokio::time::sleep(Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64)).await;
        }
    }
    // The end of the stream is a word like any other: it waits while the way is held.
    if weather.wait_for(|weather| !held(weather)).await.is_ok() {
        // A peer that is gone needs no end.
        let _ = write.shutdown().await;
    }
}

async fn fill(mut read: OwnedReadHalf, queue: mpsc::Sender<(Instant, Vec<u8>)>, shared: Arc<Shared>) {
    loop {
        let mut piece = vec![0; PIECE_BYTES];
        match read.read(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(bytes) => piece.truncate(bytes),
        }
        let latency = shared.weather.borrow().latency;
        if queue.send((Instant::now() + latency, piece)).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;

    struct Rig {
        proxy: Proxy,
        near: TcpStream,
        far: TcpStream,
        _runtime: tokio::runtime::Runtime,
    }

    fn rig() -> Rig {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let proxy = Proxy::start("x".into(), Ipv4Addr::LOCALHOST, runtime.handle()).expect("a proxy");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        proxy.lead_to(listener.local_addr().expect("an address"));
        let near = TcpStream::connect(proxy.address()).expect("the proxy answers");
        let (far, _) = listener.accept().expect("it connects");
        let patience = Some(Duration::from_secs(20));
        near.set_read_timeout(patience).expect("set");
        far.set_read_timeout(patience).expect("set");
        Rig { proxy, near, far, _runtime: runtime }
    }

    fn arrives(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
        from.write_all(text).expect("sent");
        let mut got = vec![0; text.len()];
        to.read_exact(&mut got).expect("arrives");
        assert_eq!(got, text);
    }

    fn nothing_arrives(to: &mut TcpStream) {
        to.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
        let error = to.read(&mut [0]).expect_err("nothing arrives");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        to.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    }

    #[test]
    fn bytes_pass_both_ways_and_late_where_the_link_is_slow() {
        let Rig { proxy, mut near, mut far, _runtime } = rig();
        arrives(&mut near, &mut far, b"up");
        arrives(&mut far, &mut near, b"down");
        proxy.set(Weather { latency: Duration::from_millis(200), ..Weather::default() });
        let begun = Instant::now();
        arrives(&mut near, &mut far, b"late");
        assert!(begun.elapsed() >= Duration::from_millis(190));
        let rate = Weather { bytes_per_second: Some(64 << 10), ..Weather::default() };
        proxy.set(rate);
        let begun = Instant::now();
        arrives(&mut near, &mut far, &vec![7; 48 << 10]);
        assert!(begun.elapsed() >= Duration::from_millis(400), "48 KiB at 64 KiB/s, the last piece not waited for");
        assert!(proxy.carried().1 >= 48 << 10);
    }

    #[test]
    fn a_black_hole_holds_everything_and_gives_it_back_once_it_closes() {
        let Rig { proxy, mut near, mut far, _runtime } = rig();
        proxy.set(Weather { up_held: true, down_held: true, ..Weather::default() });
        near.write_all(b"held").expect("sent");
        far.write_all(b"too").expect("sent");
        nothing_arrives(&mut far);
        nothing_arrives(&mut near);
        proxy.set(Weather::default());
        let mut got = [0; 4];
        far.read_exact(&mut got).expect("arrives");
        assert_eq!(&got, b"held");
    }

    #[test]
    fn a_half_open_link_carries_one_way() {
        let Rig { proxy, mut near, mut far, _runtime } = rig();
        proxy.set(Weather { down_held: true, ..Weather::default() });
        arrives(&mut near, &mut far, b"up");
        far.write_all(b"down").expect("sent");
        nothing_arrives(&mut near);
    }

    #[test]
    fn a_reset_ends_what_is_there_and_a_refusal_what_comes() {
        let Rig { proxy, mut near, mut far, _runtime } = rig();
        proxy.reset();
        for end in [&mut near, &mut far] {
            let error = end.read(&mut [0]).expect_err("reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        proxy.set(Weather { refuses: true, ..Weather::default() });
        let mut next = TcpStream::connect(proxy.address()).expect("the listener is there");
        assert_eq!(next.read(&mut [0]).expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
    }
}
