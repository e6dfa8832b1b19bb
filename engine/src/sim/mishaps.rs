//! What goes wrong between processes, at times that chance draws.

use std::time::Duration;

use super::agent::Agent;
use super::context::Event;
use super::process::CACHE_BYTES;
use super::world::{SERVERS, World};
use crate::cache::model::ModelDisk;
use crate::protocol::Redirect;

/// One kind of mishap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BrokenLink,
    Kill,
    PowerCut,
    NewOwner,
    AgentRestart,
    PlannedMove,
    StoreAway,
    DiskFull,
    CacheLost,
    CacheDamaged,
}

const ALL: [Kind; KINDS] = [
    Kind::BrokenLink,
    Kind::Kill,
    Kind::PowerCut,
    Kind::NewOwner,
    Kind::AgentRestart,
    Kind::PlannedMove,
    Kind::StoreAway,
    Kind::DiskFull,
    Kind::CacheLost,
    Kind::CacheDamaged,
];

/// How many kinds there are.
pub(super) const KINDS: usize = 10;

/// How long a server that releases a log may take to send what it has.
const RELEASE: Duration = Duration::from_secs(1);

impl World {
    pub(super) fn mishap(&mut self) {
        if self.calm {
            return;
        }
        let server = self.ctx.chance.below(SERVERS as u64) as usize;
        match self.draw_kind() {
            Kind::BrokenLink => self.drop_agents_link(),
            Kind::Kill => self.kill(server, false),
            Kind::PowerCut => self.kill(server, true),
            Kind::NewOwner => self.assign(server),
            Kind::AgentRestart => self.restart_agent(),
            Kind::PlannedMove => self.begin_move(),
            Kind::StoreAway => self.take_store_away(),
            Kind::DiskFull => self.fill_disk(server),
            Kind::CacheLost => self.lose_cache(server),
            Kind::CacheDamaged => self.damage_cache(server),
        }
        self.ctx.within(50_000, 1_500_000, Event::Mishap);
    }

    fn draw_kind(&mut self) -> Kind {
        let weights = self.ctx.weather.mishaps;
        let mut drawn = self.ctx.chance.below(weights.iter().sum());
        let hit = ALL.into_iter().zip(weights).find(|(_, weight)| {
            let here = drawn < *weight;
            drawn = drawn.saturating_sub(*weight);
            here
        });
        hit.map_or(Kind::BrokenLink, |(kind, _)| kind)
    }

    pub(super) fn kill(&mut self, server: usize, power: bool) {
        if self.servers[server].process.is_none() {
            return;
        }
        self.ctx.say(format!("server {server}"), if power { "loses power" } else { "is killed" });
        self.stop_process(server);
        if power {
            self.servers[server].disk.crash(&mut self.ctx.chance);
        } else if self.ctx.chance.happens(300) {
            self.ctx.within(20_000, 1_000_000, Event::PowerCut(server));
        }
        self.ctx.within(20_000, 800_000, Event::Restart(server));
    }

    fn restart_agent(&mut self) {
        if !self.agent.silent && self.ctx.chance.happens(500) {
            // A clean stop: said now, over when the next mishap of this kind strikes.
            self.ctx.say("agent", "stops cleanly");
            return self.agent.stop(&mut self.history, &mut self.ctx);
        }
        if let Some(link) = self.agent.link {
            self.link_down(link);
        }
        let (machine, timeline) = (self.log.machine, self.log.timeline);
        self.agent =
            Agent::begin(machine, timeline, &self.log.key, Some(&self.agent), &mut self.history, &mut self.ctx);
        self.ctx.within(5000, 200_000, Event::Connect);
    }

    /// A planned move: release the source, then assign, adopt, redirect.
    fn begin_move(&mut self) {
        let from = self.owner;
        let to = (from + 1 + self.ctx.chance.below(SERVERS as u64 - 1) as usize) % SERVERS;
        self.ctx.say("control", format!("moves the machine from server {from} to server {to}"));
        self.on_process(from, |process, log, ctx| process.release(log, ctx));
        let latest = self.ctx.now + RELEASE;
        self.ctx.within(10_000, 30_000, Event::Move(from, to, latest));
    }

    pub(super) fn move_on(&mut self, from: usize, to: usize, latest: Duration) {
        if self.owner != from {
            return;
        }
        let released = self.servers[from].process.as_ref().is_none_or(|process| process.is_released());
        if !released && self.ctx.now < latest {
            return self.ctx.within(10_000, 30_000, Event::Move(from, to, latest));
        }
        let redirect = Redirect { addresses: vec![format!("server {to}")], epoch: self.epoch.next() };
        self.on_process(from, |process, _, _| process.redirect(&redirect));
        self.assign(to);
    }

    fn take_store_away(&mut self) {
        let away = Duration::from_micros(self.ctx.chance.between(100_000, 3_000_000));
        self.ctx.say("store", format!("is away for {} ms", away.as_millis()));
        self.ctx.store_away_until = self.ctx.now + away;
    }

    fn fill_disk(&mut self, server: usize) {
        let room = self.ctx.chance.below(200_000);
        self.ctx.say(format!("server {server}"), format!("has only {room} bytes of cache"));
        self.servers[server].disk.set_capacity(room);
        self.ctx.within(100_000, 2_000_000, Event::RoomAgain(server));
    }

    /// The cache disk is replaced: what was durable there is gone, and only there.
    fn lose_cache(&mut self, server: usize) {
        self.ctx.say(format!("server {server}"), "loses its cache disk");
        self.stop_process(server);
        self.servers[server].disk = ModelDisk::new(CACHE_BYTES);
        self.servers[server].told = None;
        self.ctx.within(20_000, 800_000, Event::Restart(server));
    }

    /// A bit of the cache flips, while the process runs or not: what was durable may be gone, and nothing else.
    fn damage_cache(&mut self, server: usize) {
        if let Some(path) = self.servers[server].disk.flip(&mut self.ctx.chance) {
            self.ctx.say(format!("server {server}"), format!("loses a bit of {}", path.display()));
            self.servers[server].damaged = true;
        }
    }
}
