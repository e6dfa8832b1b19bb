//! The ledger: everything the configuration server remembers, as one pure value.
//!
//! ```text
//!   Decision ── decide(Draft over &Ledger) ──► Batch ── commit (state store) ──► apply(Batch) ──► Ledger
//!                       │ Fault: nothing happens
//! ```
//!
//! Invariants: the ledger changes only by batches that are already durable, so nobody ever sees or acts on what a crash
//! could take back; decisions are pure (time and chance come in with the draft) and all pass through one place, one
//! after the other; loading and applying are the same code.

pub mod assign;
pub mod audit;
pub mod jobs;
pub mod members;
pub mod protection;
pub mod records;
pub mod serve;
pub mod tokens;
pub mod webhooks;

use std::collections::{BTreeMap, BTreeSet};

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::{Chance, DiskNo, MachineId, Timestamp};
use farshore_engine::record::DiskInfo;

use self::records::{
    ApiToken, AssignmentRecord, AuditRecord, Counters, EventId, EventRecord, Installation, JobRecord, JobState,
    JoinToken, Machine, MachineDisk, ProcessServer, Record, ServeId, Served, ServedExport, Subject,
};
use self::webhooks::{Delivery, DeliveryId, Told, Webhook, WebhookId};
use super::fault::{Fault, FaultCode};
use super::state::{Batch, Change, Contents};

/// Events that are kept. Chosen: a month of a busy installation, some megabytes.
const EVENTS_MAX: usize = 10_000;
/// Longest text of an event or a step, in characters: with everything else of its record far below 4 KiB.
const TEXT_CHARS_MAX: usize = 600;
/// Longest label, in bytes.
pub const LABEL_BYTES_MAX: usize = 255;

/// A record that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "state record '{key}' cannot be understood ({cause}): it was written by a newer version, or the state is damaged"
)]
pub struct BadRecord {
    key: String,
    cause: String,
}

/// The rows of one table.
#[derive(Debug, Clone)]
pub struct Table<R: Record> {
    rows: BTreeMap<String, R>,
}

impl<R: Record> Default for Table<R> {
    fn default() -> Self {
        Self { rows: BTreeMap::new() }
    }
}

impl<R: Record> Table<R> {
    /// The row with this key.
    pub fn get(&self, key: &R::Key) -> Option<&R> {
        self.rows.get(&R::key_text(key))
    }

    /// Every row, in order of keys.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &R> {
        self.rows.values()
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        match value {
            Some(value) => {
                self.rows.insert(key.into(), serde_json::from_slice(value)?);
            }
            None => {
                self.rows.remove(key);
            }
        }
        Ok(())
    }
}

/// Everything that is remembered.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    installation: Table<Installation>,
    counters: Table<Counters>,
    /// Machines, removed ones too.
    pub machines: Table<Machine>,
    /// Their disks.
    pub disks: Table<MachineDisk>,
    /// Process servers, removed ones too.
    pub process_servers: Table<ProcessServer>,
    /// Who owns which machine.
    pub assignments: Table<AssignmentRecord>,
    /// Join tokens.
    pub join_tokens: Table<JoinToken>,
    /// API tokens.
    pub api_tokens: Table<ApiToken>,
    /// Jobs, finished ones for a while.
    pub jobs: Table<JobRecord>,
    /// Events, the newest ones.
    pub events: Table<EventRecord>,
    /// Points that are served.
    pub served: Table<Served>,
    /// Their exports.
    pub exports: Table<ServedExport>,
    /// Changes that were asked for, the newest ones.
    pub audit: Table<AuditRecord>,
    /// Who is told of changes of health.
    pub webhooks: Table<Webhook>,
    /// What they are told, the newest ones.
    pub deliveries: Table<Delivery>,
    /// What they were told is not normal.
    pub told: Table<Told>,
    /// Keys of jobs that are not over: they are looked at far more often than jobs change.
    running: BTreeSet<String>,
}

impl Ledger {
    /// The ledger that `contents` hold.
    pub fn load(contents: &Contents) -> Result<Self, BadRecord> {
        let mut ledger = Self::default();
        for (key, value) in contents {
            ledger.set(key, Some(value))?;
        }
        Ok(ledger)
    }

