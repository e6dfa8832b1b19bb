//! A process server's session with the configuration server: commands in, answers and heartbeats out.
//!
//! Parent: the node's root. Bounds: [`COMMANDS_MAX`] commands at a time; [`EVENTS_MAX`] events that wait for a session.
//! Messages in: the session's events. Facts out: answers, a heartbeat each second, [`LinkStatus`].
//!
//! ```text
//!   SessionDriver (reconnects by itself) ─► Connected ─► heartbeat at once, then each second
//!                                        ─► Command ─► DataPort::execute ─► Answer
//!                                        ─► Disconnected ─► status; replication goes on
//! ```
//!
//! Crash story: a new life opens a new session. Commands that were under way may have happened; the configuration server
//! repeats them, and all of them may be repeated.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use async_trait::async_trait;
use farshore_engine::control::client::{SessionEvent, SessionHandle, SessionTimes, session};
use farshore_engine::control::link::Connect;
use farshore_engine::control::messages::{
    Answer, CONTROL_VERSION, Command, CommandResult, FromMember, Heartbeat, Hello, MemberEvent, Numbered, Refusal,
    RefusalCode, ToMember,
};
use futures_util::stream;
use parking_lot::Mutex;
use slog::{Logger, info, warn};
use tokio::sync::{mpsc, watch};

use super::membership::Membership;
use crate::supervise::{
    Abort, Ended, Life, Loss, OsChance, Parent, Placement, RestartPolicy, Ward, Warden, attend, on_ended, start_root,
};

/// Commands that are carried out at a time.
const COMMANDS_MAX: usize = 64;
/// Events that wait for a session; the oldest go.
const EVENTS_MAX: usize = 1000;
/// How often a heartbeat is sent.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);
/// Events in one heartbeat.
const EVENTS_PER_HEARTBEAT: usize = 100;

/// What the link asks of the process server.
#[async_trait]
pub trait DataPort: Send + Sync {
    /// Carries out a command. The same command twice does what it did once.
    async fn execute(&self, command: Command) -> Result<CommandResult, Refusal>;

    /// How it stands; `None` while it is being restarted.
    async fn heartbeat(&self) -> Option<Heartbeat>;

    /// What happened since it was last asked.
    fn take_events(&self) -> Vec<MemberEvent>;
}

/// Where the session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkStatus {
    /// Not open, and why. Replication goes on.
    Away(String),
    /// Open, with this address.
    Connected(String),
}

/// What every life of the link is made of.
#[derive(Clone)]
pub struct LinkSpec {
    /// The process server.
    pub port: Arc<dyn DataPort>,
    /// Makes connections as this member.
    pub connect: Arc<dyn Connect>,
    /// Its papers.
    pub membership: Arc<Mutex<Membership>>,
    /// Where agents reach it.
    pub replication_addresses: Vec<String>,
    /// Version of the program.
    pub program_version: String,
    /// Drawn at the process's start.
    pub process_life: u64,
    /// Times of the session.
    pub times: SessionTimes,
    /// Where it logs.
    pub log: Logger,
    status: watch::Sender<LinkStatus>,
}

impl LinkSpec {
    /// For this member.
    pub fn new(
        port: Arc<dyn DataPort>,
        connect: Arc<dyn Connect>,
        membership: Membership,
        replication_addresses: Vec<String>,
        program_version: String,
        process_life: u64,
        log: Logger,
    ) -> Self {
        Self {
            port,
            connect,
            membership: Arc::new(Mutex::new(membership)),
            replication_addresses,
            program_version,
            process_life,
            times: SessionTimes::default(),
            log,
            status: watch::Sender::new(LinkStatus::Away("not connected yet".into())),
        }
    }
}

/// The link.
pub struct ConfigServerLink {
    spec: LinkSpec,
    life: Life,
    session: Option<SessionHandle>,
    commands: usize,
    heartbeat_under_way: bool,
    events: VecDeque<MemberEvent>,
}

impl Ward for ConfigServerLink {
    type Id = ();
    type Spec = LinkSpec;
    const KIND: &'static str = "configuration server link";

    fn revive(spec: LinkSpec, life: Life, _: &mut Context<Self>) -> Self {
        Self { spec, life, session: None, commands: 0, heartbeat_under_way: false, events: VecDeque::new() }
    }
}

impl Actor for ConfigServerLink {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        let hello = Hello {
            version: CONTROL_VERSION,
            life: self.spec.process_life,
            program_version: self.spec.program_version.clone(),
            replication_addresses: self.spec.replication_addresses.clone(),
            disks: Vec::new(),
        };
        let addresses = self.spec.membership.lock().control_addresses.clone();
        let hello = Arc::new(move || hello.clone());
        let (connect, times) = (self.spec.connect.clone(), self.spec.times.clone());
        let (handle, events, driver) = session(connect, addresses, hello, times, Box::new(OsChance));
        self.session = Some(handle);
        ctx.add_stream(stream::unfold(events, next_event));
        ctx.spawn(driver.run().into_actor(self));
        ctx.run_interval(HEARTBEAT_EVERY, |this, ctx| this.beat(ctx));
    }
}

async fn next_event(mut events: mpsc::Receiver<SessionEvent>) -> Option<(SessionEvent, mpsc::Receiver<SessionEvent>)> {
    events.recv().await.map(|event| (event, events))
}

