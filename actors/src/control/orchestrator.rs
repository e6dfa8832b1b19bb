//! The Orchestrator: owns the ledger, the links and the jobs; every change goes through it, one after the other.
//!
//! Parent: `ConfigServer`. Children: `ProcessServerLink` per process server, `Job` per running job.
//! Bounds: one decision at a time; [`EVENTS_WAITING_MAX`] events that wait to be written.
//! Messages in: [`Decide`], [`Arrived`], [`Left`], [`AskWhere`], [`Reported`], [`Raise`]. Facts out: the ledger in the
//! control room; `Tell` to sessions.
//!
//! ```text
//!   Decide ─► draft over the ledger ─► commit (mailbox shut) ─► apply ─► upkeep ─► answer
//!                 │ Fault: answered, nothing changed          │ failed: the state store is gone, the process ends
//! ```
//!
//! Upkeep, after every change: a link for each process server; a Job for each running job; agents whose machine has a
//! newer owner are redirected, and those whose policy changed are told; members that were removed are told.
//!
//! Crash story: a life begins by loading the ledger; links, jobs and sessions begin anew. Nothing is lost but events that
//! were not written yet.

mod children;
mod sessions;

pub(crate) use self::sessions::{Arrived, AskWhere, Left, Reported};

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::{
    MemberEvent, NotProtected, NotProtectedReason, Refusal, RefusalCode, Severity, ToMember, Welcome,
};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, Timestamp};
use slog::{error, info};

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::job::Job;
use super::ledger::assign::told_to_agent;
use super::ledger::records::{JobId, Subject};
use super::ledger::{Decision, Draft, Ledger};
use super::live::Live;
use super::member_session::{MemberSession, Tell};
use super::process_server_link::ProcessServerLink;
use super::state::{Batch, StateError};
use crate::supervise::{ActorKind, Life, OsChance, Placement, RestartPolicy, Ward, Warden, attend, wall_clock};

/// Events that wait to be written; more at once are counted, not kept.
const EVENTS_WAITING_MAX: usize = 1000;
/// How often waiting events are written when nothing else is decided.
const EVENTS_EVERY: Duration = Duration::from_millis(500);

/// Owns the ledger.
pub(crate) struct Orchestrator {
    room: Arc<ControlRoom>,
    life: Life,
    chance: OsChance,
    links: Warden<ProcessServerLink>,
    jobs: Warden<Job>,
    servers: BTreeMap<ProcessServerId, SessionOf>,
    agents: BTreeMap<MachineId, AgentSessionOf>,
    events: VecDeque<(Severity, String, Subject, String)>,
    events_lost: u64,
}

/// A process server's open session.
struct SessionOf {
    number: u64,
    life: u64,
    session: Addr<MemberSession>,
}

/// An agent's open session.
struct AgentSessionOf {
    open: SessionOf,
    /// The epoch that the agent was last told of; `None`: it was told that nobody takes its writes.
    told: Option<Epoch>,
    /// What of the policy it was last told.
    welcome: Welcome,
    clone_told_at: Option<Timestamp>,
}

impl Ward for Orchestrator {
    type Id = u8;
    type Spec = Arc<ControlRoom>;
    const KIND: &'static str = "orchestrator";

    fn revive(room: Arc<ControlRoom>, life: Life, _: &mut Context<Self>) -> Self {
        let policy = RestartPolicy::default();
        let links = Warden::new(room.log.clone(), Placement::WithParent, policy.clone());
        let jobs = Warden::new(room.log.clone(), Placement::WithParent, policy);
        Self {
            room,
            life,
            chance: OsChance,
            links,
            jobs,
            servers: BTreeMap::new(),
            agents: BTreeMap::new(),
            events: VecDeque::new(),
            events_lost: 0,
        }
    }
}

impl Actor for Orchestrator {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        attend::<Self, ProcessServerLink>(self, ctx);
        attend::<Self, Job>(self, ctx);
        ctx.run_interval(EVENTS_EVERY, |this, ctx| this.write_events(ctx));
        let store = self.room.store.clone();
        ctx.wait(async move { store.load().await }.into_actor(self).map(Self::loaded));
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.room.orchestrator_is(None);
    }
}

