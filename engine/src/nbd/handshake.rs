//! The server's side of the handshake: fixed newstyle, options until the client picks an export.
//!
//! ```text
//!   greeting ─► client flags ─► option* ─┬─ EXPORT_NAME, GO ─► transmission
//!                                        └─ ABORT, end, nonsense, out of time ─► closed
//! ```
//!
//! [`Negotiation`] is pure: an option in, replies and what comes next out. [`negotiate`] feeds it from a socket.
//! Bounds: one option is at most [`OPTION_BYTES_MAX`] long, a handshake has at most [`OPTIONS_MAX`], all of it takes at most the
//! server's handshake timeout.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::export::{Export, ExportInfo, REQUEST_BYTES_MAX};
use super::proto::{self, Fields, handshake_flag, info, option, option_reply, transmission_flag};
use super::socket::{Inbox, Socket};

/// Longest data of an option, in bytes. Chosen: a name of 4096 bytes and some queries; longer ones get ERR_TOO_BIG.
const OPTION_BYTES_MAX: u32 = 64 << 10;
/// Longest data that is read and thrown away to answer ERR_TOO_BIG; the connection ends beyond it.
const OPTION_DISCARD_BYTES_MAX: u32 = 1 << 20;
/// Most options of one handshake. Chosen: clients send fewer than ten, `nbdinfo --list` two for each export.
const OPTIONS_MAX: usize = 1024;
/// Most queries in one metadata option.
const QUERIES_MAX: u32 = 64;
/// Replies collected before they are sent, in bytes.
const REPLIES_BYTES_MAX: usize = 64 << 10;
/// Preferred unit of a request as told to clients, in bytes. Chosen: the page size, below which storage reads before it writes.
const PREFERRED_BYTES: u32 = 4096;

/// What the handshake agreed on.
pub(crate) struct Agreed {
    pub(crate) export: Arc<dyn Export>,
    pub(crate) structured: bool,
    /// Whether `base:allocation` may be asked for.
    pub(crate) status: bool,
}

/// What follows an option.
pub(crate) enum Next {
    Option,
    Serve(Agreed),
    Close,
}