impl StreamHandler<SessionEvent> for ConfigServerLink {
    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        match event {
            SessionEvent::Connected { address, welcome } => {
                info!(self.spec.log, "connected to the configuration server"; "address" => &address);
                let kept = self.spec.membership.lock().remember_addresses(&welcome.control_addresses);
                if let Err(error) = kept {
                    warn!(self.spec.log, "the configuration server's addresses could not be written down";
                        "error" => %error);
                }
                self.spec.status.send_replace(LinkStatus::Connected(address));
                self.beat(ctx);
            }
            SessionEvent::Disconnected { error, .. } => {
                let why = error.to_string();
                let changed = *self.spec.status.borrow() != LinkStatus::Away(why.clone());
                if changed {
                    warn!(self.spec.log, "no session with the configuration server; replication goes on"; "why" => &why);
                    self.spec.status.send_replace(LinkStatus::Away(why));
                }
            }
            SessionEvent::Message(ToMember::Command(command)) => self.carry_out(command, ctx),
            SessionEvent::Message(other) => {
                warn!(self.spec.log, "a message that no process server expects"; "message" => ?other);
            }
        }
    }
}

impl ConfigServerLink {
    fn say(&self, message: FromMember) -> bool {
        self.session.as_ref().is_some_and(|session| session.say(message).is_ok())
    }

    fn carry_out(&mut self, Numbered { id, command }: Numbered, ctx: &mut Context<Self>) {
        if self.commands >= COMMANDS_MAX {
            let text = format!("{COMMANDS_MAX} commands are under way");
            let refusal = Refusal::new(RefusalCode::Busy, text, "Try again in a few seconds.");
            self.say(FromMember::Answer(Answer { id, outcome: Err(refusal) }));
            return;
        }
        self.commands += 1;
        let port = self.spec.port.clone();
        let work = async move { port.execute(command).await };
        ctx.spawn(work.into_actor(self).map(move |outcome, this, _| {
            this.commands -= 1;
            this.life.progress();
            this.say(FromMember::Answer(Answer { id, outcome }));
        }));
    }

    fn beat(&mut self, ctx: &mut Context<Self>) {
        self.events.extend(self.spec.port.take_events());
        let surplus = self.events.len().saturating_sub(EVENTS_MAX);
        self.events.drain(..surplus);
        let open = self.session.as_ref().is_some_and(SessionHandle::is_open);
        if !open || self.heartbeat_under_way {
            return;
        }
        self.heartbeat_under_way = true;
        let port = self.spec.port.clone();
        let work = async move { port.heartbeat().await };
        ctx.spawn(work.into_actor(self).map(|heartbeat, this, _| {
            this.heartbeat_under_way = false;
            if let Some(heartbeat) = heartbeat {
                this.send_heartbeat(heartbeat);
            }
        }));
    }

    fn send_heartbeat(&mut self, mut heartbeat: Heartbeat) {
        let count = self.events.len().min(EVENTS_PER_HEARTBEAT);
        heartbeat.events.extend(self.events.range(..count).cloned());
        if self.say(FromMember::Heartbeat(heartbeat)) {
            self.events.drain(..count);
        }
    }
}

/// A link that is kept alive.
pub struct RunningLink {
    root: Abort,
    status: watch::Receiver<LinkStatus>,
}

impl RunningLink {
    /// Starts the link on the current arbiter. Must be called where an actix `System` runs.
    pub fn start(spec: LinkSpec) -> Self {
        let status = spec.status.subscribe();
        let log = spec.log.clone();
        let make = move |_: &mut Context<LinkRoot>| {
            let links = Warden::new(spec.log.clone(), Placement::WithParent, RestartPolicy::default());
            LinkRoot { spec, links }
        };
        let tell = move |ending| warn!(log, "the configuration server link's root ended"; "ending" => %ending);
        Self { root: start_root(make, tell).1, status }
    }

    /// Where the session stands.
    pub fn status(&self) -> watch::Receiver<LinkStatus> {
        self.status.clone()
    }
}

/// A link never outlives its handle.
impl Drop for RunningLink {
    fn drop(&mut self) {
        self.root.abort();
    }
}

struct LinkRoot {
    spec: LinkSpec,
    links: Warden<ConfigServerLink>,
}

impl Actor for LinkRoot {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        attend::<Self, ConfigServerLink>(self, ctx);
        let spec = self.spec.clone();
        Warden::<ConfigServerLink>::admit(self, (), spec, ctx);
    }
}

/// How long a link rests that kept failing.
const REST: Duration = Duration::from_secs(60);

impl Parent<ConfigServerLink> for LinkRoot {
    fn warden(&mut self) -> &mut Warden<ConfigServerLink> {
        &mut self.links
    }

    fn child_lost(&mut self, (): &(), loss: Loss, ctx: &mut Context<Self>) {
        self.spec.status.send_replace(LinkStatus::Away("the link is being restarted".into()));
        match loss {
            Loss::Restarting { .. } => {}
            Loss::GaveUp { .. } => {
                ctx.run_later(REST, |this, ctx| Warden::<ConfigServerLink>::resume(this, &(), ctx));
            }
            // The session's driver ends only with its handle: this is no life that was meant to end.
            Loss::Finished => {
                let spec = self.spec.clone();
                ctx.run_later(Duration::from_secs(1), |this, ctx| {
                    Warden::<ConfigServerLink>::admit(this, (), spec, ctx);
                });
            }
        }
    }
}

impl Handler<Ended<ConfigServerLink>> for LinkRoot {
    type Result = ();

    fn handle(&mut self, msg: Ended<ConfigServerLink>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}