impl Orchestrator {
    fn loaded(contents: Result<super::state::Contents, StateError>, this: &mut Self, ctx: &mut Context<Self>) {
        let ledger = contents
            .map_err(|error| error.to_string())
            .and_then(|contents| Ledger::load(&contents).map_err(|bad| bad.to_string()));
        match ledger {
            Ok(ledger) => {
                info!(this.room.log, "the ledger is loaded"; "machines" => ledger.machines.len(),
                    "process_servers" => ledger.process_servers.len(), "incarnation" => this.life.incarnation);
                this.room.with_ledger(|now| *now = ledger);
                this.room.with_live(|live| *live = Live { begun_at: wall_clock(), ..Live::default() });
                this.room.orchestrator_is(Some(ctx.address()));
                this.upkeep(ctx);
            }
            Err(why) => this.fail(&why, ctx),
        }
    }

    fn fail(&mut self, why: &str, ctx: &mut Context<Self>) {
        error!(self.room.log, "the configuration server cannot go on"; "why" => why);
        self.room.fail(why.to_owned());
        ctx.stop();
    }

    /// Drafts a decision together with the events that wait.
    fn draft<D: Decision>(&mut self, decision: D) -> Result<(D::Outcome, Batch), Fault> {
        let ledger = self.room.ledger();
        let mut draft = Draft::new(&ledger, wall_clock(), &mut self.chance);
        let outcome = decision.decide(&mut draft)?;
        if self.events_lost > 0 {
            let text = format!("{} events came faster than they could be written and were dropped.", self.events_lost);
            draft.event(Severity::Warning, "events_lost", Subject::Installation, text);
            self.events_lost = 0;
        }
        for (severity, code, subject, text) in self.events.drain(..) {
            draft.event(severity, &code, subject, text);
        }
        Ok((outcome, draft.finish()))
    }

    fn raise(&mut self, severity: Severity, code: &str, subject: Subject, text: String) {
        if self.events.len() >= EVENTS_WAITING_MAX {
            self.events_lost += 1;
            return;
        }
        self.events.push_back((severity, code.to_owned(), subject, text));
    }

    fn raise_members(&mut self, subject: Subject, events: Vec<MemberEvent>) {
        events.into_iter().for_each(|event| self.raise(event.severity, &event.code, subject, event.text));
    }

    fn write_events(&mut self, ctx: &mut Context<Self>) {
        if !self.events.is_empty() || self.events_lost > 0 {
            ctx.address().do_send(Decide(super::ledger::RaiseEvents(Vec::new())));
        }
    }

    fn committed(&mut self, batch: &Batch, ctx: &mut Context<Self>) {
        self.room.with_ledger(|ledger| ledger.apply(batch));
        self.room.count_change(batch);
        self.life.progress();
        self.upkeep(ctx);
    }

    fn upkeep(&mut self, ctx: &mut Context<Self>) {
        self.links_follow_the_ledger(ctx);
        self.jobs_follow_the_ledger(ctx);
        self.agents_follow_the_ledger();
    }

    fn links_follow_the_ledger(&mut self, ctx: &mut Context<Self>) {
        let servers: Vec<(ProcessServerId, bool)> =
            self.room.ledger().process_servers.iter().map(|server| (server.id, server.removed)).collect();
        for (server, removed) in servers {
            match (removed, self.links.contains(&server)) {
                (false, false) => Warden::<ProcessServerLink>::admit(self, server, (self.room.clone(), server), ctx),
                (true, true) => {
                    self.links.dismiss(&server);
                    self.room.link_is(server, None);
                    if let Some(session) = self.servers.remove(&server) {
                        session.session.do_send(removed_now("process server"));
                    }
                }
                _ => {}
            }
        }
    }

    fn jobs_follow_the_ledger(&mut self, ctx: &mut Context<Self>) {
        let running: Vec<JobId> = self.room.ledger().running_jobs().map(|job| job.id).collect();
        for job in running.into_iter().filter(|job| !self.jobs.contains(job)).collect::<Vec<_>>() {
            Warden::<Job>::admit(self, job, (self.room.clone(), job), ctx);
        }
    }

