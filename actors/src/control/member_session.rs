//! One connection of a member: enrolment, or a session.
//!
//! Parent: `ControlListener`. Bounds: [`OUTBOUND_MAX`] messages that wait to be sent; one message at a time is read.
//! Messages in: [`Tell`], [`UseLink`]. Facts out: `Arrived`, `Left`, reports to the Orchestrator; heartbeats and answers to
//! the process server's link.
//!
//! ```text
//!   handshake ─► opening ──Enrol────────────────────────────► answered, closed
//!                   │ Hello, known member
//!                   └──► open ──Refused, silence, Orchestrator gone, peer gone──► closed
//! ```
//!
//! Crash story: the connection is lost; the member opens another one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::link::{LinkError, SAY_WITHIN};
use farshore_engine::control::messages::{CONTROL_VERSION, FromMember, Hello, Refusal, RefusalCode, ToMember};
use farshore_engine::control::tls::{ControlReader, ControlWriter, server_ends};
use farshore_engine::transport::{Role, tls};
use futures_util::stream;
use rustls::ServerConfig;
use slog::debug;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::control_room::ControlRoom;
use super::enrolment::{enrol, version_refusal};
use super::orchestrator::{Arrived, AskWhere, Left, Orchestrator, Reported};
use super::process_server_link::{FromServer, ProcessServerLink};

/// Messages that wait to be sent. A member that does not read them is as good as gone.
const OUTBOUND_MAX: usize = 1024;
/// Time from the connection to the end of enrolment, or to the first message of a session.
const OPEN_WITHIN: Duration = Duration::from_secs(30);
/// A member that says nothing for so long is gone; members ping every three seconds.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// How often silence and the Orchestrator's life are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

enum Phase {
    Opening,
    Enrolling,
    Open { role: Role, orchestrator: Addr<Orchestrator> },
    Closing,
}

/// One connection of a member.
pub(crate) struct MemberSession {
    room: Arc<ControlRoom>,
    number: u64,
    peer: SocketAddr,
    certified: Option<Role>,
    phase: Phase,
    outbound: Option<mpsc::Sender<ToMember>>,
    link: Option<Addr<ProcessServerLink>>,
    accepted: Option<(TcpStream, Arc<ServerConfig>)>,
    heard_at: Instant,
}

impl MemberSession {
    /// A session over a connection that was accepted.
    pub(crate) fn new(
        room: Arc<ControlRoom>,
        number: u64,
        peer: SocketAddr,
        stream: TcpStream,
        tls: Arc<ServerConfig>,
    ) -> Self {
        Self {
            room,
            number,
            peer,
            certified: None,
            phase: Phase::Opening,
            outbound: None,
            link: None,
            accepted: Some((stream, tls)),
            heard_at: Instant::now(),
        }
    }
}

impl Actor for MemberSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.run_later(OPEN_WITHIN, |this, ctx| {
            if !matches!(this.phase, Phase::Open { .. }) {
                ctx.stop();
            }
        });
        ctx.run_interval(LOOK_EVERY, |this, ctx| this.look(ctx));
        let Some((stream, config)) = self.accepted.take() else { return ctx.stop() };
        tls::tune(&stream);
        ctx.spawn(tls::accept(stream, config).into_actor(self).map(|accepted, this, ctx| match accepted {
            Ok(secured) => {
                this.certified = secured.peer;
                this.converse(secured.stream, ctx);
            }
            Err(fault) => {
                debug!(this.room.log, "a control connection was not secured"; "peer" => %this.peer, "fault" => %fault);
                ctx.stop();
            }
        }));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if let Phase::Open { role, orchestrator } = &self.phase {
            orchestrator.do_send(Left { role: *role, number: self.number });
        }
    }
}

