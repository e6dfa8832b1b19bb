//! Connections between agents and process servers. Messages of one direction never overtake each other.

use std::time::Duration;

use super::context::{Context, Event, LinkNo};
use super::counters::Seen;
use super::log::ModelLog;
use super::process::Process;
use super::schedule::Kind;
use super::world::{SERVERS, World, seat};
use crate::protocol::ServerMessage;

/// A connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) machine: usize,
    agent_life: u64,
    pub(super) seat: usize,
    life: u64,
    pub(super) up: bool,
    to_agent_at: Duration,
    to_server_at: Duration,
    /// Nothing gets through to the process server, or to the agent; a connection never recovers from that.
    to_server_lost: bool,
    to_agent_lost: bool,
}

impl Link {
    fn loses_to_server(&mut self, ctx: &mut Context) -> bool {
        self.to_server_lost |= !self.to_agent_lost && ctx.suffers(Kind::LinkOneWay, Seen::LinkOneWay);
        self.to_server_lost
    }

    fn loses_to_agent(&mut self, ctx: &mut Context) -> bool {
        self.to_agent_lost |= !self.to_server_lost && ctx.suffers(Kind::LinkOneWay, Seen::LinkOneWay);
        self.to_agent_lost
    }
}

impl World {
    pub(super) fn is_up(&self, link: LinkNo) -> bool {
        self.links.get(&link).is_some_and(|link| link.up)
    }

    /// The agent connects: mostly to the owner, sometimes to one that was.
    pub(super) fn connect(&mut self, machine: usize) {
        let Some(agent) = self.machines[machine].agent.as_ref().filter(|agent| agent.link.is_none()) else { return };
        let agent_life = agent.life;
        let stale = !self.ctx.calm && self.ctx.chance.happens(200);
        let server = if stale { self.ctx.chance.below(SERVERS as u64) as usize } else { self.machines[machine].owner };
        let at = seat(machine, server);
        let again = Event::Connect(machine);
        let Some(process) = &mut self.seats[at].process else { return self.ctx.within(50_000, 300_000, again) };
        let life = process.life;
        if self.machines[machine].connected(&self.ctx).is_err() {
            return self.ctx.within(50_000, 300_000, again);
        }
        self.links_drawn += 1;
        let link = self.links_drawn;
        process.connected(link, self.machines[machine].log.machine, &self.ctx);
        let now = self.ctx.now;
        let new = Link {
            machine,
            agent_life,
            seat: at,
            life,
            up: true,
            to_agent_at: now,
            to_server_at: now,
            to_server_lost: false,
            to_agent_lost: false,
        };
        self.links.insert(link, new);
        self.links_up.insert(link);
        self.ctx.say(self.machines[machine].name(), format!("connects to server {server} by link {link}"));
        if let Some(agent) = &mut self.machines[machine].agent {
            agent.link = Some(link);
        }
    }

    pub(super) fn on_link(&mut self, link: LinkNo, act: impl FnOnce(&mut Process, &ModelLog, &mut Context)) {
        let Some(Link { seat, life, .. }) = self.links.get(&link) else { return };
        let (seat, life) = (*seat, *life);
        if self.seats[seat].process.as_ref().is_some_and(|process| process.life == life) {
            self.on_process(seat, act);
        }
    }

    pub(super) fn deliver(&mut self, link: LinkNo, message: ServerMessage) {
        let Some(machine) = self.links.get(&link).filter(|link| link.up).map(|link| link.machine) else { return };
        let mine = self.machines[machine].agent.as_ref().is_some_and(|agent| agent.link == Some(link));
        if mine && self.machines[machine].received(message, &mut self.ctx) {
            self.flush_agent(machine);
            self.drop_agents_link(machine);
        }
    }

    pub(super) fn flush_agent(&mut self, machine: usize) {
        let Some(link) = self.machines[machine].agent.as_ref().and_then(|agent| agent.link) else { return };
        while let Some(message) = self.machines[machine].poll_send() {
            let delay = self.link_delay();
            let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { continue };
            if state.loses_to_server(&mut self.ctx) {
                continue;
            }
            state.to_server_at = state.to_server_at.max(self.ctx.now + delay);
            let at = state.to_server_at;
            self.ctx.at(at, Event::ToServer(link, message));
        }
    }

    fn link_delay(&mut self) -> Duration {
        let longest = if self.ctx.suffers(Kind::LinkSlow, Seen::LinkSlow) { 300_000 } else { 3000 };
        Duration::from_micros(self.ctx.chance.between(100, longest))
    }

    pub(super) fn send_to_agent(&mut self, link: LinkNo, message: ServerMessage) {
        let delay = self.link_delay();
        let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { return };
        if state.loses_to_agent(&mut self.ctx) {
            return;
        }
        state.to_agent_at = state.to_agent_at.max(self.ctx.now + delay);
        let at = state.to_agent_at;
        self.ctx.at(at, Event::ToAgent(link, message));
    }

    /// The link breaks once what is under way on it has arrived (`after` microseconds), or before.
    pub(super) fn break_link(&mut self, link: LinkNo, after: u64) {
        self.ctx.within(after / 2, after.max(2), Event::LinkDown(link));
    }

    pub(super) fn drop_agents_link(&mut self, machine: usize) {
        if let Some(link) = self.machines[machine].agent.as_ref().and_then(|agent| agent.link) {
            self.break_link(link, 5000);
        }
    }

    /// Connections of agents that are gone.
    pub(super) fn drop_dead_links(&mut self, machine: usize) {
        let life = self.machines[machine].agent.as_ref().map(|agent| agent.life);
        let dead = |link: &Link| link.machine == machine && Some(link.agent_life) != life;
        let links: Vec<LinkNo> = self.links_up.iter().copied().filter(|link| dead(&self.links[link])).collect();
        links.into_iter().for_each(|link| self.link_down(link));
    }

    pub(super) fn link_down(&mut self, link: LinkNo) {
        let Some(state) = self.links.get_mut(&link).filter(|state| state.up) else { return };
        state.up = false;
        self.links_up.remove(&link);
        let machine = state.machine;
        // A half-open link: the process server may notice much later.
        let late = if self.ctx.suffers(Kind::LinkHalfOpen, Seen::LinkHalfOpen) { 4_000_000 } else { 1000 };
        self.ctx.within(0, late, Event::ServerNotices(link));
        if let Some(agent) = self.machines[machine].agent.as_mut().filter(|agent| agent.link == Some(link)) {
            agent.link = None;
            agent.end.disconnected(self.ctx.now);
            agent.splitter.forget_compares();
            self.ctx.within(5000, 200_000, Event::Connect(machine));
        }
    }
}
