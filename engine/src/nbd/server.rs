//! The server: listens on one unix socket or loopback address, and serves a set of exports that may change at any time.
//!
//! ```text
//!   bound ─► accepting ─► stopping (no new connection, no new request; those taken are done and answered) ─► gone
//! ```
//!
//! Bounds: [`ServerOptions`]. Crash story: a socket file that nobody listens on is taken over at the next bind; one that
//! somebody listens on never is.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, RwLock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use slog::{Logger, debug, info, o, warn};

use super::connection::{self, ConnectionLimits};
use super::export::Export;
use super::handshake;
use super::request::Terms;
use super::socket::{Inbox, Socket};

/// How long a stop waits for the threads of connections that it closed. Chosen: requests on a healthy disk are done long before.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// How a server behaves and what it may hold.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Permissions of the socket file. Default 0600: whoever may connect may read and write the disks.
    pub socket_mode: u32,
    /// Most connections at a time; further ones are closed at once. Default 64.
    pub connections_max: usize,
    /// Longest time a handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// Most bytes of requests that one connection has queued or running. Default 64 MiB.
    pub in_flight_bytes_max: u64,
    /// Most worker threads of one connection. Default 4.
    pub workers_max: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            socket_mode: 0o600,
            connections_max: 64,
            handshake_timeout: Duration::from_secs(10),
            in_flight_bytes_max: 64 << 20,
            workers_max: 4,
        }
    }
}

/// Why a server cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The operating system refuses.
    #[error("listen on {place}: {source}")]
    Listen {
        /// The socket file or address.
        place: String,
        /// Why.
        source: io::Error,
    },
    /// Somebody listens there.
    #[error("another program listens on {path}: stop it, or choose another socket")]
    InUse {
        /// The socket file.
        path: PathBuf,
    },
    /// Something that is no socket lies there.
    #[error("{path} exists and is no socket: move it away, or choose another path")]
    NotASocket {
        /// What lies there.
        path: PathBuf,
    },
    /// NBD has no authentication: it is not offered to a network.
    #[error("{addr} is not a loopback address; exports are served on unix sockets and loopback only")]
    NotLoopback {
        /// The address.
        addr: SocketAddr,
    },
}

/// An NBD server. Dropping it closes all connections, answered or not.
pub struct NbdServer {
    place: Place,
    accepting: Option<(Arc<Listener>, JoinHandle<()>)>,
    hub: Arc<Hub>,
}

impl std::fmt::Debug for NbdServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NbdServer").field("place", &self.place).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
enum Place {
    /// The socket file with its device and inode, so that only our own is removed.
    Unix(PathBuf, Option<(u64, u64)>),
    Tcp(SocketAddr),
}

enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Unix(listener) => Ok(Socket::Unix(listener.accept()?.0)),
            Self::Tcp(listener) => {
                let stream = listener.accept()?.0;
                // Replies are already collected; holding them back further only adds latency.
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }
        }
    }

    /// Wakes a thread that waits in `accept`, for good.
    fn close(&self) {
        let fd = match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        };
        // Fails only where it is closed already.
        let _ = rustix::net::shutdown(fd, rustix::net::Shutdown::Both);
    }
}

/// What all threads of a server share.
struct Hub {
    logger: Logger,
    options: ServerOptions,
    exports: RwLock<Arc<Vec<Arc<dyn Export>>>>,
    stopping: AtomicBool,
    next_id: AtomicU64,
    connections: Mutex<HashMap<u64, Arc<Control>>>,
    connection_gone: Condvar,
}

/// A hold on one connection.
struct Control {
    socket: Arc<Socket>,
    stopping: AtomicBool,
    export: Mutex<Option<Arc<dyn Export>>>,
}

impl Control {
    /// Takes no further request; what was taken is answered.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.socket.shutdown(Shutdown::Read);
    }

    fn is_served_by(&self, exports: &[Arc<dyn Export>]) -> bool {
        self.export.lock().as_ref().is_none_or(|mine| exports.iter().any(|export| Arc::ptr_eq(export, mine)))
    }
}

impl NbdServer {
    /// Listens on a unix socket at `path`. A socket file that a dead server left is replaced.
    pub fn bind_unix(path: &Path, options: ServerOptions, logger: &Logger) -> Result<Self, BindError> {
        let (listener, identity) = listen_unix(path, options.socket_mode)?;
        let place = Place::Unix(path.to_owned(), identity);
        Self::start(Listener::Unix(listener), place, options, logger)
    }

