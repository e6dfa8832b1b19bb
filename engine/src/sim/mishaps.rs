//! What goes wrong with processes, machines and disks, as the schedule says.

use super::context::Event;
use super::counters::Seen;
use super::machine::{Copy, DISKS, MACHINES, Machine};
use super::process::CACHE_BYTES;
use super::schedule::{Fault, Kind};
use super::source::BLOCKS;
use super::world::{SERVERS, World, seat};
use crate::cache::model::ModelDisk;

/// What is changed behind an agent's back shows by a time that no life of it can have left, in nanoseconds.
const BEHIND_NS: i64 = 11_000_000_000;

impl World {
    /// A fault strikes.
    pub(super) fn strike(&mut self, fault: &Fault) {
        self.ctx.say("fault", fault);
        let server = (fault.aim % SERVERS as u64) as usize;
        let machine = (fault.aim / 7 % MACHINES as u64) as usize;
        match fault.kind {
            Kind::LinkLost => {
                self.ctx.seen(Seen::LinkLost);
                self.drop_agents_link(machine);
            }
            Kind::ServerKilled => self.kill(server, false),
            Kind::ServerPowerCut => self.kill(server, true),
            Kind::HostFails => self.fail_host(server, fault),
            Kind::NewOwner => {
                self.ctx.seen(Seen::OwnerReplaced);
                self.assign(machine, server);
            }
            Kind::PlannedMove => self.begin_move(machine),
            Kind::CacheFull => self.fill_disk(server, fault),
            Kind::CacheLost => self.lose_cache(server),
            Kind::CacheDamaged => self.damage_cache(server),
            Kind::AgentKilled => {
                self.ctx.seen(Seen::AgentKilled);
                self.end_agent(machine);
            }
            Kind::AgentStopped => self.stop_agent(machine, fault),
            Kind::MachinePowerCut => {
                self.ctx.seen(Seen::MachinePowerCut);
                self.cut_machine(machine);
            }
            Kind::MachineDies => {
                let media: Vec<_> = self.machines[machine].media().cloned().collect();
                media[(fault.aim / 11) as usize % media.len()].dies_after((fault.aim / 101 % 5) as u32);
            }
            Kind::ChangedBehind => self.change_behind(machine, fault),
            Kind::StateLost => {
                self.ctx.seen(Seen::StateLost);
                self.end_agent(machine);
                self.machines[machine].state.plant(Vec::new());
            }
            Kind::ActivityLogLost => self.lose_activity_log(machine, fault),
            Kind::ActivityLogFails => {
                self.ctx.seen(Seen::ActivityLogFails);
                self.machines[machine].activity[fault.aim as usize % DISKS].fail((fault.aim / 11).is_multiple_of(2));
                self.ctx.at(self.ctx.now + fault.lasts, Event::MediumAgain(machine));
            }
            Kind::RolledBack => self.roll_back(machine),
            Kind::ClockJump => {
                self.ctx.seen(Seen::ClockJumped);
                let hour = 3_600_000_000;
                self.machines[machine].clock_micros += (fault.aim % (2 * hour)) as i64 - hour as i64;
            }
            _ => self.ctx.trouble(fault),
        }
    }

    pub(super) fn kill(&mut self, server: usize, power: bool) {
        self.ctx.say(format!("server {server}"), if power { "loses power" } else { "is killed" });
        self.ctx.seen(if power { Seen::ServerPowerCut } else { Seen::ServerKilled });
        for machine in 0..MACHINES {
            self.stop_process(seat(machine, server));
            self.ctx.within(20_000, 800_000, Event::Restart(seat(machine, server)));
        }
        if power {
            self.seats[server].disk.crash(&mut self.ctx.chance);
        } else if self.ctx.chance.happens(300) {
            self.ctx.within(20_000, 1_000_000, Event::PowerCut(server));
        }
    }

    /// What a process that died had not synced is in the page cache, and goes with the power: nobody was told that it could
    /// not be written back. In between a new process finds it, and the store is slow.
    fn fail_host(&mut self, server: usize, fault: &Fault) {
        self.ctx.seen(Seen::HostFailed);
        for machine in 0..MACHINES {
            self.stop_process(seat(machine, server));
            self.ctx.within(1000, 20_000, Event::Restart(seat(machine, server)));
        }
        // With room: on a full disk recovery syncs in place, and says at `settle` that this case is lost then.
        self.seats[server].disk.set_capacity(CACHE_BYTES);
        self.seats[server].disk.lose_pending();
        self.ctx.trouble(&Fault { kind: Kind::StoreSlow, strength: 1000, ..*fault });
        self.ctx.within(100_000, 500_000, Event::PowerCut(server));
    }

    /// An agent's process is gone; another starts soon.
    fn end_agent(&mut self, machine: usize) {
        self.machines[machine].kill_agent();
        self.ctx.within(20_000, 800_000, Event::AgentStart(machine));
    }