    /// Follows a batch that is durable.
    ///
    /// # Panics
    /// When the batch holds a record that this ledger cannot read: it was made by a decision over this very ledger.
    pub fn apply(&mut self, batch: &Batch) {
        for change in batch.changes() {
            let done = match change {
                Change::Put(key, value) => self.set(key, Some(value)),
                Change::Delete(key) => self.set(key, None),
            };
            done.expect("a decision writes only records that the ledger reads");
        }
    }

    fn set(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), BadRecord> {
        let bad = |cause: String| BadRecord { key: key.into(), cause };
        let (table, row) = key.split_once('/').ok_or_else(|| bad("it is in no table".into()))?;
        let done = match table {
            Installation::TABLE => self.installation.set(row, value),
            Counters::TABLE => self.counters.set(row, value),
            Machine::TABLE => self.machines.set(row, value),
            MachineDisk::TABLE => self.disks.set(row, value),
            ProcessServer::TABLE => self.process_servers.set(row, value),
            AssignmentRecord::TABLE => self.assignments.set(row, value),
            JoinToken::TABLE => self.join_tokens.set(row, value),
            ApiToken::TABLE => self.api_tokens.set(row, value),
            JobRecord::TABLE => {
                let set = self.jobs.set(row, value);
                match self.jobs.rows.get(row).is_some_and(|job| job.state == JobState::Running) {
                    true => self.running.insert(row.into()),
                    false => self.running.remove(row),
                };
                set
            }
            EventRecord::TABLE => self.events.set(row, value),
            Served::TABLE => self.served.set(row, value),
            AuditRecord::TABLE => self.audit.set(row, value),
            ServedExport::TABLE => self.exports.set(row, value),
            Webhook::TABLE => self.webhooks.set(row, value),
            Delivery::TABLE => self.deliveries.set(row, value),
            Told::TABLE => self.told.set(row, value),
            _ => return Err(bad("its table is not known".into())),
        };
        done.map_err(|error| bad(error.to_string()))
    }

    /// Who we are; `None` before the first start is through.
    pub fn installation(&self) -> Option<&Installation> {
        self.installation.get(&())
    }

    /// A machine that is there and not removed.
    pub fn machine(&self, id: MachineId) -> Result<&Machine, Fault> {
        let machine =
            self.machines.get(&id).ok_or_else(|| Fault::new(FaultCode::MachineUnknown, format!("machine {id}")))?;
        match machine.removed {
            true => Err(Fault::new(FaultCode::MachineRemoved, format!("machine {id} ('{}')", machine.name))),
            false => Ok(machine),
        }
    }

    /// A machine's disks, in order of numbers.
    pub fn disks_of(&self, machine: MachineId) -> impl Iterator<Item = &DiskInfo> {
        let from = MachineDisk::key_text(&(machine, DiskNo(0)));
        let to = MachineDisk::key_text(&(machine, DiskNo(u16::MAX)));
        self.disks.rows.range(from..=to).map(|(_, disk)| &disk.info)
    }

    /// A served point's exports, in order of disks.
    pub fn exports_of(&self, serve: ServeId) -> impl Iterator<Item = &ServedExport> {
        let from = ServedExport::key_text(&(serve, DiskNo(0)));
        let to = ServedExport::key_text(&(serve, DiskNo(u16::MAX)));
        self.exports.rows.range(from..=to).map(|(_, export)| export)
    }

    /// What a webhook was told and will be, the oldest first.
    pub fn deliveries_of(&self, webhook: WebhookId) -> impl DoubleEndedIterator<Item = &Delivery> {
        let from = Delivery::key_text(&(webhook, DeliveryId(0)));
        let to = Delivery::key_text(&(webhook, DeliveryId(u64::MAX)));
        self.deliveries.rows.range(from..=to).map(|(_, delivery)| delivery)
    }

    /// Jobs that are not over.
    pub fn running_jobs(&self) -> impl Iterator<Item = &JobRecord> {
        self.running.iter().filter_map(|key| self.jobs.rows.get(key))
    }
}