    /// Listens on a loopback address; port 0 picks a free one.
    pub fn bind_tcp(addr: SocketAddr, options: ServerOptions, logger: &Logger) -> Result<Self, BindError> {
        if !addr.ip().is_loopback() {
            return Err(BindError::NotLoopback { addr });
        }
        let failed = |source| BindError::Listen { place: addr.to_string(), source };
        let listener = TcpListener::bind(addr).map_err(failed)?;
        let place = Place::Tcp(listener.local_addr().map_err(failed)?);
        Self::start(Listener::Tcp(listener), place, options, logger)
    }

    fn start(listener: Listener, place: Place, options: ServerOptions, logger: &Logger) -> Result<Self, BindError> {
        let hub = Arc::new(Hub {
            logger: logger.new(o!("nbd" => place.to_string())),
            options,
            exports: RwLock::default(),
            stopping: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            connections: Mutex::default(),
            connection_gone: Condvar::new(),
        });
        let listener = Arc::new(listener);
        let accepting = thread::Builder::new()
            .name("nbd-accept".into())
            .spawn({
                let (hub, listener) = (hub.clone(), listener.clone());
                move || hub.accept_all(&listener)
            })
            .map_err(|source| BindError::Listen { place: place.to_string(), source })?;
        Ok(Self { place, accepting: Some((listener, accepting)), hub })
    }

    /// Replaces the set of exports. Connections to an export that stays (the very same one) go on; the others take no further
    /// request and end once what they took is answered.
    ///
    /// # Panics
    /// Where two exports have one name.
    pub fn set_exports(&self, exports: Vec<Arc<dyn Export>>) {
        let mut names: Vec<_> = exports.iter().map(|export| export.info().name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "exports of one server have different names");
        let exports = Arc::new(exports);
        *self.hub.exports.write() = exports.clone();
        for control in self.hub.connections.lock().values() {
            if !control.is_served_by(&exports) {
                control.stop();
            }
        }
    }

    /// Serves a connection that somebody else accepted, like those of the listening socket.
    pub fn adopt(&self, stream: UnixStream) -> io::Result<()> {
        self.hub.admit(Socket::Unix(stream))
    }

    /// How many clients are connected.
    pub fn connection_count(&self) -> usize {
        self.hub.connections.lock().len()
    }

    /// The address of a TCP server.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        match self.place {
            Place::Tcp(addr) => Some(addr),
            Place::Unix(..) => None,
        }
    }

    /// The URI of an export, as clients take it.
    pub fn uri(&self, name: &str) -> String {
        match &self.place {
            Place::Unix(path, _) => format!("nbd+unix:///{name}?socket={}", path.display()),
            Place::Tcp(addr) => format!("nbd://{addr}/{name}"),
        }
    }

    /// Stops: no new connection and no new request from now on; those taken are done and answered until `deadline`, then
    /// the sockets are closed whatever goes on, and a second later it returns. True where everything had ended by itself.
    pub fn shutdown(mut self, deadline: Duration) -> bool {
        self.stop(deadline)
    }

    fn stop(&mut self, deadline: Duration) -> bool {
        let Some((listener, accepting)) = self.accepting.take() else { return true };
        let until = Instant::now() + deadline;
        self.hub.stopping.store(true, Ordering::Release);
        listener.close();
        // It ends by itself, and has nothing to tell.
        let _ = accepting.join();
        self.place.remove();
        let mut connections = self.hub.connections.lock();
        connections.values().for_each(|control| control.stop());
        while !connections.is_empty() {
            if self.hub.connection_gone.wait_until(&mut connections, until).timed_out() {
                break;
            }
        }
        // A thread that is about to end may hold the hub a moment longer; not the disks.
        *self.hub.exports.write() = Arc::default();
        let clean = connections.is_empty();
        if !clean {
            warn!(self.hub.logger, "closing connections with requests in flight"; "connections" => connections.len());
            connections.values().for_each(|control| control.socket.shutdown(Shutdown::Both));
            // Their threads let go of the exports as soon as these answer; whoever stops a server opens the disks again.
            let gone = |connections: &mut HashMap<u64, Arc<Control>>| !connections.is_empty();
            self.hub.connection_gone.wait_while_for(&mut connections, gone, CLOSE_GRACE);
        }
        clean
    }
}