    fn agents_follow_the_ledger(&mut self) {
        let ledger = self.room.ledger();
        let mut gone = Vec::new();
        for (machine, agent) in &mut self.agents {
            let Ok(now) = ledger.machine(*machine) else {
                agent.open.session.do_send(removed_now("machine"));
                gone.push(*machine);
                continue;
            };
            let welcome = self.room.policy.welcome(Some(now));
            if agent.welcome != welcome {
                agent.welcome = welcome.clone();
                agent.open.session.do_send(Tell(ToMember::Welcome(welcome)));
            }
            let Some(assignment) = told_to_agent(&ledger, *machine) else { continue };
            if agent.told.is_none_or(|told| told < assignment.epoch) {
                agent.told = Some(assignment.epoch);
                agent.open.session.do_send(Tell(ToMember::Redirect(assignment)));
            }
        }
        drop(ledger);
        gone.iter().for_each(|machine| drop(self.agents.remove(machine)));
    }

    fn where_to(&mut self, machine: MachineId) -> ToMember {
        let ledger = self.room.ledger();
        let not = |reason, text: &str| ToMember::NotProtected(NotProtected { reason, text: text.into() });
        if ledger.machine(machine).is_err() {
            return not(NotProtectedReason::Removed, "The machine was removed: enrol it again with a new join token.");
        }
        if ledger.machine(machine).is_ok_and(|machine| machine.paused) {
            let text = "The operator paused this machine's protection: a redirect follows when it is resumed.";
            return not(NotProtectedReason::Preparing, text);
        }
        if let Some(assignment) = told_to_agent(&ledger, machine) {
            if let Some(agent) = self.agents.get_mut(&machine) {
                agent.told = Some(assignment.epoch);
            }
            return ToMember::Assigned(assignment);
        }
        match ledger.process_servers.iter().any(|server| !server.removed) {
            true => not(NotProtectedReason::Preparing, "A process server is being prepared: a redirect follows."),
            false => not(NotProtectedReason::NoProcessServer, "No process server has joined: start one."),
        }
    }
}

fn removed_now(what: &str) -> Tell {
    let text = format!("the {what} was removed from the inventory");
    Tell(ToMember::Refused(Refusal::new(RefusalCode::MemberRemoved, text, "Enrol again with a new join token.")))
}

/// Have the ledger changed.
pub(crate) struct Decide<D: Decision>(pub(crate) D);

impl<D: Decision> Message for Decide<D> {
    type Result = Result<D::Outcome, Fault>;
}

impl<D: Decision> Handler<Decide<D>> for Orchestrator {
    type Result = AtomicResponse<Self, Result<D::Outcome, Fault>>;

    fn handle(&mut self, Decide(decision): Decide<D>, _: &mut Self::Context) -> Self::Result {
        self.room.chaos.check(ActorKind::Orchestrator, None);
        let (outcome, batch) = match self.draft(decision) {
            Ok(drafted) => drafted,
            Err(fault) => return AtomicResponse::new(Box::pin(fut::ready(Err(fault)))),
        };
        if batch.is_empty() {
            return AtomicResponse::new(Box::pin(fut::ready(Ok(outcome))));
        }
        let store = self.room.store.clone();
        let commit = async move { store.commit(batch.clone()).await.map(|()| batch) };
        AtomicResponse::new(Box::pin(commit.into_actor(self).map(|committed, this, ctx| match committed {
            Ok(batch) => {
                this.committed(&batch, ctx);
                Ok(outcome)
            }
            Err(error) => {
                this.fail(&error.to_string(), ctx);
                Err(Fault::new(FaultCode::StateFailed, error.to_string()))
            }
        })))
    }
}

/// Something happened that the operator should see.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Raise {
    /// How much it matters.
    pub(crate) severity: Severity,
    /// Stable code.
    pub(crate) code: String,
    /// What it is about.
    pub(crate) subject: Subject,
    /// What happened, why, what to do.
    pub(crate) text: String,
}

impl Handler<Raise> for Orchestrator {
    type Result = ();

    fn handle(&mut self, msg: Raise, _: &mut Self::Context) {
        self.raise(msg.severity, &msg.code, msg.subject, msg.text);
    }
}
