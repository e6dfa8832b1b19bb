//! What several kinds of items have in common in their JSON: times, health, names of states.

use farshore_actors::control::health::Health;
use farshore_engine::control::messages::{Issue, Severity};
use farshore_engine::ids::Timestamp;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

/// The time now.
pub(crate) fn now() -> Timestamp {
    farshore_actors::supervise::wall_clock()
}

/// A time as RFC 3339 in UTC.
pub fn time(at: Timestamp) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1000).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{} us", at.0))
}

/// A time out of RFC 3339.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos().div_euclid(1000)).ok().map(Timestamp)
}

/// An enum's value as it stands in JSON.
pub(crate) fn name_of<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => unreachable!("only enums without contents are named: {other:?}"),
    }
}

/// How something is, beside its state.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HealthBody {
    /// `normal`, `warning` or `critical`.
    pub level: String,
    /// Code of the worst issue.
    pub code: Option<String>,
    /// What happened and why, of the worst issue.
    pub cause: Option<String>,
    /// What to do about the worst issue.
    pub remedy: Option<String>,
    /// Everything that is wrong, worst first.
    pub issues: Vec<IssueBody>,
}

/// Something that is wrong, for as long as it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct IssueBody {
    /// Stable code.
    pub code: String,
    /// `info`, `warning` or `critical`.
    pub severity: String,
    /// What happened and why.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl HealthBody {
    /// Health with its issues.
    pub fn new(level: Health, issues: Vec<Issue>) -> Self {
        let issues: Vec<_> = issues.into_iter().map(IssueBody::of).collect();
        let worst = issues.first().cloned();
        Self {
            level: name_of(&level),
            code: worst.as_ref().map(|issue| issue.code.clone()),
            cause: worst.as_ref().map(|issue| issue.cause.clone()),
            remedy: worst.map(|issue| issue.remedy),
            issues,
        }
    }
}

impl IssueBody {
    fn of(issue: Issue) -> Self {
        let Issue { code, severity, text, remedy } = issue;
        Self { code, severity: severity_name(severity), cause: text, remedy }
    }
}

/// A severity's name.
pub fn severity_name(severity: Severity) -> String {
    name_of(&severity)
}

/// Operations as they stand in JSON.
pub(crate) fn operations(allowed: &[&'static str]) -> Vec<String> {
    allowed.iter().map(|&operation| operation.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_their_microseconds_there_and_back() {
        for micros in [0, -1, 1_766_000_000_123_456, 999_999] {
            assert_eq!(parse_time(&time(Timestamp(micros))), Some(Timestamp(micros)), "{micros}");
        }
        assert_eq!(time(Timestamp(1_000_001)), "1970-01-01T00:00:01.000001Z");
        assert_eq!(parse_time("1970-01-01T01:00:00+01:00"), Some(Timestamp(0)));
        assert_eq!(parse_time("yesterday"), None);
    }
}
