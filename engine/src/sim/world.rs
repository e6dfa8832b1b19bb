//! The world of a run: machines, process servers, links, and who talks to whom.
//!
//! A seat is a machine's place on a process server: the process of each machine that a server runs has its own, and the
//! seats of a server share its disk and its fate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::context::{Context, Event, LinkNo, MachineEvent, ProcessEvent};
use super::counters::Seen;
use super::links::Link;
use super::log::ModelLog;
use super::machine::{MACHINES, Machine};
use super::mutation::Mutation;
use super::process::{CACHE_BYTES, End, Process, Server};
use super::schedule::Fault;
use super::session::Outgoing;
use crate::cache::model::ModelDisk;
use crate::ids::{Lsn, WriterId};
use crate::log::Owner;

/// Process servers of a run.
pub(super) const SERVERS: usize = 3;
/// How often a reader looks at the newest point while things go wrong, in microseconds at most.
const READ_EVERY: u64 = 4_000_000;

/// The place of a machine on a server.
pub(super) fn seat(machine: usize, server: usize) -> usize {
    machine * SERVERS + server
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) ctx: Context,
    pub(super) machines: Vec<Machine>,
    pub(super) seats: Vec<Server>,
    pub(super) links: BTreeMap<LinkNo, Link>,
    pub(super) links_up: BTreeSet<LinkNo>,
    pub(super) links_drawn: LinkNo,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Option<Mutation>, faults: Vec<Fault>) -> Self {
        let mut ctx = Context::new(seed, mutation);
        let machines: Vec<Machine> = (0..MACHINES).map(|index| Machine::new(index, &mut ctx.chance)).collect();
        let disks: Vec<ModelDisk> = (0..SERVERS).map(|_| ModelDisk::new(CACHE_BYTES)).collect();
        let seats = (0..MACHINES * SERVERS).map(|at| Server::new(at, disks[at % SERVERS].clone())).collect();
        let mut world =
            Self { ctx, machines, seats, links: BTreeMap::new(), links_up: BTreeSet::new(), links_drawn: 0 };
        for machine in 0..MACHINES {
            world.assign(machine, machine % SERVERS);
            world.machines[machine].start(&mut world.ctx);
            world.ctx.within(1000, 900_000, Event::AgentTick(machine));
            world.ctx.within(1_000_000, READ_EVERY, Event::Read(machine));
        }
        for fault in faults {
            world.ctx.at(fault.at, Event::Fault(fault));
        }
        world
    }

    /// Plays the next event; `false` when nothing is left, or something is broken.
    pub(super) fn step(&mut self) -> bool {
        let Some(event) = self.ctx.next() else { return false };
        self.play(event);
        for machine in 0..MACHINES {
            self.after_machine(machine);
        }
        self.ctx.broken.is_none()
    }

    fn play(&mut self, event: Event) {
        match event {
            Event::Machine { machine, life, event } => self.machine_event(machine, life, event),
            Event::AgentStart(machine) => self.machines[machine].start(&mut self.ctx),
            Event::AgentTick(machine) => {
                if self.machines[machine].tick(&mut self.ctx) {
                    self.flush_agent(machine);
                    self.drop_agents_link(machine);
                }
                self.ctx.at(self.ctx.now + Duration::from_secs(1), Event::AgentTick(machine));
            }
            Event::Connect(machine) => self.connect(machine),
            Event::ToAgent(link, message) => self.deliver(link, message),
            Event::ToServer(link, message) => {
                if self.is_up(link) {
                    self.on_link(link, |process, log, ctx| process.received(link, message, log, ctx));
                }
            }
            Event::LinkDown(link) => self.link_down(link),
            Event::ServerNotices(link) => self.on_link(link, |process, _, _| process.disconnected(link)),
            Event::Process { server, life, event } => self.process_event(server, life, event),
            Event::Land { machine, slot, object, by, waits } => match self.machines[machine].fill(slot, &object) {
                Ok(outcome) => {
                    self.ctx.say("store", format!("machine {machine}, slot {slot} for {by}: {outcome:?}"));
                    if let Some((server, life, attempt)) = waits {
                        let event = ProcessEvent::Published(attempt, Some(outcome));
                        self.ctx.within(300, 3000, Event::Process { server, life, event });
                    }
                }
                Err(broken) => self.ctx.fail(format!("machine {machine}: {broken}")),
            },
            Event::Restart(at) => {
                if self.seats[at].process.is_none() {
                    self.start_seat(at);
                }
            }
            Event::Fault(fault) => self.strike(&fault),
            Event::PowerCut(server) if !self.ctx.calm => self.kill(server, true),
            Event::PowerCut(_) => {}
            Event::Move(of) => self.move_on(of),
            Event::Redirect { machine, from } => self.redirect(machine, from),
            Event::LetGo { server, life } => self.let_go(server, life),
            Event::RoomAgain(server) => self.seats[server].disk.set_capacity(CACHE_BYTES),
            Event::MediumAgain(machine) => self.machines[machine].media().for_each(super::medium::ModelMedium::mend),
            Event::Read(machine) => self.read(machine),
        }
    }

    fn machine_event(&mut self, machine: usize, life: u64, event: MachineEvent) {
        let (entry, ctx) = (&mut self.machines[machine], &mut self.ctx);
        if entry.agent.as_ref().is_none_or(|agent| agent.life != life) {
            return;
        }
        match event {
            MachineEvent::Script => entry.script(ctx),
            MachineEvent::Request(number) => entry.step_request(number, ctx),
            MachineEvent::Scan => entry.step_scan(ctx),
            MachineEvent::Clock => entry.clock(ctx),
            MachineEvent::Cool => entry.cool(ctx),
            MachineEvent::Synced(disk, sync, content) => entry.synced(disk, sync, content, ctx),
            MachineEvent::Claim(mark) => {
                let snapshot = entry.snapshot();
                entry.marks.insert(mark, snapshot);
            }
        }
    }

    /// What an event left to be done around a machine, and what must hold then.
    fn after_machine(&mut self, machine: usize) {
        let entry = &mut self.machines[machine];
        if entry.media().any(super::medium::ModelMedium::died) {
            self.ctx.seen(Seen::AgentDied);
            self.cut_machine(machine);
        } else if entry.agent.as_ref().is_some_and(|agent| agent.starts_again) {
            entry.kill_agent();
            self.ctx.within(20_000, 200_000, Event::AgentStart(machine));
        }
        self.drop_dead_links(machine);
        self.flush_agent(machine);
        if let Err(broken) = self.machines[machine].check() {
            self.ctx.fail(format!("machine {machine}: {broken}"));
        }
    }

    /// A reader looks at the newest point.
    fn read(&mut self, machine: usize) {
        match super::check::check_points(&self.machines[machine].log, 1) {
            Ok(0) => {}
            Ok(_) => self.ctx.seen(Seen::PointRead),
            Err(broken) => self.ctx.fail(format!("machine {machine}: {broken}")),
        }
        if !self.ctx.calm {
            self.ctx.within(READ_EVERY / 2, READ_EVERY, Event::Read(machine));
        }
    }

    fn start_seat(&mut self, at: usize) {
        self.seats[at].start(&self.machines[at / SERVERS].log, &mut self.ctx);
    }

    fn process_event(&mut self, at: usize, life: u64, event: ProcessEvent) {
        if self.seats[at].process.as_ref().is_none_or(|process| process.life != life) {
            return;
        }
        if let ProcessEvent::TailRead = event {
            self.seats[at].tail_read(&self.machines[at / SERVERS].log, &mut self.ctx);
            if std::mem::take(&mut self.seats[at].wants_epoch) {
                self.ctx.seen(Seen::EpochAsked);
                self.assign(at / SERVERS, at % SERVERS);
            }
        } else {
            self.on_process(at, |process, log, ctx| match event {
                ProcessEvent::TailRead => {}
                ProcessEvent::Sealed(batch, item) => process.sealed(batch, *item, log, ctx),
                ProcessEvent::DiskDied(disk) => process.disk_died(disk, log, ctx),
                ProcessEvent::Compare(link) => process.compare(link, log, ctx),
                ProcessEvent::Sync(append) => process.sync(append, log, ctx),
                ProcessEvent::Tick => process.tick(log, ctx),
                ProcessEvent::FooterSealed(attempt, digest) => process.footer_sealed(attempt, digest, log, ctx),
                ProcessEvent::Staged(attempt, done) => process.staged(attempt, done, log, ctx),
                ProcessEvent::Published(attempt, outcome) => process.published(attempt, outcome, log, ctx),
                ProcessEvent::StagedLost(attempt) => process.staged_lost(attempt, log, ctx),
                ProcessEvent::Look(attempt, slot) => process.look(attempt, slot, log, ctx),
                ProcessEvent::Retry(attempt) => process.retry(attempt, log, ctx),
            });
        }
        self.after_process(at);
    }

    pub(super) fn on_process(&mut self, at: usize, act: impl FnOnce(&mut Process, &ModelLog, &mut Context)) {
        if let Some(process) = &mut self.seats[at].process {
            act(process, &self.machines[at / SERVERS].log, &mut self.ctx);
        }
        self.after_process(at);
    }

    /// What a process left to be done outside of it.
    fn after_process(&mut self, at: usize) {
        let Some(process) = &mut self.seats[at].process else { return };
        let outgoing = std::mem::take(&mut process.outgoing);
        let (end, told, owner) = (process.end, process.told, process.owner);
        if told > Lsn::ZERO {
            let before = self.seats[at].told.filter(|before| before.0 == owner);
            self.seats[at].told = Some((owner, before.map_or(told, |before| before.1.max(told))));
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
                self.stop_process(at);
                self.ctx.within(1000, 50_000, Event::Restart(at));
            }
            Some(End::Fenced) => {
                self.ctx.seen(Seen::Fenced);
                self.stop_process(at);
                self.seats[at].assigned = None;
            }
        }
    }

    pub(super) fn stop_process(&mut self, at: usize) {
        self.seats[at].process = None;
        let links: Vec<LinkNo> = self.links_up.iter().copied().filter(|link| self.links[link].seat == at).collect();
        links.into_iter().for_each(|link| self.break_link(link, 5000));
    }

    /// Gives a machine's log to a server, under a new epoch.
    pub(super) fn assign(&mut self, machine: usize, server: usize) {
        let entry = &mut self.machines[machine];
        entry.epoch = entry.epoch.next();
        entry.owner = server;
        let owner = Owner { epoch: entry.epoch, writer: WriterId::draw(&mut self.ctx.chance) };
        self.ctx.say("control", format!("server {server} gets machine {machine} as {owner}"));
        let at = seat(machine, server);
        self.stop_process(at);
        self.seats[at].assigned = Some(owner);
        self.start_seat(at);
    }

    /// From here on nothing goes wrong and nothing is written: everything must get through.
    pub(super) fn calm_down(&mut self) {
        self.ctx.say("faults", "are over");
        self.ctx.calm_down();
        self.seats.iter().for_each(|seat| seat.disk.set_capacity(CACHE_BYTES));
        for (machine, entry) in self.machines.iter().enumerate() {
            entry.media().for_each(super::medium::ModelMedium::mend);
            self.ctx.within(1000, 2000, Event::Restart(seat(machine, entry.owner)));
            self.ctx.within(1000, 2000, Event::AgentStart(machine));
        }
    }

    /// Whether everything is committed, every agent knows, and every replica is its disk.
    pub(super) fn is_through(&self) -> bool {
        let equal = |machine: &Machine| machine.disks.iter().map(|disk| &disk.live).eq(&machine.log.replay.disks);
        let through = |machine: &Machine| machine.agent.as_ref().is_some_and(super::life::Agent::is_through);
        self.machines.iter().all(|machine| through(machine) && equal(machine))
    }
}
