//! The agent session: one connection of one agent.
//!
//! Owns: the connection, and the server's end of the protocol ([`ServerEnd`], pure). Parent: the machine.
//! Bounds: a batch is taken off the socket only with credit for its bytes, which travels with it; answers that the agent
//! does not read end the session.
//! Questions for digests are answered one after the other, out of the vault (`compare`); the protocol bounds how many wait.
//! In: what the agent says; [`ToSession`] from the machine. Out, to the machine: [`SessionHello`], [`AppendBatch`],
//! [`SessionIdle`].
//!
//! Crash story: a session is never revived. Its connection ends with it; the agent connects again and sends what is not
//! durable.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use actix::WeakAddr;
use actix::prelude::*;
use farshore_engine::batch::Batch;
use farshore_engine::ids::{Lsn, MachineId, Timestamp};
use farshore_engine::protocol::{
    AgentMessage, Digests, Hello, MarkRequest, OpenLog, Part, Redirect, Refusal, ServerEffect, ServerEnd, ServerMessage,
};
use farshore_engine::transport::framed::{FramedReader, FramedWriter, LinkError, framed};
use futures_util::stream;
use parking_lot::Mutex;
use slog::{debug, info};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::server::TlsStream;

use super::compare::{self, LogBefore};
use super::ledger::MachineSpec;
use super::machine::Machine;
use crate::supervise::{ActorKind, Credit, CreditPool, Life, Ward};

/// Answers that wait for the socket, at most. Chosen: more than a window of the smallest batches; an agent that reads
/// nothing of them is stuck.
const OUTBOX_MAX: usize = 16 << 10;
/// How long an agent has to read the last answers.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// How often silence is looked for.
const TICK: Duration = Duration::from_secs(1);

/// An agent's connection, with its handshake behind it.
pub(super) struct Connection {
    pub(super) stream: TlsStream<TcpStream>,
    /// Whose certificate it showed.
    pub(super) machine: MachineId,
    pub(super) address: SocketAddr,
}

/// What a session is made of. The first life takes the connection.
#[derive(Clone)]
pub(super) struct SessionSpec {
    pub(super) machine: MachineSpec,
    pub(super) number: u64,
    pub(super) home: WeakAddr<Machine>,
    pub(super) connection: Arc<Mutex<Option<Connection>>>,
}

/// To the machine: an agent wants to write its log.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SessionHello {
    pub(super) session: u64,
    pub(super) hello: Box<Hello>,
    pub(super) address: SocketAddr,
}

/// To the machine: the log's next batch.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct AppendBatch {
    pub(super) session: u64,
    pub(super) batch: Batch,
    pub(super) credit: Credit,
}

/// To the machine: nothing was written after `lsn` up to `at`.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) struct SessionIdle {
    pub(super) session: u64,
    pub(super) lsn: Lsn,
    pub(super) at: Timestamp,
}

/// From the machine.
#[derive(Message)]
#[rtype(result = "()")]
pub(super) enum ToSession {
    /// The answer to a hello.
    Open(Box<OpenLog>),
    /// The other answer.
    Refuse(Box<Refusal>),
    /// So far the log is on disk.
    Durable(Lsn),
    /// So far it is in the vault.
    Committed(Lsn),
    /// So many bytes may be given out and not durable.
    Window(u64),
    /// Ask for a mark.
    MarkNow(MarkRequest),
    /// The log has another owner.
    Redirect(Redirect),
    /// Find out whether the other end still exists.
    Probe,
    /// The session is over.
    End(String),
}

type Incoming = Result<(AgentMessage, Option<Credit>), LinkError>;
type Reader = FramedReader<ReadHalf<TlsStream<TcpStream>>>;
type Writer = FramedWriter<WriteHalf<TlsStream<TcpStream>>>;

/// The actor.
pub(super) struct AgentSession {
    spec: SessionSpec,
    life: Life,
    end: ServerEnd,
    address: SocketAddr,
    connection: Option<Connection>,
    /// Answers on their way; `None` once the session is closing.
    outbox: Option<mpsc::Sender<ServerMessage>>,
    /// The reader waits for credit: silence then is ours.
    starved: Arc<AtomicBool>,
    /// What the agent wants to compare, the oldest being read.
    compares: VecDeque<(Part, Lsn)>,
    before: LogBefore,
}

impl Ward for AgentSession {
    type Id = u64;
    type Spec = SessionSpec;
    const KIND: &'static str = "agent session";

    fn revive(spec: SessionSpec, life: Life, _: &mut Context<Self>) -> Self {
        let connection = spec.connection.lock().take();
        let address = connection.as_ref().map_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0)), |link| link.address);
        let now = spec.machine.wiring.now();
        let end = ServerEnd::new(spec.machine.machine, now);
        let (starved, compares, before) = (Arc::default(), VecDeque::new(), LogBefore::default());
        Self { spec, life, end, address, connection, outbox: None, starved, compares, before }
    }
}

impl Actor for AgentSession {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(connection) = self.connection.take() else { return ctx.stop() };
        self.life.pulse(ctx);
        let (reader, writer) = framed(connection.stream);
        let (outbox, answers) = mpsc::channel(OUTBOX_MAX);
        self.outbox = Some(outbox);
        ctx.spawn(write_answers(writer, answers).into_actor(self).map(|(), _, ctx| ctx.stop()));
        let memory = self.spec.machine.wiring.memory.clone();
        ctx.add_stream(incoming(reader, memory, self.starved.clone()));
        ctx.run_interval(TICK, Self::tick);
    }
}