    /// A machine loses power. One that somebody changed in the meantime is down already.
    pub(super) fn cut_machine(&mut self, machine: usize) {
        self.ctx.say(format!("machine {machine}"), "loses power");
        if self.machines[machine].changed_behind.contains(&true) {
            self.machines[machine].kill_agent();
        } else {
            self.machines[machine].lose_power(&mut self.ctx);
        }
        self.ctx.within(50_000, 1_000_000, Event::AgentStart(machine));
    }

    fn stop_agent(&mut self, machine: usize, fault: &Fault) {
        let Some(agent) = self.machines[machine].agent.as_mut().filter(|agent| agent.stops_by.is_none()) else {
            return;
        };
        agent.stops_by = Some(self.ctx.now + fault.lasts);
        self.ctx.seen(Seen::AgentStopped);
        self.ctx.say(format!("machine {machine}"), "its agent is told to stop");
    }

    /// Somebody else writes to a disk while no agent looks.
    fn change_behind(&mut self, machine: usize, fault: &Fault) {
        self.end_agent(machine);
        let number = (fault.aim / 11) as usize % DISKS;
        let entry = &mut self.machines[machine];
        // Across a power cut nothing tells.
        let Some(seen) = entry.seen.as_ref().map(|seen| seen[number]) else { return };
        self.ctx.seen(Seen::ChangedBehind);
        for _ in 0..self.ctx.chance.between(1, 6) {
            let (block, value) = (self.ctx.chance.below(BLOCKS as u64) as usize, entry.draw_value());
            entry.disks[number].replace(block, value);
        }
        let identity = &mut entry.disks[number].identity;
        identity.modified_ns = identity.modified_ns.max(seen.at_ns) + BEHIND_NS;
        identity.changed_ns = identity.modified_ns;
        entry.changed_behind[number] = true;
    }

    fn lose_activity_log(&mut self, machine: usize, fault: &Fault) {
        self.end_agent(machine);
        self.ctx.seen(Seen::ActivityLogLost);
        let medium = &self.machines[machine].activity[(fault.aim / 11) as usize % DISKS];
        if (fault.aim / 101).is_multiple_of(2) { medium.plant(Vec::new()) } else { medium.flip(&mut self.ctx.chance) }
    }

    /// The whole machine goes back to a copy of it, or a copy is taken. Only beyond a life whose beginning is committed: within
    /// one the copy's reservation still covers what was written since (see `LSN_RESERVE`).
    fn roll_back(&mut self, machine: usize) {
        let entry = &mut self.machines[machine];
        match entry.copy.take().filter(|copy| copy.begun + 1 < entry.begun) {
            Some(copy) => {
                self.ctx.seen(Seen::RolledBack);
                self.ctx.say(format!("machine {machine}"), "goes back to a copy of it");
                entry.restore(&copy);
                self.ctx.within(20_000, 800_000, Event::AgentStart(machine));
            }
            None => entry.copy = Some(entry.copied()),
        }
    }

    fn fill_disk(&mut self, server: usize, fault: &Fault) {
        let room = self.ctx.chance.below(200_000);
        if self.seats[server].disk.has_lost_pending() {
            return;
        }
        self.ctx.say(format!("server {server}"), format!("has only {room} bytes of cache"));
        self.ctx.seen(Seen::CacheFull);
        self.seats[server].disk.set_capacity(room);
        self.ctx.at(self.ctx.now + fault.lasts, Event::RoomAgain(server));
    }

    /// The cache disk is replaced: what was durable there is gone, and only there.
    fn lose_cache(&mut self, server: usize) {
        self.ctx.say(format!("server {server}"), "loses its cache disk");
        self.ctx.seen(Seen::CacheLost);
        let disk = ModelDisk::new(CACHE_BYTES);
        for machine in 0..MACHINES {
            let at = seat(machine, server);
            self.stop_process(at);
            self.seats[at].disk = disk.clone();
            self.seats[at].told = None;
            self.ctx.within(20_000, 800_000, Event::Restart(at));
        }
    }

    /// A bit of the cache flips, while the process runs or not: what was durable may be gone, and nothing else.
    fn damage_cache(&mut self, server: usize) {
        if let Some(path) = self.seats[server].disk.flip(&mut self.ctx.chance) {
            self.ctx.say(format!("server {server}"), format!("loses a bit of {}", path.display()));
            self.ctx.seen(Seen::CacheDamaged);
            (0..MACHINES).for_each(|machine| self.seats[seat(machine, server)].damaged = true);
        }
    }
}

impl Machine {
    /// A copy of the machine as it is.
    fn copied(&self) -> Copy {
        let disks = self.disks.iter().map(|disk| (disk.live.clone(), disk.identity)).collect();
        Copy { disks, media: self.media().map(super::medium::ModelMedium::bytes).collect(), begun: self.begun }
    }

    fn restore(&mut self, copy: &Copy) {
        self.kill_agent();
        for (disk, (values, identity)) in self.disks.iter_mut().zip(&copy.disks) {
            for (block, value) in values.iter().enumerate() {
                disk.replace(block, *value);
            }
            disk.identity = *identity;
        }
        self.media().zip(&copy.media).for_each(|(medium, bytes)| medium.plant(bytes.clone()));
        self.seen = None;
        self.rolled_back = true;
        self.changed_behind = vec![true; DISKS];
    }
}
