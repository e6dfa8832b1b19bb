//! Takes connections of members in, port 9444.
//!
//! Parent: `ConfigServer`. Children: a `MemberSession` per connection; one that ends is not started again.
//! Bounds: [`SESSIONS_MAX`] connections.
//!
//! Crash story: the listening socket outlives this actor; its sessions end with it, and the members come back.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use actix::prelude::*;
use futures_util::stream;
use rustls::ServerConfig;
use slog::warn;
use tokio::net::{TcpListener, TcpStream};

use super::control_room::ControlRoom;
use super::member_session::MemberSession;
use crate::supervise::{Abort, Life, Ward, start_watched};

/// Connections at a time: twice the machines that one configuration server is meant for.
const SESSIONS_MAX: usize = 10_000;

/// Sessions' numbers, never given twice by this process.
static NUMBERS: AtomicU64 = AtomicU64::new(1);

/// What every life of the listener is made of.
#[derive(Clone)]
pub(crate) struct ListenerSpec {
    /// What the control plane shares.
    pub(crate) room: Arc<ControlRoom>,
    /// The socket, bound and listening.
    pub(crate) socket: Arc<std::net::TcpListener>,
    /// How connections are secured.
    pub(crate) tls: Arc<ServerConfig>,
}

/// Takes connections in.
pub(crate) struct ControlListener {
    spec: ListenerSpec,
    life: Life,
    sessions: HashMap<u64, Session>,
}

/// A session never outlives its listener.
struct Session(Abort);

impl Drop for Session {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Ward for ControlListener {
    type Id = u8;
    type Spec = ListenerSpec;
    const KIND: &'static str = "control listener";

    fn revive(spec: ListenerSpec, life: Life, _: &mut Context<Self>) -> Self {
        Self { spec, life, sessions: HashMap::new() }
    }
}

impl Actor for ControlListener {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        let socket = self.spec.socket.try_clone().and_then(TcpListener::from_std);
        let socket = socket.expect("the listening socket is open and can be shared");
        ctx.add_stream(stream::unfold(socket, |socket| async move { Some((next(&socket).await, socket)) }));
    }
}

/// The next connection. Where the system has no room for one (files, memory), it is left waiting for a moment.
async fn next(socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let accepted = socket.accept().await;
    if accepted.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    accepted
}

impl StreamHandler<io::Result<(TcpStream, SocketAddr)>> for ControlListener {
    fn handle(&mut self, accepted: io::Result<(TcpStream, SocketAddr)>, ctx: &mut Self::Context) {
        self.life.progress();
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => return warn!(self.spec.room.log, "accept a control connection"; "error" => %error),
        };
        if self.sessions.len() >= SESSIONS_MAX {
            return warn!(self.spec.room.log, "a control connection was dropped: too many"; "peer" => %peer);
        }
        let number = NUMBERS.fetch_add(1, Relaxed);
        let (room, tls) = (self.spec.room.clone(), self.spec.tls.clone());
        let home = ctx.address().downgrade();
        let tell = move |_| {
            if let Some(home) = home.upgrade() {
                home.do_send(SessionOver(number));
            }
        };
        let make = move |_: &mut Context<MemberSession>| MemberSession::new(room, number, peer, stream, tls);
        let (_, abort) = start_watched(&Arbiter::current(), make, tell);
        self.sessions.insert(number, Session(abort));
    }
}

/// A session is over.
#[derive(Message)]
#[rtype(result = "()")]
struct SessionOver(u64);

impl Handler<SessionOver> for ControlListener {
    type Result = ();

    fn handle(&mut self, SessionOver(number): SessionOver, _: &mut Self::Context) {
        self.sessions.remove(&number);
    }
}