/// The state between options.
pub(crate) struct Negotiation {
    exports: Arc<Vec<Arc<dyn Export>>>,
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` was selected.
    status_for: Option<String>,
}

impl Negotiation {
    /// After the client's flags; `None` where they ask for something unknown.
    pub(crate) fn new(exports: Arc<Vec<Arc<dyn Export>>>, client_flags: u32) -> Option<Self> {
        let known = u32::from(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
        (client_flags & !known == 0).then(|| Self {
            exports,
            no_zeroes: client_flags & u32::from(handshake_flag::NO_ZEROES) != 0,
            structured: false,
            status_for: None,
        })
    }

    /// The export of that name; the empty name means the only one.
    fn find(&self, name: &str) -> Option<(&Arc<dyn Export>, ExportInfo)> {
        let found = match (name, self.exports.as_slice()) {
            ("", [only]) => only,
            _ => self.exports.iter().find(|export| export.info().name == name)?,
        };
        Some((found, found.info()))
    }

    /// Answers one option.
    pub(crate) fn answer(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let mut refuse = |kind, text: &str| {
            proto::put_option_reply(out, number, kind, text.as_bytes());
            Next::Option
        };
        match number {
            option::EXPORT_NAME => return self.export_name(data, out),
            option::INFO | option::GO => return self.info_or_go(number, data, out),
            option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.meta_context(number, data, out),
            option::STRUCTURED_REPLY if data.is_empty() => {
                self.structured = true;
                proto::put_option_reply(out, number, option_reply::ACK, &[]);
            }
            option::LIST if data.is_empty() => self.list(out),
            option::STRUCTURED_REPLY | option::LIST => {
                return refuse(option_reply::ERR_INVALID, "this option takes no data");
            }
            option::ABORT => {
                proto::put_option_reply(out, number, option_reply::ACK, &[]);
                return Next::Close;
            }
            option::STARTTLS => {
                return refuse(option_reply::ERR_POLICY, "exports are on local sockets only, without TLS");
            }
            _ => return refuse(option_reply::ERR_UNSUP, "unknown option"),
        }
        Next::Option
    }

    fn serve(&self, export: &Arc<dyn Export>, name: &str) -> Next {
        let status = self.status_for.as_deref() == Some(name);
        Next::Serve(Agreed { export: export.clone(), structured: self.structured, status })
    }

    fn export_name(&self, data: &[u8], out: &mut Vec<u8>) -> Next {
        // This option has no way to say no but to close.
        let Some((export, told)) = std::str::from_utf8(data).ok().and_then(|name| self.find(name)) else {
            return Next::Close;
        };
        out.extend_from_slice(&told.size_bytes.to_be_bytes());
        out.extend_from_slice(&transmission_flags(&told, self.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; proto::EXPORT_NAME_ZEROES]);
        }
        self.serve(export, &told.name)
    }

    fn list(&self, out: &mut Vec<u8>) {
        for export in self.exports.iter() {
            let told = export.info();
            let mut data = Vec::with_capacity(4 + told.name.len() + told.description.len());
            data.extend_from_slice(&(told.name.len() as u32).to_be_bytes());
            data.extend_from_slice(told.name.as_bytes());
            data.extend_from_slice(told.description.as_bytes());
            proto::put_option_reply(out, option::LIST, option_reply::SERVER, &data);
        }
        proto::put_option_reply(out, option::LIST, option_reply::ACK, &[]);
    }

    fn info_or_go(&self, number: u32, data: &[u8], out: &mut Vec<u8>) -> Next {
        let Some((name, wanted)) = parse_info(data) else {
            proto::put_option_reply(out, number, option_reply::ERR_INVALID, b"malformed request for an export");
            return Next::Option;
        };
        let Some((export, told)) = self.find(name) else {
            proto::put_option_reply(out, number, option_reply::ERR_UNKNOWN, b"no export of that name");
            return Next::Option;
        };
        let mut tell = |kind: u16, body: &[u8]| {
            let data = [&kind.to_be_bytes(), body].concat();
            proto::put_option_reply(out, number, option_reply::INFO, &data);
        };
        let flags = transmission_flags(&told, self.structured).to_be_bytes();
        tell(info::EXPORT, &[&told.size_bytes.to_be_bytes()[..], &flags].concat());
        // Told unasked as well: a client that takes no notice must not be surprised by EINVAL without a trace of why.
        let sizes = [told.sector_bytes, PREFERRED_BYTES.max(told.sector_bytes), REQUEST_BYTES_MAX];
        tell(info::BLOCK_SIZE, &sizes.map(u32::to_be_bytes).concat());
        if wanted.contains(&info::NAME) {
            tell(info::NAME, told.name.as_bytes());
        }
        if wanted.contains(&info::DESCRIPTION) && !told.description.is_empty() {
            tell(info::DESCRIPTION, told.description.as_bytes());
        }
        proto::put_option_reply(out, number, option_reply::ACK, &[]);
        if number == option::GO { self.serve(export, &told.name) } else { Next::Option }
    }

    fn meta_context(&mut self, number: u32, data: &[u8], out: &mut Vec<u8>) {
        let setting = number == option::SET_META_CONTEXT;
        if setting {
            self.status_for = None;
            if !self.structured {
                let why = b"structured replies have to be agreed on first";
                return proto::put_option_reply(out, number, option_reply::ERR_INVALID, why);
            }
        }
        let Some((name, queries)) = parse_meta(data) else {
            return proto::put_option_reply(out, number, option_reply::ERR_INVALID, b"malformed metadata query");
        };
        let Some((_, told)) = self.find(name) else {
            return proto::put_option_reply(out, number, option_reply::ERR_UNKNOWN, b"no export of that name");
        };
        let matches = |query: &&str| *query == proto::BASE_ALLOCATION || (!setting && *query == "base:");
        if queries.iter().any(matches) || (!setting && queries.is_empty()) {
            // The number means nothing in a list; the specification has it 0 there.
            let id = if setting { proto::BASE_ALLOCATION_ID } else { 0 };
            let data = [&id.to_be_bytes()[..], proto::BASE_ALLOCATION.as_bytes()].concat();
            proto::put_option_reply(out, number, option_reply::META_CONTEXT, &data);
            if setting {
                self.status_for = Some(told.name);
            }
        }
        proto::put_option_reply(out, number, option_reply::ACK, &[]);
    }
}

fn transmission_flags(told: &ExportInfo, structured: bool) -> u16 {
    use transmission_flag as flag;
    [
        (true, flag::HAS_FLAGS),
        (told.read_only, flag::READ_ONLY),
        (told.can_flush, flag::SEND_FLUSH),
        (told.can_fua, flag::SEND_FUA),
        (told.rotational, flag::ROTATIONAL),
        (told.can_trim, flag::SEND_TRIM),
        (told.can_zero, flag::SEND_WRITE_ZEROES),
        (structured, flag::SEND_DF),
        (told.can_multi_conn, flag::CAN_MULTI_CONN),
        (told.can_cache, flag::SEND_CACHE),
        (told.can_zero && told.can_fast_zero, flag::SEND_FAST_ZERO),
    ]
    .into_iter()
    .fold(0, |flags, (set, flag)| if set { flags | flag } else { flags })
}

/// `name length u32 | name | count u16 | (information u16)*`
fn parse_info(data: &[u8]) -> Option<(&str, Vec<u16>)> {
    let mut input = Fields(data);
    let name = input.text()?;
    let count = input.u16()?;
    let wanted = (0..count).map(|_| input.u16()).collect::<Option<Vec<_>>>()?;
    input.is_empty().then_some((name, wanted))
}

/// `name length u32 | name | count u32 | (query length u32 | query)*`
fn parse_meta(data: &[u8]) -> Option<(&str, Vec<&str>)> {
    let mut input = Fields(data);
    let name = input.text()?;
    let count = input.u32().filter(|count| *count <= QUERIES_MAX)?;
    let queries = (0..count).map(|_| input.text()).collect::<Option<Vec<_>>>()?;
    input.is_empty().then_some((name, queries))
}

/// Runs the handshake on a socket; `None` where it ended without an export.
pub(crate) fn negotiate(
    socket: &Socket,
    inbox: &mut Inbox,
    exports: impl Fn() -> Arc<Vec<Arc<dyn Export>>>,
    timeout: Duration,
) -> io::Result<Option<Agreed>> {
    let deadline = Instant::now() + timeout;
    let mut clock = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_timeouts(Some(left), Some(left))
    };
    clock()?;
    socket.write_all(&proto::greeting())?;
    if !inbox.fill(socket, 4, &mut clock)? {
        return Ok(None);
    }
    let Some(mut negotiation) = Negotiation::new(exports(), u32::from_be_bytes(inbox.take())) else {
        return Ok(None);
    };
    let mut out = Vec::new();
    let mut data = Vec::new();
    for _ in 0..OPTIONS_MAX {
        let mut before_wait = || {
            clock()?;
            socket.write_all(&std::mem::take(&mut out))
        };
        if !inbox.fill(socket, proto::OPTION_HEAD_BYTES, &mut before_wait)? {
            return Ok(None);
        }
        let Some(head) = proto::OptionHead::decode(&inbox.take()) else { return Ok(None) };
        if head.length > OPTION_DISCARD_BYTES_MAX {
            return Ok(None);
        }
        if head.length > OPTION_BYTES_MAX {
            inbox.discard(socket, head.length.into(), &mut before_wait)?;
            proto::put_option_reply(&mut out, head.option, option_reply::ERR_TOO_BIG, b"the option is too long");
            continue;
        }
        data.resize(head.length as usize, 0);
        inbox.read_exact(socket, &mut data, &mut before_wait)?;
        // Looked up anew for each option: a long list of options must not go on with exports that are gone.
        negotiation.exports = exports();
        let next = negotiation.answer(head.option, &data, &mut out);
        if out.len() > REPLIES_BYTES_MAX || !matches!(next, Next::Option) {
            clock()?;
            socket.write_all(&std::mem::take(&mut out))?;
        }
        match next {
            Next::Option => {}
            Next::Close => return Ok(None),
            Next::Serve(agreed) => {
                socket.set_timeouts(None, None)?;
                return Ok(Some(agreed));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
