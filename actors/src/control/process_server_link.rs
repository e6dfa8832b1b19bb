//! The link to one process server: commands down, answers and heartbeats up.
//!
//! Parent: Orchestrator. Bounds: [`PENDING_MAX`] commands that wait for their answer.
//! Messages in: [`Execute`], [`Attach`], [`Detach`], [`FromServer`]. Facts out: heartbeats into the live picture; remedies
//! where heartbeat and ledger disagree (see `reconcile`).
//!
//! ```text
//!   away ──Attach──► attached ──Heartbeat──► attached, heard ──silent for 5 s──► attached, silent (by the live picture)
//!     ▲                  │ Detach, or another session: every command that waits is answered "away"
//!     └──────────────────┘
//! ```
//!
//! Crash story: a new life has no session until the Orchestrator attaches the one that is open; commands that waited are
//! answered `Unavailable` and may have happened: all of them may be repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{Answer, Command, CommandResult, Heartbeat, Numbered, Refusal, ToMember};
use farshore_engine::ids::ProcessServerId;
use slog::{debug, warn};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::ledger::jobs::BeginProtect;
use super::ledger::records::Subject;
use super::ledger::serve::NotServed;
use super::member_session::{MemberSession, Tell};
use super::orchestrator::Raise;
use super::reconcile::{Remedy, remedies};
use crate::supervise::{ActorKind, Life, Ward, wall_clock};

/// Commands that wait for their answer.
const PENDING_MAX: usize = 1000;
/// How often heartbeat and ledger are compared.
const RECONCILE_EVERY: Duration = Duration::from_secs(3);
/// Time for a remedy's command.
const REMEDY_WITHIN: Duration = Duration::from_secs(60);

/// The link to one process server.
pub(crate) struct ProcessServerLink {
    room: Arc<ControlRoom>,
    life: Life,
    server: ProcessServerId,
    session: Option<(u64, Addr<MemberSession>)>,
    pending: HashMap<u64, oneshot::Sender<Result<CommandResult, Refusal>>>,
    last_command: u64,
    reconciled_at: Option<Instant>,
    remedies_under_way: usize,
}

impl Ward for ProcessServerLink {
    type Id = ProcessServerId;
    type Spec = (Arc<ControlRoom>, ProcessServerId);
    const KIND: &'static str = "process server link";

    fn revive((room, server): Self::Spec, life: Life, _: &mut Context<Self>) -> Self {
        // Numbers of an earlier life's commands must not be taken for this one's.
        let last_command = life.incarnation << 32;
        Self {
            room,
            life,
            server,
            session: None,
            pending: HashMap::new(),
            last_command,
            reconciled_at: None,
            remedies_under_way: 0,
        }
    }
}

impl Actor for ProcessServerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
    }
}

/// The process server has this session now.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Attach {
    /// Its number.
    pub(crate) number: u64,
    /// The session.
    pub(crate) session: Addr<MemberSession>,
}

impl Handler<Attach> for ProcessServerLink {
    type Result = ();

    fn handle(&mut self, msg: Attach, _: &mut Self::Context) {
        if self.session.as_ref().is_none_or(|(number, _)| *number != msg.number) {
            self.pending.clear();
            self.reconciled_at = None;
        }
        self.session = Some((msg.number, msg.session));
    }
}

/// That session is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Detach {
    /// Its number.
    pub(crate) number: u64,
}

impl Handler<Detach> for ProcessServerLink {
    type Result = ();

    fn handle(&mut self, msg: Detach, _: &mut Self::Context) {
        if self.session.as_ref().is_some_and(|(number, _)| *number == msg.number) {
            self.session = None;
            self.pending.clear();
        }
    }
}

/// Carry out a command.
#[derive(Message)]
#[rtype(result = "Result<CommandResult, Fault>")]
pub(crate) struct Execute {
    /// What.
    pub(crate) command: Command,
    /// Time for it.
    pub(crate) within: Duration,
}

impl Handler<Execute> for ProcessServerLink {
    type Result = ResponseFuture<Result<CommandResult, Fault>>;