impl Drop for NbdServer {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

impl Hub {
    fn accept_all(self: &Arc<Self>, listener: &Listener) {
        info!(self.logger, "listening");
        while !self.stopping.load(Ordering::Acquire) {
            let admitted = listener.accept().and_then(|socket| self.admit(socket));
            if let Err(error) = admitted
                && !self.stopping.load(Ordering::Acquire)
            {
                warn!(self.logger, "accept a connection"; "error" => %error);
                // Out of descriptors or threads, most likely: what ends will give some back.
                let mut connections = self.connections.lock();
                self.connection_gone.wait_for(&mut connections, Duration::from_millis(100));
            }
        }
    }

    fn admit(self: &Arc<Self>, socket: Socket) -> io::Result<()> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let control =
            Arc::new(Control { socket: Arc::new(socket), stopping: AtomicBool::new(false), export: Mutex::new(None) });
        let mut connections = self.connections.lock();
        if self.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        if connections.len() >= self.options.connections_max {
            warn!(self.logger, "refused a connection: too many"; "connections_max" => self.options.connections_max);
            return Ok(());
        }
        connections.insert(id, control.clone());
        drop(connections);
        let leave = Leave { hub: self.clone(), id };
        let logger = self.logger.new(o!("connection" => id));
        thread::Builder::new().name("nbd-conn".into()).spawn(move || {
            let hub = &leave.hub;
            match hub.serve(&control, &logger) {
                Ok(()) => debug!(logger, "connection ended"),
                Err(error) => debug!(logger, "connection ended"; "error" => %error),
            }
            drop(control);
            drop(leave);
        })?;
        Ok(())
    }

    fn serve(&self, control: &Control, logger: &Logger) -> io::Result<()> {
        let mut inbox = Inbox::new();
        let exports = || self.exports.read().clone();
        let agreed = handshake::negotiate(&control.socket, &mut inbox, exports, self.options.handshake_timeout)?;
        let Some(agreed) = agreed else { return Ok(()) };
        let info = agreed.export.info();
        info!(logger, "client opened an export"; "export" => &info.name);
        *control.export.lock() = Some(agreed.export.clone());
        // Either `set_exports` sees this connection's export, or this sees its set.
        if !control.is_served_by(&self.exports.read()) {
            return Ok(());
        }
        let terms = Terms { info, structured: agreed.structured, status: agreed.status };
        let limits = ConnectionLimits {
            in_flight_bytes_max: self.options.in_flight_bytes_max,
            workers_max: self.options.workers_max,
        };
        connection::serve(control.socket.clone(), inbox, agreed.export, terms, limits, &control.stopping)
    }
}

/// Takes a connection off the list when its thread ends, however it ends.
struct Leave {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(control) = self.hub.connections.lock().remove(&self.id) {
            control.socket.shutdown(Shutdown::Both);
        }
        self.hub.connection_gone.notify_all();
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path, _) => write!(f, "{}", path.display()),
            Self::Tcp(addr) => write!(f, "{addr}"),
        }
    }
}

impl Place {
    /// Removes the socket file if it is still ours.
    fn remove(&self) {
        if let Self::Unix(path, identity) = self
            && identity.is_some()
            && identity_of(path) == *identity
        {
            // Whoever removed it first did the same.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity_of(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether a connection to `path` would be taken. Never waits, not even for a server with a full backlog.
fn somebody_listens(path: &Path) -> io::Result<bool> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(true),
        Err(Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

type UnixPlace = (UnixListener, Option<(u64, u64)>);

fn listen_unix(path: &Path, mode: u32) -> Result<UnixPlace, BindError> {
    let failed = |source: io::Error| BindError::Listen { place: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NotASocket { path: path.to_owned() }),
        Ok(_) if somebody_listens(path).map_err(failed)? => return Err(BindError::InUse { path: path.to_owned() }),
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listen = || -> io::Result<UnixListener> {
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Before it listens: nobody connects under wider permissions.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        rustix::net::listen(&socket, 64)?;
        Ok(socket.into())
    };
    let listener = listen().map_err(failed)?;
    Ok((listener, identity_of(path)))
}

#[cfg(test)]
mod tests;
