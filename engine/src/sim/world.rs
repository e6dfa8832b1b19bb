//! The world of a run: links, process servers, the agent, the log, and what goes wrong between them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agent::{Agent, History};
use super::context::{Context, Event, LinkNo, ProcessEvent, Weather};
use super::log::ModelLog;
use super::mutation::Mutation;
use super::process::{CACHE_BYTES, End, Process, Server};
use super::session::Outgoing;
use crate::ids::{Epoch, Lsn, MachineId, TimelineId, WriterId};
use crate::log::Owner;
use crate::vault::crypto::DataKey;

pub(super) const SERVERS: usize = 3;

/// A connection. Messages of one direction never overtake each other.
#[derive(Debug)]
struct Link {
    server: usize,
    life: u64,
    up: bool,
    to_agent_at: Duration,
    to_server_at: Duration,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) ctx: Context,
    pub(super) log: ModelLog,
    pub(super) history: History,
    pub(super) agent: Agent,
    pub(super) servers: Vec<Server>,
    links: BTreeMap<LinkNo, Link>,
    links_drawn: LinkNo,
    pub(super) epoch: Epoch,
    /// The server that has the newest epoch.
    pub(super) owner: usize,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>) -> Self {
        let mut ctx = Context::new(seed, mutation);
        let machine = MachineId::draw(&mut ctx.chance);
        let timeline = TimelineId::draw(&mut ctx.chance);
        let log = ModelLog::new(machine, timeline, DataKey::draw(&mut ctx.chance), seed);
        let mut history = History::default();
        let agent = Agent::begin(machine, timeline, &log.key, None, &mut history, &mut ctx);
        let mut world = Self {
            ctx,
            log,
            history,
            agent,
            servers: (0..SERVERS).map(Server::new).collect(),
            links: BTreeMap::new(),
            links_drawn: 0,
            epoch: Epoch::ZERO,
            owner: 0,
            calm: false,
        };
        let weather = format!("{:?}", world.ctx.weather);
        world.ctx.say("weather", weather);
        world.assign(0);
        for event in [Event::Connect, Event::Script, Event::AgentTick, Event::Mishap] {
            world.ctx.within(1000, 100_000, event);
        }
        world
    }

    /// Plays the next event; `false` when nothing is left, or something is broken.
    pub(super) fn step(&mut self) -> bool {
        let Some(event) = self.ctx.next() else { return false };
        match event {
            Event::Script => self.agent.script(&mut self.history, &mut self.ctx),
            Event::AgentTick => {
                let in_log = self.log.last();
                if self.agent.tick(in_log, &mut self.history, &mut self.ctx) {
                    self.flush_agent();
                    self.drop_agents_link();
                }
            }
            Event::Connect => self.connect(),
            Event::ToAgent(link, message) => {
                if self.is_up(link) && self.agent.link == Some(link) {
                    let in_log = self.log.last();
                    if self.agent.received(message, in_log, &mut self.history, &mut self.ctx) {
                        self.flush_agent();
                        self.drop_agents_link();
                    }
                }
            }
            Event::ToServer(link, message) => {
                if self.is_up(link) {
                    self.on_link(link, |process, log, ctx| process.received(link, message, log, ctx));
                }
            }
            Event::LinkDown(link) => self.link_down(link),
            Event::Process { server, life, event } => self.process_event(server, life, event),
            Event::Land { slot, object, by, waits } => {
                let filled = self.log.fill(slot, &object);
                match filled {
                    Ok(outcome) => {
                        self.ctx.say("store", format!("slot {slot} for {by}: {outcome:?}"));
                        if let Some((server, life, attempt)) = waits {
                            let event = ProcessEvent::Published(attempt, Some(outcome));
                            self.ctx.within(300, 3000, Event::Process { server, life, event });
                        }
                    }
                    Err(broken) => self.ctx.fail(broken),
                }
            }
            Event::Restart(server) => {
                if self.servers[server].process.is_none() {
                    self.servers[server].start(&self.log, &mut self.ctx);
                }
            }
            Event::Mishap => self.mishap(),
            Event::PowerCut(server) if !self.calm => self.kill(server, true),
            Event::PowerCut(_) => {}
            Event::ServerNotices(link) => self.on_link(link, |process, _, _| process.disconnected(link)),
            Event::Move(from, to, latest) => self.move_on(from, to, latest),
            Event::RoomAgain(server) => self.servers[server].disk.set_capacity(CACHE_BYTES),
        }
        self.flush_agent();
        self.ctx.broken.is_none()
    }

    fn process_event(&mut self, server: usize, life: u64, event: ProcessEvent) {
        if self.servers[server].process.as_ref().is_none_or(|process| process.life != life) {
            return;
        }
        if let ProcessEvent::TailRead = event {
            self.servers[server].tail_read(&self.log, &mut self.ctx);
            if std::mem::take(&mut self.servers[server].wants_epoch) {
                self.assign(server);
            }
        } else {
            self.on_process(server, |process, log, ctx| match event {
                ProcessEvent::TailRead => {}
                ProcessEvent::Sealed(batch, item) => process.sealed(batch, *item, log, ctx),
                ProcessEvent::DiskDied(disk) => process.disk_died(disk, log, ctx),
                ProcessEvent::Sync(append) => process.sync(append, log, ctx),
                ProcessEvent::Tick => process.tick(log, ctx),
                ProcessEvent::FooterSealed(attempt, digest) => process.footer_sealed(attempt, digest, log, ctx),
                ProcessEvent::Staged(attempt, done) => process.staged(attempt, done, log, ctx),
                ProcessEvent::Published(attempt, outcome) => process.published(attempt, outcome, log, ctx),
                ProcessEvent::Look(attempt, slot) => process.look(attempt, slot, log, ctx),
                ProcessEvent::Retry(attempt) => process.retry(attempt, log, ctx),
            });
        }
        self.after_process(server);
    }

    pub(super) fn on_process(&mut self, server: usize, act: impl FnOnce(&mut Process, &ModelLog, &mut Context)) {
        if let Some(process) = &mut self.servers[server].process {
            act(process, &self.log, &mut self.ctx);
        }
        self.after_process(server);
    }

    fn on_link(&mut self, link: LinkNo, act: impl FnOnce(&mut Process, &ModelLog, &mut Context)) {
        let Some(Link { server, life, .. }) = self.links.get(&link) else { return };
        let (server, life) = (*server, *life);
        if self.servers[server].process.as_ref().is_some_and(|process| process.life == life) {
            self.on_process(server, act);
        }
    }

    /// What a process left to be done outside of it.
    fn after_process(&mut self, server: usize) {
        let Some(process) = &mut self.servers[server].process else { return };
        let outgoing = std::mem::take(&mut process.outgoing);
        let (end, told, owner) = (process.end, process.told, process.owner);
        if told > Lsn::ZERO {
            let before = self.servers[server].told.filter(|before| before.0 == owner);
            self.servers[server].told = Some((owner, before.map_or(told, |before| before.1.max(told))));
        }
        for outgoing in outgoing {
            match outgoing {
                Outgoing::Message(link, message) => self.send_to_agent(link, message),
                Outgoing::Close(link) => self.break_link(link, 2000),
            }
        }
        match end {
            None => {}
            Some(End::Again) => {
                self.stop_process(server);
                self.ctx.within(1000, 50_000, Event::Restart(server));
            }
            Some(End::Fenced) => {
                self.stop_process(server);
                self.servers[server].assigned = None;
            }
        }
    }

    pub(super) fn stop_process(&mut self, server: usize) {
        self.servers[server].process = None;
        let links: Vec<LinkNo> =
            self.links.iter().filter(|(_, link)| link.server == server && link.up).map(|(link, _)| *link).collect();
        links.into_iter().for_each(|link| self.break_link(link, 5000));
    }

    /// Gives the log to a server, under a new epoch.
    pub(super) fn assign(&mut self, server: usize) {
        self.epoch = self.epoch.next();
        let owner = Owner { epoch: self.epoch, writer: WriterId::draw(&mut self.ctx.chance) };
        self.ctx.say("control", format!("server {server} gets {owner}"));
        self.owner = server;
        self.stop_process(server);
        self.servers[server].assigned = Some(owner);
        self.servers[server].start(&self.log, &mut self.ctx);
    }

    // Links

    fn is_up(&self, link: LinkNo) -> bool {
        self.links.get(&link).is_some_and(|link| link.up)
    }

    /// The agent connects: mostly to the owner, sometimes to one that was.
    fn connect(&mut self) {
        if self.agent.link.is_some() {
            return;
        }
        let stale = !self.calm && self.ctx.chance.happens(200);
        let server = if stale { self.ctx.chance.below(SERVERS as u64) as usize } else { self.owner };
        let Some(process) = &mut self.servers[server].process else {
            return self.ctx.within(50_000, 300_000, Event::Connect);
        };
        self.links_drawn += 1;
        let link = self.links_drawn;
        process.connected(link, self.log.machine, &self.ctx);
        let at = self.ctx.now;
        let new = Link { server, life: process.life, up: true, to_agent_at: at, to_server_at: at };
        self.links.insert(link, new);
        self.ctx.say("agent", format!("connects to server {server} by link {link}"));
        self.agent.link = Some(link);
        self.agent.end.connected(self.ctx.now);
    }

    fn flush_agent(&mut self) {
        let Some(link) = self.agent.link else { return };
        while let Some(message) = self.agent.poll_send() {
            let delay = Duration::from_micros(self.ctx.chance.between(100, 3000));
            let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { continue };
            state.to_server_at = state.to_server_at.max(self.ctx.now + delay);
            let at = state.to_server_at;
            self.ctx.at(at, Event::ToServer(link, message));
        }
    }

    fn send_to_agent(&mut self, link: LinkNo, message: crate::protocol::ServerMessage) {
        let delay = Duration::from_micros(self.ctx.chance.between(100, 3000));
        let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { return };
        state.to_agent_at = state.to_agent_at.max(self.ctx.now + delay);
        let at = state.to_agent_at;
        self.ctx.at(at, Event::ToAgent(link, message));
    }

    /// The link breaks once what is under way on it has arrived (`after` microseconds), or before.
    fn break_link(&mut self, link: LinkNo, after: u64) {
        self.ctx.within(after / 2, after.max(2), Event::LinkDown(link));
    }

    pub(super) fn drop_agents_link(&mut self) {
        if let Some(link) = self.agent.link {
            self.break_link(link, 5000);
        }
    }

    pub(super) fn link_down(&mut self, link: LinkNo) {
        let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { return };
        state.up = false;
        // A half-open link: the process server may notice much later.
        let late = if self.ctx.chance.happens(300) { 2_000_000 } else { 1000 };
        self.ctx.within(0, late, Event::ServerNotices(link));
        if self.agent.link == Some(link) {
            self.agent.link = None;
            self.agent.end.disconnected(self.ctx.now);
            self.ctx.within(5000, 200_000, Event::Connect);
        }
    }

    /// From here on nothing goes wrong and nothing is written: everything must get through.
    pub(super) fn calm_down(&mut self) {
        self.ctx.say("weather", "calm");
        self.calm = true;
        self.ctx.store_away_until = Duration::ZERO;
        self.servers.iter().for_each(|server| server.disk.set_capacity(CACHE_BYTES));
        self.ctx.weather = Weather::calm();
        self.agent.silent = true;
        if self.servers[self.owner].process.is_none() {
            self.ctx.within(1000, 2000, Event::Restart(self.owner));
        }
    }

    /// Whether everything that the living agent wrote is committed, and it knows.
    pub(super) fn is_through(&self) -> bool {
        self.agent.end.is_drained() && self.agent.end.is_open()
    }
}
