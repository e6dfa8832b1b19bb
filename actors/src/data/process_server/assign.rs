//! Which machines are this process server's: assigning, releasing, letting go.

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::cache::dir::CacheDir;
use farshore_engine::control::messages::Assign;
use farshore_engine::ids::MachineId;
use farshore_engine::log::Owner;
use farshore_engine::vault::crypto::DataKey;
use slog::{info, warn};
use tokio::time::{Instant, timeout};

use super::{LocateMachine, ProcessServer};
use crate::data::DataError;
use crate::data::ledger::{KeyOffer, MachineSpec};
use crate::data::machine::{KeyIsHere, ReleaseLog, WaitAdopted};
use crate::data::messages::{Adopted, AssignMachine, ReleaseMachine, Released, SetPacking, SetRetention, WantScrub};
use crate::supervise::Warden;

/// How long a released machine's actor stays, so that its agent hears where to go.
const REDIRECT_WAIT: Duration = Duration::from_secs(30);
/// Pause before a machine's actor is looked for again.
const LOCATE_PAUSE: Duration = Duration::from_millis(20);

impl ProcessServer {
    fn assign(&mut self, assign: &Assign, ctx: &mut Context<Self>) -> Result<(), DataError> {
        let owner = Owner { epoch: assign.epoch, writer: assign.writer };
        let (machine, key) = (assign.machine, DataKey::from_bytes(*assign.data_key.bytes()));
        let pack = |spec: &MachineSpec| {
            if let Some(packing) = assign.packing {
                spec.board.edit(|status| status.packing = packing);
            }
        };
        if let Some(known) = self.spec.ledger.get(machine) {
            if known.owner == owner && known.timeline == assign.timeline {
                pack(&known);
                return self.same_again(&known, &key, ctx);
            }
            if known.owner.epoch >= owner.epoch {
                let newest = known.board.fenced_by().map_or(known.owner, |by| by.max(known.owner));
                return Err(DataError::StaleEpoch { machine, newest });
            }
        }
        // The actor of an earlier assignment, if there is one; a released machine's stays for a while.
        self.machines.dismiss(&machine);
        let here = (&self.spec.wiring, &*self.spec.ledger);
        let spec = MachineSpec::new(here, machine, assign.timeline, owner, Some(&key));
        pack(&spec);
        spec.board.edit(|status| status.doubted.clone_from(&assign.doubted));
        info!(self.log, "a machine is assigned"; "machine" => %machine, "owner" => %owner);
        self.spec.ledger.put(spec.clone());
        Warden::admit(self, machine, spec, ctx);
        Ok(())
    }

    /// The same assignment again: it may bring the key, and wakes a machine that was given up.
    fn same_again(&mut self, known: &MachineSpec, key: &DataKey, ctx: &mut Context<Self>) -> Result<(), DataError> {
        if known.key.assign(key) == KeyOffer::Differs {
            return Err(DataError::Locked(known.machine));
        }
        if let Some(machine) = self.machines.get(&known.machine) {
            machine.do_send(KeyIsHere);
        }
        Warden::admit(self, known.machine, known.clone(), ctx);
        Ok(())
    }

    fn released(&mut self, machine: MachineId, result: &Result<Released, DataError>, ctx: &mut Context<Self>) {
        if result.is_err() {
            return;
        }
        let Some(spec) = self.spec.ledger.get(machine) else { return };
        info!(self.log, "a machine is released"; "machine" => %machine, "owner" => %spec.owner, "result" => ?result);
        self.spec.ledger.remove(machine);
        self.forget_directory(spec.clone(), ctx);
        let epoch = spec.owner.epoch;
        ctx.run_later(REDIRECT_WAIT, move |server, _| {
            if server.spec.ledger.epoch(machine).is_none_or(|now| now == epoch) {
                server.machines.dismiss(&machine);
            }
        });
    }

