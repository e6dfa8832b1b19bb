//! A small NBD client: blocking, one request at a time. The oracle and the tests look at disks through it; whoever wants
//! a queue opens several, whoever wants to outlive the server connects again.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::export::{NbdError, StatusExtent, ZeroFlags};
use super::proto::{self, Fields, Request, chunk, command, command_flag, handshake_flag, option, option_reply};
use super::socket::{Inbox, Socket};

/// Longest option reply or chunk other than data that is accepted, in bytes.
const MESSAGE_BYTES_MAX: u32 = 64 << 10;

/// Where an export is: `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// The server.
    pub server: NbdServerAddr,
    /// The export's name.
    pub export: String,
}

/// The server's part of a URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NbdServerAddr {
    /// A socket file.
    Unix(PathBuf),
    /// Host and port.
    Tcp(String),
}

/// Why a text is no NBD URI.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no NBD URI: expected nbd+unix:///NAME?socket=PATH or nbd://HOST:PORT/NAME")]
pub struct BadUri(String);

impl FromStr for NbdUri {
    type Err = BadUri;

    fn from_str(text: &str) -> Result<Self, BadUri> {
        let bad = || BadUri(text.chars().take(256).collect());
        if let Some(rest) = text.strip_prefix("nbd+unix://") {
            let (name, path) = rest.split_once("?socket=").ok_or_else(bad)?;
            if path.is_empty() || path.contains('&') {
                return Err(bad());
            }
            let export = name.strip_prefix('/').unwrap_or(name).to_owned();
            return Ok(Self { server: NbdServerAddr::Unix(path.into()), export });
        }
        let rest = text.strip_prefix("nbd://").ok_or_else(bad)?;
        let (host, name) = rest.split_once('/').unwrap_or((rest, ""));
        if host.is_empty() {
            return Err(bad());
        }
        let port_given = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let addr = if port_given { host.to_owned() } else { format!("{host}:10809") };
        Ok(Self { server: NbdServerAddr::Tcp(addr), export: name.to_owned() })
    }
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            NbdServerAddr::Unix(path) => write!(f, "nbd+unix:///{}?socket={}", self.export, path.display()),
            NbdServerAddr::Tcp(addr) => write!(f, "nbd://{addr}/{}", self.export),
        }
    }
}

/// Why a request or a connection failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with an error; the connection goes on.
    #[error("the server refused: {0}")]
    Refused(#[from] NbdError),
    /// The server turned the handshake down.
    #[error("the server turned down export '{export}': {text}")]
    TurnedDown {
        /// What was asked for.
        export: String,
        /// What the server said.
        text: String,
    },
    /// The connection broke; whether a request in flight was done is unknown.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The server sent something that is not NBD; the connection is unusable.
    #[error("the server does not speak NBD as expected: {0}")]
    Protocol(&'static str),
}

/// How to connect.
#[derive(Debug, Clone, Copy)]
pub struct ClientOptions {
    /// Ask for structured replies, and with them for block status.
    pub structured: bool,
    /// Longest wait for an answer; `None` waits for ever.
    pub timeout: Option<Duration>,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self { structured: true, timeout: Some(Duration::from_secs(60)) }
    }
}

/// A connection to one export.
#[derive(Debug)]
pub struct NbdClient {
    socket: Socket,
    inbox: Inbox,
    size_bytes: u64,
    flags: u16,
    sector_bytes: u32,
    structured: bool,
    status: bool,
    next_cookie: u64,
}

