//! The cache guard: measures room, tells agents how much they may send, throws out committed segments.

use std::collections::BTreeMap;

use actix::prelude::*;
use farshore_engine::cache::io::Space;
use farshore_engine::cache::limits::{CacheUsage, Pressure};
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::MachineId;
use farshore_engine::log::SegmentNo;
use slog::warn;

use super::ProcessServer;
use crate::data::machine::{Evict, SetPressure};
use crate::data::{CacheState, DataEventKind, IssueCode, MachineStatus};

impl ProcessServer {
    /// Once a tick: how much room is there, and what follows from it?
    pub(super) fn measure_cache(&mut self, ctx: &mut Context<Self>) {
        if self.measuring {
            return;
        }
        self.measuring = true;
        let wiring = self.spec.wiring.clone();
        let measuring = async move {
            let (io, dir) = (wiring.config.io.clone(), wiring.config.cache_dir.clone());
            wiring.file_pool.run(move || io.space(&dir)).await
        };
        ctx.spawn(measuring.into_actor(self).map(|space, server, _| {
            server.measuring = false;
            server.life.progress();
            match space {
                Ok(Ok(space)) => server.space_is_known(space),
                Ok(Err(error)) => warn!(server.log, "the cache disk cannot be measured"; "why" => %error),
                Err(error) => warn!(server.log, "the cache disk cannot be measured"; "why" => %error),
            }
        }));
    }

    fn usage(&self) -> CacheUsage {
        let mut usage = CacheUsage { space: self.space, waiting_bytes: 0, committed_bytes: 0 };
        for spec in self.spec.ledger.all() {
            usage.waiting_bytes += spec.board.read(|status| status.backlog_bytes);
            usage.committed_bytes += spec.board.spare_bytes();
        }
        usage
    }

    fn space_is_known(&mut self, space: Space) {
        self.space = space;
        let (usage, limits) = (self.usage(), self.spec.wiring.config.limits.cache);
        self.set_pressure(limits.pressure(&usage));
        let mut spares: Vec<(u64, MachineId, SegmentNo, u64)> = Vec::new();
        for spec in self.spec.ledger.all() {
            let of_machine = spec.board.spares();
            spares.extend(of_machine.iter().map(|spare| (spare.order, spec.machine, spare.segment, spare.bytes)));
        }
        spares.sort_unstable();
        let oldest_first = spares.into_iter().map(|(_, machine, segment, bytes)| ((machine, segment), bytes));
        let mut leaving: BTreeMap<MachineId, Vec<SegmentNo>> = BTreeMap::new();
        for (machine, segment) in limits.choose_evicted(&usage, oldest_first) {
            leaving.entry(machine).or_default().push(segment);
        }
        for (machine, segments) in leaving {
            if let Some(addr) = self.machines.get(&machine) {
                addr.do_send(Evict(segments));
            }
        }
    }

    fn set_pressure(&self, pressure: Pressure) {
        let before = self.spec.wiring.set_pressure(pressure);
        if before == pressure {
            return;
        }
        let window_bytes = self.spec.wiring.window_bytes();
        for (_, machine) in self.machines.lives() {
            machine.do_send(SetPressure { window_bytes });
        }
        if issue(before) != issue(pressure) {
            self.tell_pressure(before, pressure);
        }
    }

    fn tell_pressure(&self, before: Pressure, pressure: Pressure) {
        let events = &self.spec.wiring.config.events;
        if let Some((code, _)) = issue(before) {
            events.tell(None, DataEventKind::Over { code });
        }
        let Some((code, severity)) = issue(pressure) else { return };
        let free_percent = self.spec.wiring.config.limits.cache.room_share(&self.usage()) / 10;
        let what = match pressure {
            Pressure::Refusing => "nothing is accepted: agents keep regions hot instead, and gaps open",
            Pressure::Throttled { .. } => "agents are throttled",
            _ => "agents will be throttled when it falls further",
        };
        let text = format!("the cache has {free_percent} % room left; {what}. Make room, or look at the vault");
        events.tell(None, DataEventKind::Trouble { code, severity, text });
    }

    pub(super) fn cache_state(&self, machines: &[MachineStatus]) -> CacheState {
        CacheState {
            used_bytes: machines.iter().map(|machine| machine.cached_bytes).sum(),
            budget_bytes: self.spec.wiring.config.limits.cache.budget_bytes,
            backlog_bytes: machines.iter().map(|machine| machine.backlog_bytes).sum(),
            disk_free_bytes: self.space.free_bytes,
            disk_total_bytes: self.space.total_bytes,
            pressure: self.spec.wiring.pressure(),
        }
    }
}

fn issue(pressure: Pressure) -> Option<(IssueCode, Severity)> {
    match pressure {
        Pressure::Normal => None,
        Pressure::Warning => Some((IssueCode::CacheShort, Severity::Warning)),
        Pressure::Critical => Some((IssueCode::CacheShort, Severity::Critical)),
        Pressure::Throttled { .. } => Some((IssueCode::CacheThrottled, Severity::Critical)),
        Pressure::Refusing => Some((IssueCode::CacheFull, Severity::Critical)),
    }
}
