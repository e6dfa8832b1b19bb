//! The audit log: who asked for which change through the API, when, and what came of it.
//!
//! An entry is written when the outcome is known, before the caller hears it. A crash in between leaves the change without
//! its entry; the change's event, which is written together with it, names who asked.

use super::records::{ApiRole, AuditId, AuditRecord};
use super::{Decision, Draft};
use crate::control::fault::Fault;

/// Entries that are kept. Chosen: years of people's changes, some megabytes.
const ENTRIES_MAX: usize = 10_000;
/// Longest field, in characters.
const FIELD_CHARS_MAX: usize = 300;

/// Writes an entry.
#[derive(Debug, Clone)]
pub struct WriteAudit {
    /// Whose token it was.
    pub by: String,
    /// What it allows.
    pub role: ApiRole,
    /// What was asked for: the operation's name in the API.
    pub action: String,
    /// Of what: the request's path.
    pub target: String,
    /// Where the request came from.
    pub from: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The problem's code, where it was refused or failed.
    pub code: Option<String>,
}

impl Decision for WriteAudit {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let short = |text: String| -> String {
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(FIELD_CHARS_MAX).collect()
        };
        let Self { by, role, action, target, from, status, code } = self;
        draft.counters.audit += 1;
        let id = AuditId(draft.counters.audit);
        let (by, action, target, from) = (short(by), short(action), short(target), short(from));
        let at = draft.now;
        draft.put(&AuditRecord { id, at, by, role, action, target, from, status, code: code.map(short) });
        let surplus = (draft.ledger.audit.len() + 1).saturating_sub(ENTRIES_MAX);
        let oldest: Vec<AuditId> = draft.ledger.audit.iter().take(surplus).map(|entry| entry.id).collect();
        oldest.iter().for_each(|id| draft.delete::<AuditRecord>(id));
        Ok(())
    }
}
