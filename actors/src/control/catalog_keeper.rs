//! The CatalogKeeper: seals snapshots of the configuration server's state into the vault, so that the loss of this
//! machine is the loss of nothing else.
//!
//! Parent: `ConfigServer`'s root. Bounds: one snapshot at a time.
//!
//! ```text
//!   each second: did something lasting change? ─ yes, and the last try is [`SETTLE`] ago ─┐
//!                did anything change?          ─ yes, and it is [`AT_LEAST_EVERY`] ago ───┴─► load ─► seal ─► put ─► read back
//! ```
//!
//! A snapshot that cannot be written is tried again, and an event says so once, and again when it is through. A
//! generation that this process has not written shows that another configuration server of this installation lives.
//!
//! Crash story: a life begins by writing a snapshot; what is in the vault needs no memory of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use farshore_engine::control::messages::Severity;
use farshore_engine::vault::catalog::Catalog;
use slog::info;

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::ledger::RaiseEvents;
use super::ledger::records::Subject;
use super::vault_keeper::KeptCatalog;
use crate::supervise::{Life, Ward, wall_clock};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Shortest time between two tries: changes come in groups.
const SETTLE: Duration = Duration::from_secs(2);
/// Longest time that a passing change (a job, an event) waits for a snapshot.
const AT_LEAST_EVERY: Duration = Duration::from_secs(3600);

/// See the module.
pub(crate) struct CatalogKeeper {
    room: Arc<ControlRoom>,
    life: Life,
    /// Changes that the newest snapshot holds: all, and lasting ones.
    kept: Option<(u64, u64)>,
    generation: Option<u64>,
    tried_at: Option<Instant>,
    failing: bool,
    busy: bool,
}

impl Ward for CatalogKeeper {
    type Id = u8;
    type Spec = Arc<ControlRoom>;
    const KIND: &'static str = "catalog keeper";

    fn revive(room: Arc<ControlRoom>, life: Life, _: &mut Context<Self>) -> Self {
        Self { room, life, kept: None, generation: None, tried_at: None, failing: false, busy: false }
    }
}

impl Actor for CatalogKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl CatalogKeeper {
    fn is_due(&self, (all, lasting): (u64, u64)) -> bool {
        let Some(tried_at) = self.tried_at else { return true };
        match self.kept {
            Some((_, kept)) if kept == lasting => {
                self.kept != Some((all, lasting)) && tried_at.elapsed() >= AT_LEAST_EVERY
            }
            _ => tried_at.elapsed() >= SETTLE,
        }
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        let changes = self.room.changes();
        // Before the first start is through there is nothing to keep.
        if self.busy || !self.is_due(changes) || self.room.ledger().installation().is_none() {
            return;
        }
        (self.busy, self.tried_at) = (true, Some(Instant::now()));
        let room = self.room.clone();
        let written = async move {
            let catalog = snapshot(&room).await?;
            room.vault.keep_catalog(&catalog).await
        };
        ctx.spawn(written.into_actor(self).map(move |written, this, ctx| this.written(changes, written, ctx)));
    }

    fn written(&mut self, changes: (u64, u64), written: Result<KeptCatalog, Fault>, ctx: &mut Context<Self>) {
        self.busy = false;
        match written {
            Ok(now) => {
                info!(self.room.log, "the catalog was sealed into the vault"; "generation" => now.generation);
                if self.generation.is_some() && now.before != self.generation {
                    let text = "Another configuration server has written into this vault's catalog: after a recovery the \
                                old one must not be started again. Stop one of the two.";
                    self.raise(Severity::Critical, "catalog_rival", text.into(), ctx);
                }
                if self.failing {
                    let text = format!("The catalog is in the vault again, as generation {}.", now.generation);
                    self.raise(Severity::Info, "catalog_written", text, ctx);
                }
                (self.kept, self.generation, self.failing) = (Some(changes), Some(now.generation), false);
                self.life.progress();
            }
            Err(fault) if !self.failing => {
                self.failing = true;
                let text = format!(
                    "The configuration server's state could not be sealed into the vault: {fault}. It is tried again; \
                     until then a lost configuration server comes back as it was at the last snapshot."
                );
                self.raise(Severity::Warning, "catalog_not_written", text, ctx);
            }
            Err(_) => {}
        }
    }

    fn raise(&self, severity: Severity, code: &str, text: String, ctx: &mut Context<Self>) {
        let (room, events) = (self.room.clone(), vec![(severity, code.to_owned(), Subject::Installation, text)]);
        let raised = async move { drop(room.decide(RaiseEvents(events)).await) };
        ctx.spawn(raised.into_actor(self));
    }
}

/// The state as it is now, with the authority.
async fn snapshot(room: &ControlRoom) -> Result<Catalog, Fault> {
    let failed = |cause: String| Fault::new(FaultCode::StateFailed, cause);
    let contents = room.store.load().await.map_err(|error| failed(error.to_string()))?;
    let text = |(key, value): (String, Vec<u8>)| match String::from_utf8(value) {
        Ok(value) => Ok((key, value)),
        Err(_) => Err(failed(format!("record '{key}' is no text"))),
    };
    Ok(Catalog {
        vault: room.vault.vault(),
        created_at: wall_clock(),
        authority_pem: room.authority.certificate_pem().to_owned(),
        authority_key_pem: room.authority.key_pem(),
        records: contents.into_iter().map(text).collect::<Result<BTreeMap<_, _>, _>>()?,
    })
}