/// Messages as they come, each batch with credit for its bytes.
fn incoming(reader: Reader, memory: CreditPool, starved: Arc<AtomicBool>) -> impl Stream<Item = Incoming> {
    stream::unfold(Some(reader), move |reader| {
        let (memory, starved) = (memory.clone(), starved.clone());
        async move {
            let mut reader = reader?;
            match reader.read::<AgentMessage>().await {
                Ok(Some(message)) => {
                    let credit = match &message {
                        AgentMessage::Batch(batch) => {
                            starved.store(true, Relaxed);
                            let credit = memory.take(batch.weight_bytes()).await;
                            starved.store(false, Relaxed);
                            Some(credit)
                        }
                        _ => None,
                    };
                    Some((Ok((message, credit)), Some(reader)))
                }
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }
    })
}

/// Sends answers until there are no more, then ends the connection.
async fn write_answers(mut writer: Writer, mut answers: mpsc::Receiver<ServerMessage>) {
    while let Some(answer) = answers.recv().await {
        writer.queue(&answer);
        while !writer.is_full()
            && let Ok(answer) = answers.try_recv()
        {
            writer.queue(&answer);
        }
        if writer.flush().await.is_err() {
            return;
        }
    }
    // The agent may be gone already; there is nobody left to tell.
    writer.close().await.unwrap_or_default();
}

impl AgentSession {
    fn chaos(&self) {
        self.spec.machine.wiring.config.chaos.check(ActorKind::AgentSession, Some(self.spec.machine.machine));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        let effects =
            if self.starved.load(Relaxed) { self.end.probe() } else { self.end.tick(self.spec.machine.wiring.now()) };
        self.carry_out(effects, None, ctx);
    }

    fn carry_out(&mut self, effects: Vec<ServerEffect>, mut credit: Option<Credit>, ctx: &mut Context<Self>) {
        let session = self.spec.number;
        let Some(home) = self.spec.home.upgrade() else { return ctx.stop() };
        for effect in effects {
            match effect {
                ServerEffect::Introduced(hello) => {
                    home.do_send(SessionHello { session, hello, address: self.address });
                }
                ServerEffect::Accept(batch) => {
                    let credit = credit.take().expect("a batch comes with its credit");
                    home.do_send(AppendBatch { session, batch, credit });
                }
                ServerEffect::Idle { lsn, at } => home.do_send(SessionIdle { session, lsn, at }),
                ServerEffect::Compare { part, at } => {
                    self.compares.push_back((part, at));
                    if self.compares.len() == 1 {
                        self.compare(ctx);
                    }
                }
                ServerEffect::Send(message) => self.send(message, ctx),
                ServerEffect::Close(reason) => self.close(&reason, ctx),
            }
        }
    }

    /// Reads the oldest part that is asked for.
    fn compare(&self, ctx: &mut Context<Self>) {
        let Some((part, at)) = self.compares.front().copied() else { return };
        let reading = compare::digests(self.spec.machine.clone(), self.before.clone(), part, at);
        ctx.spawn(reading.into_actor(self).map(Self::compared));
    }

    fn compared(digests: Digests, session: &mut Self, ctx: &mut Context<Self>) {
        session.chaos();
        session.life.progress();
        session.compares.pop_front();
        let effects = session.end.digests(digests);
        session.carry_out(effects, None, ctx);
        session.compare(ctx);
    }

    fn send(&mut self, message: ServerMessage, ctx: &mut Context<Self>) {
        let Some(outbox) = &self.outbox else { return };
        if outbox.try_send(message).is_err() {
            info!(self.spec.machine.wiring.config.log, "an agent does not read its answers; the session is ended";
                "machine" => %self.spec.machine.machine);
            ctx.stop();
        }
    }

    /// What waits is still sent; then the writer ends the connection, and the actor with it.
    fn close(&mut self, reason: &str, ctx: &mut Context<Self>) {
        if self.outbox.take().is_some() {
            debug!(self.spec.machine.wiring.config.log, "an agent's session closes"; "reason" => reason,
                "machine" => %self.spec.machine.machine, "session" => self.spec.number);
            ctx.run_later(CLOSE_MAX, |_, ctx| ctx.stop());
        }
    }
}

impl StreamHandler<Incoming> for AgentSession {
    fn handle(&mut self, item: Incoming, ctx: &mut Self::Context) {
        self.chaos();
        self.life.progress();
        let (effects, credit) = match item {
            Ok((message, credit)) => (self.end.received(message, self.spec.machine.wiring.now()), credit),
            Err(LinkError::Frame(fault)) => (self.end.broken(&fault), None),
            Err(LinkError::Stream(_) | LinkError::Cut) => return ctx.stop(),
        };
        self.carry_out(effects, credit, ctx);
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        self.close("the connection has ended", ctx);
    }
}

impl Handler<ToSession> for AgentSession {
    type Result = ();

    fn handle(&mut self, msg: ToSession, ctx: &mut Self::Context) {
        self.chaos();
        let effects = match msg {
            ToSession::Open(found) => self.end.open(*found),
            ToSession::Refuse(refusal) => self.end.refuse(*refusal),
            ToSession::Durable(lsn) => self.end.durable(lsn),
            ToSession::Committed(lsn) => self.end.committed(lsn),
            ToSession::Window(bytes) => self.end.set_window(bytes),
            ToSession::MarkNow(request) => self.end.mark_now(request),
            ToSession::Redirect(redirect) => self.end.redirect(redirect),
            ToSession::Probe => self.end.probe(),
            ToSession::End(reason) => self.end.retire(&reason),
        };
        self.carry_out(effects, None, ctx);
    }
}
