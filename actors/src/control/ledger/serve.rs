//! Served points: what is served where, so that it can be stopped after any restart.

use farshore_engine::control::messages::{Export, PointInfo, PointSelector, Severity};
use farshore_engine::ids::{DiskNo, MachineId, ProcessServerId};
use farshore_engine::record::DISKS_MAX;

use super::jobs::{draft_job, with_points};
use super::members::process_server;
use super::records::{JobKind, JobRecord, ServeId, Served, ServedExport, ServedState, Subject};
use super::{Decision, Draft, Ledger};
use crate::control::fault::{Fault, FaultCode};

/// Most points served at a time. Chosen: each holds an index and a cache at its process server.
const SERVED_MAX: usize = 64;

/// Begins to serve a point at the machine's owner.
pub struct BeginServe {
    /// The machine.
    pub machine: MachineId,
    /// Which point.
    pub selector: PointSelector,
    /// Which disks; empty: all.
    pub disks: Vec<DiskNo>,
    /// Refuse writes.
    pub read_only: bool,
    /// Who serves it.
    pub process_server: ProcessServerId,
    /// It is a test failover.
    pub test: bool,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginServe {
    type Outcome = (Served, JobRecord);

    fn decide(self, draft: &mut Draft<'_>) -> Result<Self::Outcome, Fault> {
        // A removed machine's replica may be served as well: that is what it is kept for.
        let machine = with_points(draft.ledger, self.machine)?;
        process_server(draft.ledger, self.process_server)?;
        if draft.ledger.served.len() >= SERVED_MAX {
            let detail = format!("{SERVED_MAX} points are served already: stop one first");
            return Err(Fault::new(FaultCode::InvalidValue, detail));
        }
        if self.disks.len() > DISKS_MAX {
            return Err(Fault::new(FaultCode::InvalidValue, format!("at most {DISKS_MAX} disks can be named")));
        }
        let served = Served {
            id: draft.next_served(),
            machine: self.machine,
            timeline: machine.timeline,
            process_server: self.process_server,
            selector: self.selector,
            disks: self.disks,
            read_only: self.read_only,
            state: ServedState::Starting,
            point: None,
            since: draft.now,
            test: self.test,
        };
        draft.put(&served);
        if self.test {
            let text = format!("{} began test failover {} of machine '{}'.", self.by, served.id, machine.name);
            draft.event(Severity::Info, "test_failover_begun", Subject::Machine(self.machine), text);
        }
        let job = draft_job(draft, JobKind::Serve { machine: self.machine, serve: served.id }, self.by);
        Ok((served, job))
    }
}

/// The point is served.
pub struct NowServed {
    /// Which.
    pub serve: ServeId,
    /// The point that was chosen.
    pub point: PointInfo,
    /// Its exports.
    pub exports: Vec<Export>,
}

impl Decision for NowServed {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let served = served(draft.ledger, self.serve)?.clone();
        let (machine, lsn) = (served.machine, self.point.lsn);
        // The list of disks is in the exports; a point of 256 disks would not fit into one record.
        let point = PointInfo { disks: Vec::new(), ..self.point };
        draft.put(&Served { state: ServedState::Serving, point: Some(point), ..served });
        self.exports.into_iter().for_each(|export| draft.put(&ServedExport { serve: self.serve, export }));
        let text = format!("The point at LSN {lsn} is served as {}.", self.serve);
        draft.event(Severity::Info, "point_served", Subject::Machine(machine), text);
        Ok(())
    }
}

/// Begins to end a served point.
pub struct BeginStop {
    /// Which.
    pub serve: ServeId,
    /// What was seen in a test failover; may be empty.
    pub notes: String,
    /// Who asks.
    pub by: String,
}

impl Decision for BeginStop {
    type Outcome = JobRecord;

    fn decide(self, draft: &mut Draft<'_>) -> Result<JobRecord, Fault> {
        let served = served(draft.ledger, self.serve)?.clone();
        let kind = JobKind::StopServing { machine: served.machine, serve: served.id };
        if let Some(job) = draft.ledger.running_jobs().find(|job| job.kind == kind) {
            return Ok(job.clone());
        }
        if served.test {
            let notes = if self.notes.is_empty() { "no notes" } else { &self.notes };
            let text = format!("{} cleaned up test failover {}: {notes}", self.by, served.id);
            draft.event(Severity::Info, "test_failover_cleaned_up", Subject::Machine(served.machine), text);
        }
        draft.put(&Served { state: ServedState::Stopping, ..served });
        Ok(draft_job(draft, kind, self.by))
    }
}

/// The point is no longer served, or never was.
pub struct NotServed {
    /// Which.
    pub serve: ServeId,
}

impl Decision for NotServed {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let disks: Vec<DiskNo> = draft.ledger.exports_of(self.serve).map(|export| export.export.disk).collect();
        disks.iter().for_each(|disk| draft.delete::<ServedExport>(&(self.serve, *disk)));
        draft.delete::<Served>(&self.serve);
        Ok(())
    }
}

/// A served point.
pub fn served(ledger: &Ledger, id: ServeId) -> Result<&Served, Fault> {
    ledger.served.get(&id).ok_or_else(|| Fault::new(FaultCode::ServedPointUnknown, format!("served point {id}")))
}