impl NbdClient {
    /// Connects and opens the export.
    pub fn connect(uri: &NbdUri, options: ClientOptions) -> Result<Self, ClientError> {
        let socket = match &uri.server {
            NbdServerAddr::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
            NbdServerAddr::Tcp(addr) => {
                let stream = TcpStream::connect(addr)?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
        };
        Self::open(socket, &uri.export, options)
    }

    /// Opens an export over a socket that is connected already.
    pub fn over(stream: UnixStream, export: &str, options: ClientOptions) -> Result<Self, ClientError> {
        Self::open(Socket::Unix(stream), export, options)
    }

    fn open(socket: Socket, export: &str, options: ClientOptions) -> Result<Self, ClientError> {
        socket.set_timeouts(options.timeout, options.timeout)?;
        let mut client = Self {
            socket,
            inbox: Inbox::new(),
            size_bytes: 0,
            flags: 0,
            sector_bytes: 1,
            structured: false,
            status: false,
            next_cookie: 1,
        };
        client.greet()?;
        if options.structured {
            client.send_option(option::STRUCTURED_REPLY, &[])?;
            client.structured = client.option_replies(option::STRUCTURED_REPLY, |_, _| Ok(()))?.is_ok();
        }
        if client.structured {
            let query = proto::BASE_ALLOCATION.as_bytes();
            let data = [&text(export.as_bytes())[..], &1_u32.to_be_bytes(), &text(query)].concat();
            client.send_option(option::SET_META_CONTEXT, &data)?;
            let mut selected = false;
            let answer = client.option_replies(option::SET_META_CONTEXT, |kind, _| {
                selected |= kind == option_reply::META_CONTEXT;
                Ok(())
            })?;
            client.status = selected && answer.is_ok();
        }
        client.go(export)?;
        Ok(client)
    }

    fn greet(&mut self) -> Result<(), ClientError> {
        let input = self.receive::<{ proto::GREETING_BYTES }>()?;
        let mut fields = Fields(&input);
        let newstyle = fields.u64() == Some(proto::GREETING_MAGIC) && fields.u64() == Some(proto::OPTION_MAGIC);
        let flags = fields.u16().unwrap_or(0);
        if !newstyle || flags & handshake_flag::FIXED_NEWSTYLE == 0 {
            return Err(ClientError::Protocol("no fixed newstyle greeting"));
        }
        let mine = flags & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        Ok(self.socket.write_all(&u32::from(mine).to_be_bytes())?)
    }

    fn go(&mut self, export: &str) -> Result<(), ClientError> {
        let wanted = [&1_u16.to_be_bytes()[..], &proto::info::BLOCK_SIZE.to_be_bytes()].concat();
        self.send_option(option::GO, &[&text(export.as_bytes())[..], &wanted].concat())?;
        let (mut told, mut sector_bytes) = (None, 1);
        let answer = self.option_replies(option::GO, |kind, data| {
            let mut fields = Fields(data);
            match (kind, fields.u16()) {
                (option_reply::INFO, Some(proto::info::EXPORT)) => told = fields.u64().zip(fields.u16()),
                (option_reply::INFO, Some(proto::info::BLOCK_SIZE)) => sector_bytes = fields.u32().unwrap_or(1).max(1),
                _ => {}
            }
            Ok(())
        })?;
        answer.map_err(|text| ClientError::TurnedDown { export: export.to_owned(), text })?;
        (self.size_bytes, self.flags) = told.ok_or(ClientError::Protocol("no size told for the export"))?;
        self.sector_bytes = sector_bytes;
        Ok(())
    }

    fn send_option(&mut self, option: u32, data: &[u8]) -> Result<(), ClientError> {
        let head = proto::OptionHead { option, length: data.len() as u32 }.encode();
        Ok(self.socket.write_all(&[&head[..], data].concat())?)
    }

    /// Reads the replies to an option up to the last: `Ok` for ACK, else what the server said.
    fn option_replies(
        &mut self,
        option: u32,
        mut each: impl FnMut(u32, &[u8]) -> Result<(), ClientError>,
    ) -> Result<Result<(), String>, ClientError> {
        loop {
            let head = self.receive::<{ proto::OPTION_REPLY_HEAD_BYTES }>()?;
            let mut fields = Fields(&head);
            let magic_holds = fields.u64() == Some(proto::OPTION_REPLY_MAGIC) && fields.u32() == Some(option);
            let (Some(kind), Some(len), true) = (fields.u32(), fields.u32(), magic_holds) else {
                return Err(ClientError::Protocol("no reply to the option that was sent"));
            };
            let data = self.receive_vec(len)?;
            match kind {
                option_reply::ACK => return Ok(Ok(())),
                kind if kind & option_reply::ERROR != 0 => {
                    return Ok(Err(format!("{} (reply {kind:#x})", String::from_utf8_lossy(&data))));
                }
                kind => each(kind, &data)?,
            }
        }
    }

    /// Size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Smallest unit of a request.
    pub fn sector_bytes(&self) -> u32 {
        self.sector_bytes
    }

    /// Whether changes are refused.
    pub fn is_read_only(&self) -> bool {
        self.flags & proto::transmission_flag::READ_ONLY != 0
    }

    /// Whether trims are offered.
    pub fn can_trim(&self) -> bool {
        self.flags & proto::transmission_flag::SEND_TRIM != 0
    }

    /// Whether zeroes can be written without sending them.
    pub fn can_zero(&self) -> bool {
        self.flags & proto::transmission_flag::SEND_WRITE_ZEROES != 0
    }

    /// Whether block status was agreed on.
    pub fn can_status(&self) -> bool {
        self.status
    }

    /// Fills `out` from `offset` on; at most 32 MiB.
    pub fn read(&mut self, offset: u64, out: &mut [u8]) -> Result<(), ClientError> {
        let request = self.request(command::READ, 0, offset, out.len() as u32);
        self.socket.write_all(&request.encode())?;
        if self.structured { self.read_chunks(&request, out) } else { self.simple_reply(&request, out) }
    }

    /// Writes `data` at `offset`; at most 32 MiB.
    pub fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), ClientError> {
        let request = self.request(command::WRITE, if fua { command_flag::FUA } else { 0 }, offset, data.len() as u32);
        self.socket.write_all(&request.encode())?;
        self.socket.write_all(data)?;
        self.done(&request)
    }