    fn handle(&mut self, msg: Execute, _: &mut Self::Context) -> Self::Result {
        self.room.chaos.check(ActorKind::ProcessServerLink, None);
        let away = Fault::new(FaultCode::ProcessServerAway, format!("process server {} has no session", self.server));
        let Some((_, session)) = &self.session else { return Box::pin(async { Err(away) }) };
        // Answers that nobody waits for any more.
        self.pending.retain(|_, waiting| !waiting.is_closed());
        if self.pending.len() >= PENDING_MAX {
            let fault = Fault::new(FaultCode::Unavailable, format!("{PENDING_MAX} commands wait for their answer"));
            return Box::pin(async { Err(fault) });
        }
        self.last_command += 1;
        let (tell, answer) = oneshot::channel();
        self.pending.insert(self.last_command, tell);
        session.do_send(Tell(ToMember::Command(Numbered { id: self.last_command, command: msg.command })));
        Box::pin(async move {
            match tokio::time::timeout(msg.within, answer).await {
                Ok(Ok(Ok(result))) => Ok(result),
                Ok(Ok(Err(refusal))) => Err(Fault::from_refusal(&refusal)),
                Ok(Err(_)) => Err(away),
                Err(_) => Err(Fault::new(FaultCode::TimedOut, format!("no answer within {:?}", msg.within))),
            }
        })
    }
}

/// What the process server says in its session.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) enum FromServer {
    /// How it stands.
    Heartbeat(Heartbeat),
    /// What became of a command.
    Answer(Answer),
}

impl Handler<FromServer> for ProcessServerLink {
    type Result = ();

    fn handle(&mut self, msg: FromServer, ctx: &mut Self::Context) {
        self.room.chaos.check(ActorKind::ProcessServerLink, None);
        self.life.progress();
        match msg {
            FromServer::Answer(answer) => match self.pending.remove(&answer.id) {
                Some(waiting) => drop(waiting.send(answer.outcome)),
                None => debug!(self.room.log, "an answer that nobody waits for"; "command" => answer.id),
            },
            FromServer::Heartbeat(heartbeat) => self.heard(heartbeat, ctx),
        }
    }
}

impl ProcessServerLink {
    fn heard(&mut self, mut heartbeat: Heartbeat, ctx: &mut Context<Self>) {
        let events = std::mem::take(&mut heartbeat.events);
        let (room, subject) = (self.room.clone(), Subject::ProcessServer(self.server));
        let due = self.reconciled_at.is_none_or(|at| at.elapsed() >= RECONCILE_EVERY) && self.remedies_under_way == 0;
        if due {
            self.reconciled_at = Some(Instant::now());
            let plan = remedies(&self.room.ledger(), self.server, &heartbeat, &self.room.policy);
            plan.into_iter().for_each(|remedy| self.carry_out(remedy, ctx));
        }
        let now = wall_clock();
        self.room.with_live(|live| live.heard(self.server, now, heartbeat));
        if !events.is_empty() {
            let tell = async move {
                let Ok(orchestrator) = room.orchestrator().await else { return };
                for event in events {
                    orchestrator.do_send(Raise {
                        severity: event.severity,
                        code: event.code,
                        subject,
                        text: event.text,
                    });
                }
            };
            ctx.spawn(tell.into_actor(self));
        }
    }

    fn carry_out(&mut self, remedy: Remedy, ctx: &mut Context<Self>) {
        self.remedies_under_way += 1;
        let (room, server) = (self.room.clone(), self.server);
        let work = async move {
            let what = remedy.to_string();
            let outcome = perform(&room, server, remedy).await;
            (what, outcome)
        };
        ctx.spawn(work.into_actor(self).map(|(what, outcome), this, _| {
            this.remedies_under_way -= 1;
            if let Err(fault) = outcome {
                warn!(this.room.log, "a remedy failed and will be tried again"; "remedy" => what,
                    "process_server" => %this.server, "fault" => %fault);
            }
        }));
    }
}

async fn perform(room: &Arc<ControlRoom>, server: ProcessServerId, remedy: Remedy) -> Result<(), Fault> {
    let command = match remedy {
        Remedy::Protect { machine, why } => {
            return room.decide(BeginProtect { machine, by: format!("heartbeat: {why}") }).await.map(drop);
        }
        Remedy::ForgetServed { serve } => return room.decide(NotServed { serve }).await,
        Remedy::BringKey { machine, timeline, epoch, writer } => {
            let data_key = room.vault.data_key(machine).await?;
            Command::Assign(farshore_engine::control::messages::Assign {
                machine,
                timeline,
                epoch,
                writer,
                data_key,
                // The heartbeat that follows is answered with what it should be.
                packing: None,
                doubted: Vec::new(),
            })
        }
        Remedy::Release { machine, epoch } => {
            let within_ms = room.policy.release_within.as_millis() as u64;
            Command::Release { machine, epoch, within_ms }
        }
        Remedy::SetRetention { machine, ladder } => Command::SetRetention { machine, ladder },
        Remedy::SetPacking { machine, packing } => Command::SetPacking { machine, packing },
        Remedy::StopServing { serve } => Command::StopServing { serve },
    };
    room.execute(server, command, REMEDY_WITHIN).await.map(drop)
}
