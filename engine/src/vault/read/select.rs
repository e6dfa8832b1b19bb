//! Which point an operator means: the newest, one by name, or the last one before a time.

use std::fmt;
use std::str::FromStr;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::points::RecoveryPoint;
use super::timeline::TimelineReader;
use crate::ids::{DiskNo, MarkId, Timestamp};

/// Which point is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest.
    Latest,
    /// The one with this id.
    Id(MarkId),
    /// The newest that was captured at this time or before it.
    At(Timestamp),
}

/// Why a text names no point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' names no point: use 'latest', a point's id (32 hexadecimal digits) or a time such as 2026-01-31T12:00:00Z"
)]
pub struct BadSelector(String);

impl FromStr for PointSelector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        parse_time(text).map(Self::At).ok_or_else(|| BadSelector(text.chars().take(64).collect()))
    }
}

impl fmt::Display for PointSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Id(id) => id.fmt(f),
            Self::At(time) => f.write_str(&show_time(*time)),
        }
    }
}

impl PointSelector {
    /// The point that is meant: the newest that covers all of `disks`. Where none are named, one named by its id is
    /// taken as it is, and any other must cover every disk that the machine had there.
    pub fn choose(&self, reader: &TimelineReader, disks: &[DiskNo]) -> Option<RecoveryPoint> {
        reader.find(|point| {
            let named = match self {
                Self::Latest => true,
                Self::Id(id) => point.id == *id,
                Self::At(time) => point.captured_at <= *time,
            };
            let any_cover = disks.is_empty() && (point.in_gap.is_empty() || matches!(self, Self::Id(_)));
            let covers = disks.iter().all(|disk| point.disks.contains(disk));
            named && covers && (any_cover || !disks.is_empty())
        })
    }
}

/// A time as operators read and write it: RFC 3339, in UTC.
pub fn show_time(time: Timestamp) -> String {
    let shown = OffsetDateTime::from_unix_timestamp_nanos(i128::from(time.0) * 1000).ok();
    shown.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{} us", time.0))
}

/// Reads an RFC 3339 time.
pub fn parse_time(text: &str) -> Option<Timestamp> {
    let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
    i64::try_from(nanos.div_euclid(1000)).ok().map(Timestamp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_the_newest_an_id_or_a_time() {
        assert_eq!("latest".parse(), Ok(PointSelector::Latest));
        let id = MarkId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(PointSelector::Id(id)));
        assert_eq!("1970-01-01T00:00:01Z".parse(), Ok(PointSelector::At(Timestamp(1_000_000))));
        assert_eq!("1970-01-01T02:00:00.5+02:00".parse(), Ok(PointSelector::At(Timestamp(500_000))));
        for bad in ["", "newest", "ab", "2026-13-01T00:00:00Z", "2026-01-01"] {
            assert!(bad.parse::<PointSelector>().is_err(), "{bad}");
        }
        assert_eq!(show_time(Timestamp(1_500_000)), "1970-01-01T00:00:01.5Z");
        assert_eq!(show_time(Timestamp(i64::MIN)), format!("{} us", i64::MIN));
    }
}