    /// Makes completed writes stable.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.send(command::FLUSH, 0, 0, 0)
    }

    /// Gives a range back.
    pub fn trim(&mut self, offset: u64, len: u32, fua: bool) -> Result<(), ClientError> {
        self.send(command::TRIM, if fua { command_flag::FUA } else { 0 }, offset, len)
    }

    /// Makes a range read as zeroes.
    pub fn write_zeroes(&mut self, offset: u64, len: u32, flags: ZeroFlags) -> Result<(), ClientError> {
        let bits = [
            (flags.fua, command_flag::FUA),
            (flags.no_hole, command_flag::NO_HOLE),
            (flags.fast, command_flag::FAST_ZERO),
        ];
        let bits = bits.into_iter().fold(0, |all, (set, bit)| if set { all | bit } else { all });
        self.send(command::WRITE_ZEROES, bits, offset, len)
    }

    /// The allocation of a range, or of its front.
    pub fn block_status(&mut self, offset: u64, len: u32) -> Result<Vec<StatusExtent>, ClientError> {
        let request = self.request(command::BLOCK_STATUS, 0, offset, len);
        self.socket.write_all(&request.encode())?;
        let mut extents = Vec::new();
        self.chunks(&request, |kind, body| {
            let mut fields = Fields(body);
            if kind != chunk::BLOCK_STATUS || fields.u32() != Some(proto::BASE_ALLOCATION_ID) {
                return Err(ClientError::Protocol("block status of another kind than was asked for"));
            }
            while let Some((len, flags)) = fields.u32().zip(fields.u32()) {
                let (hole, zero) = (flags & proto::allocation::HOLE != 0, flags & proto::allocation::ZERO != 0);
                extents.push(StatusExtent { len: len.into(), hole, zero });
            }
            Ok(())
        })?;
        Ok(extents)
    }

    /// Says goodbye. Dropping the client closes without.
    pub fn disconnect(mut self) -> Result<(), ClientError> {
        let request = self.request(command::DISCONNECT, 0, 0, 0);
        Ok(self.socket.write_all(&request.encode())?)
    }

    fn request(&mut self, command: u16, flags: u16, offset: u64, length: u32) -> Request {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        Request { flags, command, cookie, offset, length }
    }

    fn send(&mut self, command: u16, flags: u16, offset: u64, len: u32) -> Result<(), ClientError> {
        let request = self.request(command, flags, offset, len);
        self.socket.write_all(&request.encode())?;
        self.done(&request)
    }

    /// Waits for the reply to anything but a read or block status; it may be of either kind.
    fn done(&mut self, request: &Request) -> Result<(), ClientError> {
        if !self.inbox.fill(&self.socket, 4, &mut || Ok(()))? {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        match self.inbox.peek_u32() {
            proto::SIMPLE_REPLY_MAGIC => self.simple_reply(request, &mut []),
            _ => self.chunks(request, |_, _| Err(ClientError::Protocol("data in reply to a change"))),
        }
    }

    fn simple_reply(&mut self, request: &Request, out: &mut [u8]) -> Result<(), ClientError> {
        let head = self.receive::<{ proto::SIMPLE_REPLY_BYTES }>()?;
        let mut fields = Fields(&head);
        let (magic, errno, cookie) = (fields.u32(), fields.u32().unwrap_or(0), fields.u64());
        if magic != Some(proto::SIMPLE_REPLY_MAGIC) || cookie != Some(request.cookie) {
            return Err(ClientError::Protocol("no reply to the request that was sent"));
        }
        if errno != 0 {
            return Err(NbdError::from_errno(errno, format!("error {errno}")).into());
        }
        Ok(self.inbox.read_exact(&self.socket, out, &mut || Ok(()))?)
    }

    fn read_chunks(&mut self, request: &Request, out: &mut [u8]) -> Result<(), ClientError> {
        let mut covered = 0;
        self.all_chunks(request, |client, kind, len| {
            let (at, bytes) = match kind {
                chunk::OFFSET_DATA if len > 8 => (u64::from_be_bytes(client.receive()?), len as usize - 8),
                chunk::OFFSET_HOLE if len == 12 => {
                    (u64::from_be_bytes(client.receive()?), u32::from_be_bytes(client.receive()?) as usize)
                }
                _ => return Err(ClientError::Protocol("a read answered with something else")),
            };
            let place = at.checked_sub(request.offset).and_then(|at| usize::try_from(at).ok());
            let target = place.and_then(|at| out.get_mut(at..at.checked_add(bytes)?));
            let target = target.ok_or(ClientError::Protocol("data outside of what was read"))?;
            covered += bytes;
            match kind {
                chunk::OFFSET_HOLE => target.fill(0),
                _ => client.inbox.read_exact(&client.socket, target, &mut || Ok(()))?,
            }
            Ok(())
        })?;
        // The protocol forbids overlaps, so that the sum says whether all came.
        if covered == out.len() { Ok(()) } else { Err(ClientError::Protocol("a read answered in part")) }
    }

    fn chunks(
        &mut self,
        request: &Request,
        mut each: impl FnMut(u16, &[u8]) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        self.all_chunks(request, |client, kind, len| {
            let body = client.receive_vec(len)?;
            each(kind, &body)
        })
    }

    /// Reads the chunks of a reply up to the last; errors in them become the result, after all were read.
    fn all_chunks(
        &mut self,
        request: &Request,
        mut each: impl FnMut(&mut Self, u16, u32) -> Result<(), ClientError>,
    ) -> Result<(), ClientError> {
        let mut failure = None;
        loop {
            let head = self.receive::<{ proto::CHUNK_HEAD_BYTES }>()?;
            let mut fields = Fields(&head);
            let magic_holds = fields.u32() == Some(proto::CHUNK_MAGIC);
            let (flags, kind) = (fields.u16().unwrap_or(0), fields.u16().unwrap_or(0));
            let (cookie, len) = (fields.u64(), fields.u32().unwrap_or(0));
            if !magic_holds || cookie != Some(request.cookie) {
                return Err(ClientError::Protocol("no chunk of the reply that was asked for"));
            }
            if kind & chunk::ERROR_BIT != 0 {
                let body = self.receive_vec(len)?;
                let mut fields = Fields(&body);
                let errno = fields.u32().ok_or(ClientError::Protocol("an error without number"))?;
                let text = fields.u16().and_then(|len| fields.bytes(len.into())).unwrap_or_default();
                failure.get_or_insert(NbdError::from_errno(errno, String::from_utf8_lossy(text).into_owned()));
            } else if kind != chunk::NONE {
                each(self, kind, len)?;
            }
            if flags & chunk::FLAG_DONE != 0 {
                return failure.map_or(Ok(()), |error| Err(error.into()));
            }
        }
    }

    fn receive<const N: usize>(&mut self) -> Result<[u8; N], ClientError> {
        if !self.inbox.fill(&self.socket, N, &mut || Ok(()))? {
            return Err(ClientError::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(self.inbox.take())
    }

    fn receive_vec(&mut self, len: u32) -> Result<Vec<u8>, ClientError> {
        if len > MESSAGE_BYTES_MAX {
            return Err(ClientError::Protocol("a message longer than any should be"));
        }
        let mut data = vec![0; len as usize];
        self.inbox.read_exact(&self.socket, &mut data, &mut || Ok(()))?;
        Ok(data)
    }
}

/// A text with its 32-bit length in front.
fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_read_and_shown_as_clients_write_them() {
        for text in ["nbd+unix:///disk0?socket=/run/a.sock", "nbd+unix:///?socket=a.sock", "nbd://127.0.0.1:10809/d"] {
            assert_eq!(text.parse::<NbdUri>().expect("well formed").to_string(), text);
        }
        let short: NbdUri = "nbd://localhost".parse().expect("well formed");
        assert_eq!(short.to_string(), "nbd://localhost:10809/");
        for bad in ["", "nbd:", "nbd+unix:///x", "nbd+unix:///x?socket=", "http://x", "nbd:///x", "/dev/sda"] {
            assert!(bad.parse::<NbdUri>().is_err(), "{bad}");
        }
    }
}