    /// A restart must not take the machine for its own again.
    fn forget_directory(&self, spec: MachineSpec, ctx: &mut Context<Self>) {
        let (turn, log) = (spec.append_lane.take_turn(), self.log.clone());
        let forgetting = async move {
            let (wiring, machine) = (spec.wiring.clone(), spec.machine);
            let forget = move || {
                let config = &spec.wiring.config;
                let dir = CacheDir::open(config.io.clone(), &config.cache_dir, spec.machine, spec.timeline)?;
                dir.forget(spec.owner)
            };
            if let Ok(Err(error)) = turn.run(&wiring.file_pool, forget).await {
                warn!(log, "the released machine's cache stays"; "machine" => %machine, "why" => %error);
            }
        };
        ctx.spawn(forgetting.into_actor(self));
    }
}

/// Asks the machine's actor, and its later lives, until it answers or the time is over.
async fn adopted(server: Addr<ProcessServer>, machine: MachineId, within: Duration) -> Result<Adopted, DataError> {
    let (until, mut seen) = (Instant::now() + within, 0);
    let late = || DataError::TimedOut("adopting the machine's log");
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        let located = server.send(LocateMachine { machine, after: seen }).await;
        let Ok(Some((addr, life))) = located else {
            tokio::time::sleep(LOCATE_PAUSE).await;
            continue;
        };
        match timeout(left, addr.send(WaitAdopted)).await {
            Ok(Ok(Err(DataError::Restarting(_))) | Err(_)) => seen = life,
            Ok(Ok(answer)) => return answer,
            Err(_) => return Err(late()),
        }
    }
    Err(late())
}

impl Handler<AssignMachine> for ProcessServer {
    type Result = ResponseFuture<Result<Adopted, DataError>>;

    fn handle(&mut self, msg: AssignMachine, ctx: &mut Self::Context) -> Self::Result {
        self.chaos();
        if let Err(error) = self.assign(&msg.assignment, ctx) {
            return Box::pin(async move { Err(error) });
        }
        Box::pin(adopted(ctx.address(), msg.assignment.machine, msg.within))
    }
}

impl Handler<SetRetention> for ProcessServer {
    type Result = Result<(), DataError>;

    fn handle(&mut self, msg: SetRetention, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let spec = self.spec.ledger.get(msg.machine).ok_or(DataError::NotOwner(msg.machine))?;
        self.spec.wiring.config.store.wanted_for(msg.machine, Duration::from_secs(msg.ladder.reach_s()));
        spec.board.edit(|status| status.retention = Some(msg.ladder));
        Ok(())
    }
}

impl Handler<SetPacking> for ProcessServer {
    type Result = Result<(), DataError>;

    fn handle(&mut self, msg: SetPacking, _: &mut Self::Context) -> Self::Result {
        let spec = self.spec.ledger.get(msg.machine).ok_or(DataError::NotOwner(msg.machine))?;
        spec.board.edit(|status| status.packing = msg.packing);
        Ok(())
    }
}

impl Handler<WantScrub> for ProcessServer {
    type Result = Result<(), DataError>;

    fn handle(&mut self, msg: WantScrub, _: &mut Self::Context) -> Self::Result {
        let spec = self.spec.ledger.get(msg.machine).ok_or(DataError::NotOwner(msg.machine))?;
        spec.board.edit(|status| status.scrub_wanted = true);
        Ok(())
    }
}

impl Handler<ReleaseMachine> for ProcessServer {
    type Result = ResponseActFuture<Self, Result<Released, DataError>>;

    fn handle(&mut self, msg: ReleaseMachine, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let machine = msg.machine;
        let known = self.spec.ledger.get(machine).filter(|spec| spec.owner.epoch <= msg.epoch);
        let addr = self.machines.get(&machine).cloned();
        let releasing = async move {
            if known.is_none() {
                return Err(DataError::NotOwner(machine));
            }
            let addr = addr.ok_or(DataError::Restarting("the machine"))?;
            addr.send(ReleaseLog { within: msg.within }).await.unwrap_or(Err(DataError::Restarting("the machine")))
        };
        Box::pin(releasing.into_actor(self).map(move |result, server, ctx| {
            server.released(machine, &result, ctx);
            result
        }))
    }
}