/// A change in the making: what a decision reads, and what it writes.
pub struct Draft<'a> {
    /// What is so now.
    pub ledger: &'a Ledger,
    /// The time.
    pub now: Timestamp,
    /// Chance for ids and secrets.
    pub chance: &'a mut dyn Chance,
    counters: Counters,
    batch: Batch,
    events: usize,
}

impl<'a> Draft<'a> {
    /// An empty draft.
    pub fn new(ledger: &'a Ledger, now: Timestamp, chance: &'a mut dyn Chance) -> Self {
        let counters = ledger.counters.get(&()).copied().unwrap_or_default();
        Self { ledger, now, chance, counters, batch: Batch::default(), events: 0 }
    }

    /// Sets a row.
    pub fn put<R: Record>(&mut self, record: &R) {
        let value = serde_json::to_vec(record).expect("records are plain data");
        self.batch.put(format!("{}/{}", R::TABLE, R::key_text(&record.key())), value);
    }

    /// Removes a row.
    pub fn delete<R: Record>(&mut self, key: &R::Key) {
        self.batch.delete(format!("{}/{}", R::TABLE, R::key_text(key)));
    }

    /// Raises an event. The oldest ones go.
    pub fn event(&mut self, severity: Severity, code: &str, subject: Subject, text: impl AsRef<str>) {
        self.counters.event += 1;
        self.events += 1;
        let text = plain(text.as_ref());
        let id = EventId(self.counters.event);
        self.put(&EventRecord { id, at: self.now, severity, code: plain(code), subject, text });
        let kept = self.ledger.events.len() + self.events;
        if kept > EVENTS_MAX
            && let Some(oldest) = self.ledger.events.iter().nth(self.events - 1)
        {
            self.delete::<EventRecord>(&oldest.id);
        }
    }

    /// A text with its bounds.
    pub fn text(&self, text: impl AsRef<str>) -> String {
        plain(text.as_ref())
    }

    fn next_job(&mut self) -> records::JobId {
        self.counters.job += 1;
        records::JobId(self.counters.job)
    }

    fn next_served(&mut self) -> ServeId {
        self.counters.served += 1;
        ServeId(self.counters.served)
    }

    /// What is to be committed.
    pub fn finish(mut self) -> Batch {
        if self.ledger.counters.get(&()) != Some(&self.counters) && !self.batch.is_empty() {
            let counters = self.counters;
            self.put(&counters);
        }
        self.batch
    }
}

/// Something that changes the ledger, or refuses to.
pub trait Decision: Send + 'static {
    /// What the one who asked is told once the change is durable.
    type Outcome: Send + 'static;

    /// Looks, and drafts the change. After a fault nothing of the draft is kept.
    fn decide(self, draft: &mut Draft<'_>) -> Result<Self::Outcome, Fault>;
}

/// Events that came from outside, written down together.
pub struct RaiseEvents(pub Vec<(Severity, String, Subject, String)>);

impl Decision for RaiseEvents {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        for (severity, code, subject, text) in self.0 {
            draft.event(severity, &code, subject, text);
        }
        Ok(())
    }
}

/// The first start: whose vault it is.
pub struct Found {
    /// The vault.
    pub vault: farshore_engine::ids::VaultId,
}

impl Decision for Found {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        if let Some(installation) = draft.ledger.installation() {
            let detail = format!("this installation's vault is {}, the one here is {}", installation.vault, self.vault);
            return match installation.vault == self.vault {
                true => Ok(()),
                false => Err(Fault::new(FaultCode::VaultForeign, detail)),
            };
        }
        draft.put(&Installation { vault: self.vault, created_at: draft.now, schema: 1 });
        draft.event(
            Severity::Info,
            "installation_founded",
            Subject::Installation,
            "First start: the installation was made.",
        );
        Ok(())
    }
}

/// A label that may be shown anywhere: 1 to 255 bytes without control characters.
pub fn check_label(label: &str, what: &str) -> Result<(), Fault> {
    if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
        let detail = format!("{what} must have 1 to {LABEL_BYTES_MAX} bytes without control characters");
        return Err(Fault::new(FaultCode::InvalidValue, detail));
    }
    Ok(())
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
