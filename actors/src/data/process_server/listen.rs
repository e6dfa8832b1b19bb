//! Where agents connect: accepts, makes the TLS handshake, hands the connection on. A connection without a machine's
//! certificate of this installation gets no further than here.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::WeakAddr;
use actix::prelude::*;
use farshore_engine::protocol::{AgentMessage, Refusal, ServerEffect, ServerEnd};
use farshore_engine::transport::framed::framed;
use farshore_engine::transport::identity::Role;
use farshore_engine::transport::tls::{accept, tune};
use rustls::ServerConfig;
use slog::{Logger, error, info, warn};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::{AgentConnected, ProcessServer};
use crate::data::agent_session::Connection;

/// Handshakes at a time; more connections wait in the system's queue.
const HANDSHAKES_MAX: usize = 256;
/// Connections that are being turned away at a time; more are closed without a word.
const REFUSING_MAX: usize = 64;
/// How long an agent has to say hello before it is turned away, and to read why.
const REFUSE_MAX: Duration = Duration::from_secs(10);
/// Pause when the system gives no connection (out of files): it would say the same at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl ProcessServer {
    /// Accepts until this life ends; the socket itself outlives it.
    pub(super) fn listen(&mut self, ctx: &mut Context<Self>) {
        let (listener, tls) = (self.spec.listener.clone(), self.spec.wiring.config.tls.clone());
        let (log, home) = (self.log.clone(), ctx.address().downgrade());
        let accepting = accept_all(listener, tls, log.clone(), home);
        ctx.spawn(accepting.into_actor(self).map(move |ended, _, _| {
            let Err(error) = ended;
            error!(log, "no agent can connect"; "why" => %error);
            panic!("the listener cannot be used: {error}");
        }));
    }

    /// Says no in words that the agent understands.
    pub(super) fn turn_away(&mut self, connection: Connection, refusal: Refusal, ctx: &mut Context<Self>) {
        if self.refusing >= REFUSING_MAX {
            return;
        }
        self.refusing += 1;
        let now = self.spec.wiring.now();
        let refusing = tokio::time::timeout(REFUSE_MAX, refuse(connection, refusal, now));
        ctx.spawn(refusing.into_actor(self).map(|_, server, _| server.refusing -= 1));
    }
}

async fn accept_all(
    listener: Arc<TcpListener>,
    tls: Arc<ServerConfig>,
    log: Logger,
    home: WeakAddr<ProcessServer>,
) -> io::Result<std::convert::Infallible> {
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    let mut handshakes = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if handshakes.len() < HANDSHAKES_MAX => match accepted {
                Ok((stream, address)) => {
                    handshakes.spawn(greet(stream, address, tls.clone(), log.clone(), home.clone()));
                }
                Err(error) => {
                    warn!(log, "a connection could not be accepted"; "why" => %error);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = handshakes.join_next() => {}
        }
    }
}

async fn greet(
    stream: TcpStream,
    address: SocketAddr,
    tls: Arc<ServerConfig>,
    log: Logger,
    home: WeakAddr<ProcessServer>,
) {
    tune(&stream);
    let secured = match accept(stream, tls).await {
        Ok(secured) => secured,
        Err(fault) => {
            info!(log, "a connection was not taken"; "peer" => %address, "why" => %fault);
            return;
        }
    };
    let Some(Role::Machine(machine)) = secured.peer else {
        info!(log, "a connection without a machine's certificate was closed"; "peer" => %address);
        return;
    };
    if let Some(home) = home.upgrade() {
        home.do_send(AgentConnected(Connection { stream: secured.stream, machine, address }));
    }
}

/// Hears the hello, says why not, and closes. An agent that breaks off has heard enough.
async fn refuse(connection: Connection, refusal: Refusal, now: Duration) {
    let mut end = ServerEnd::new(connection.machine, now);
    let (mut reader, mut writer) = framed(connection.stream);
    while let Ok(Some(message)) = reader.read::<AgentMessage>().await {
        let mut effects = end.received(message, now);
        if effects.iter().any(|effect| matches!(effect, ServerEffect::Introduced(_))) {
            effects = end.refuse(refusal.clone());
        }
        for effect in effects {
            match effect {
                ServerEffect::Send(message) => writer.queue(&message),
                ServerEffect::Close(_) => return writer.close().await.unwrap_or_default(),
                ServerEffect::Introduced(_)
                | ServerEffect::Accept(_)
                | ServerEffect::Idle { .. }
                | ServerEffect::Compare { .. } => {}
            }
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
}