impl MemberSession {
    fn converse<S: AsyncRead + AsyncWrite + 'static>(&mut self, stream: S, ctx: &mut Context<Self>) {
        let (reader, writer) = server_ends(stream);
        ctx.add_stream(stream::unfold(Some(reader), next_message));
        let (say, outbound) = mpsc::channel(OUTBOUND_MAX);
        self.outbound = Some(say);
        ctx.spawn(write_all(writer, outbound).into_actor(self).map(|(), _, ctx| ctx.stop()));
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let Phase::Open { orchestrator, .. } = &self.phase else { return };
        if !orchestrator.connected() || self.heard_at.elapsed() > SILENCE_MAX {
            ctx.stop();
        }
    }

    fn say(&mut self, message: ToMember, ctx: &mut Context<Self>) {
        let last = matches!(message, ToMember::Refused(_) | ToMember::Enrolled(_));
        let said = self.outbound.as_ref().is_some_and(|outbound| outbound.try_send(message).is_ok());
        if !said {
            return ctx.stop();
        }
        if last {
            // The writer sends what waits and closes; the actor stops when it is through.
            self.outbound = None;
            if let Phase::Open { role, orchestrator } = std::mem::replace(&mut self.phase, Phase::Closing) {
                orchestrator.do_send(Left { role, number: self.number });
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, ctx: &mut Context<Self>) {
        debug!(self.room.log, "a member was refused"; "peer" => %self.peer, "refusal" => %refusal);
        self.say(ToMember::Refused(refusal), ctx);
    }

    fn first_message(&mut self, message: FromMember, ctx: &mut Context<Self>) {
        match message {
            FromMember::Enrol(request) => {
                self.phase = Phase::Enrolling;
                let room = self.room.clone();
                let work = async move { enrol(&room, request).await };
                ctx.spawn(work.into_actor(self).map(|outcome, this, ctx| match outcome {
                    Ok(enrolled) => this.say(ToMember::Enrolled(enrolled), ctx),
                    Err(refusal) => this.refuse(refusal, ctx),
                }));
            }
            FromMember::Hello(hello) if hello.version != CONTROL_VERSION => {
                self.refuse(version_refusal(hello.version), ctx);
            }
            FromMember::Hello(hello) => match self.certified {
                Some(role) => self.open(role, hello, ctx),
                None => {
                    let text = "a session needs the certificate that enrolment gives";
                    let refusal =
                        Refusal::new(RefusalCode::CertificateRequired, text, "Enrol with a join token first.");
                    self.refuse(refusal, ctx);
                }
            },
            _ => self.malformed("the first message must be an enrolment or a hello", ctx),
        }
    }

    fn malformed(&mut self, text: &str, ctx: &mut Context<Self>) {
        self.refuse(Refusal::new(RefusalCode::Malformed, text, "Upgrade the older program."), ctx);
    }

    /// Asks the Orchestrator; nothing else is read meanwhile.
    fn open(&mut self, role: Role, hello: Hello, ctx: &mut Context<Self>) {
        let (room, number, session) = (self.room.clone(), self.number, ctx.address());
        let peer = self.peer.to_string();
        let ask = async move {
            let orchestrator = room.orchestrator().await?;
            let arrived = Arrived { role, number, session, hello, peer };
            let busy = |_| super::fault::Fault::new(super::fault::FaultCode::Unavailable, "it is being restarted");
            orchestrator.send(arrived).await.map_err(busy)??;
            Ok::<_, super::fault::Fault>(orchestrator)
        };
        ctx.wait(ask.into_actor(self).map(move |asked, this, ctx| match asked {
            Ok(orchestrator) => {
                this.phase = Phase::Open { role, orchestrator };
                let welcome = {
                    let ledger = this.room.ledger();
                    let machine = match role {
                        Role::Machine(id) => ledger.machines.get(&id),
                        _ => None,
                    };
                    this.room.policy.welcome(machine)
                };
                this.say(ToMember::Welcome(welcome), ctx);
            }
            Err(fault) => this.refuse(fault.refusal(), ctx),
        }));
    }

    fn in_session(&mut self, role: Role, message: FromMember, ctx: &mut Context<Self>) {
        let Phase::Open { orchestrator, .. } = &self.phase else { return };
        match (role, message) {
            (_, FromMember::Ping) => self.say(ToMember::Pong, ctx),
            (Role::Machine(machine), FromMember::Where) => {
                orchestrator.do_send(AskWhere { machine, session: ctx.address() });
            }
            (Role::Machine(machine), FromMember::AgentReport(report)) => {
                orchestrator.do_send(Reported { machine, report });
            }
            (Role::ProcessServer(_), FromMember::Heartbeat(heartbeat)) => {
                if let Some(link) = &self.link {
                    link.do_send(FromServer::Heartbeat(heartbeat));
                }
            }
            (Role::ProcessServer(_), FromMember::Answer(answer)) => {
                if let Some(link) = &self.link {
                    link.do_send(FromServer::Answer(answer));
                }
            }
            (role, _) => self.malformed(&format!("{role} cannot say this in a session"), ctx),
        }
    }
}

type Heard = Result<FromMember, LinkError>;

/// One message; after an error, nothing more.
async fn next_message<R: AsyncRead + Unpin>(
    reader: Option<ControlReader<R>>,
) -> Option<(Heard, Option<ControlReader<R>>)> {
    let mut reader = reader?;
    match reader.from_member().await {
        Ok(message) => message.map(|message| (Ok(message), Some(reader))),
        Err(error) => Some((Err(error), None)),
    }
}

async fn write_all<W: AsyncWrite + Unpin>(mut writer: ControlWriter<W>, mut outbound: mpsc::Receiver<ToMember>) {
    while let Some(message) = outbound.recv().await {
        let sent = tokio::time::timeout(SAY_WITHIN, writer.to_member(&message)).await;
        if !matches!(sent, Ok(Ok(()))) {
            return;
        }
    }
    drop(tokio::time::timeout(SAY_WITHIN, writer.close()).await);
}

impl StreamHandler<Heard> for MemberSession {
    fn handle(&mut self, heard: Heard, ctx: &mut Self::Context) {
        self.heard_at = Instant::now();
        match (heard, &self.phase) {
            (Ok(message), Phase::Opening) => self.first_message(message, ctx),
            (Ok(message), Phase::Open { role, .. }) => {
                let role = *role;
                self.in_session(role, message, ctx);
            }
            (Ok(_), Phase::Enrolling) => self.malformed("an enrolment is under way", ctx),
            (Ok(_), Phase::Closing) => {}
            (Err(error), _) => self.malformed(&error.to_string(), ctx),
        }
    }

    /// The peer says no more. What waits for it is still sent.
    fn finished(&mut self, ctx: &mut Self::Context) {
        match self.phase {
            Phase::Enrolling | Phase::Closing => {}
            Phase::Opening | Phase::Open { .. } => ctx.stop(),
        }
    }
}

/// Say this to the member.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Tell(pub(crate) ToMember);

impl Handler<Tell> for MemberSession {
    type Result = ();

    fn handle(&mut self, Tell(message): Tell, ctx: &mut Self::Context) {
        if matches!(self.phase, Phase::Open { .. }) {
            self.say(message, ctx);
        }
    }
}

/// Heartbeats and answers go to this link from now on.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct UseLink(pub(crate) Addr<ProcessServerLink>);

impl Handler<UseLink> for MemberSession {
    type Result = ();

    fn handle(&mut self, UseLink(link): UseLink, _: &mut Self::Context) {
        self.link = Some(link);
    }
}
