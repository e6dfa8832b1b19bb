//! The default of everything that can be set, in one table. `docs/operations.md` is checked against it.

/// Management (REST, dashboard): the 443-class port of Site Recovery, unprivileged.
pub const MANAGEMENT_PORT: u16 = 8443;
/// Replication data: Site Recovery's port.
pub const REPLICATION_PORT: u16 = 9443;
/// Control sessions of agents and process servers.
pub const CONTROL_PORT: u16 = 9444;

/// Time between marks under load, in milliseconds.
pub const MARK_INTERVAL_MS: u64 = 1_000;
/// Oldest that an open segment gets, in milliseconds: with the mark interval, half of the RPO the product promises.
pub const SEAL_INTERVAL_MS: u64 = 2_000;
/// Size at which a segment closes, in bytes: at 100 MB/s six objects a second, each still one cheap request.
pub const SEGMENT_BYTES_TARGET: u64 = 16 << 20;
/// Level of zstd where a policy says zstd and no level: zstd's own default.
pub const ZSTD_LEVEL: u8 = 3;
/// RPO at which a machine's health is a warning, in seconds.
pub const RPO_WARNING_SECONDS: u64 = 30;
/// RPO at which a machine's health is critical, in seconds.
pub const RPO_CRITICAL_SECONDS: u64 = 300;
/// Most that cached segments may take, in bytes.
pub const CACHE_BYTES_MAX: u64 = 10 << 30;
/// Most that an agent holds in memory until it is committed, in bytes.
pub const AGENT_MEMORY_BYTES_MAX: u64 = 128 << 20;

/// How often it is looked whether something is to be merged, in milliseconds.
pub const MERGE_INTERVAL_MS: u64 = 10_000;
/// How long what no run needs any more stays in the vault, in seconds: longer than a reader takes to open a point again.
pub const MERGE_GRACE_SECONDS: u64 = 3600;
/// So many old segments are merged at once: docs/adr/0005.
pub const MERGE_SEGMENTS: usize = 64;
/// Bytes that a process server merges per second, at most: half of a core, and most of a disk is left to the writes.
pub const MERGE_BYTES_PER_SECOND_MAX: u64 = 64 << 20;

/// How often a slice of each machine's log is read again, in seconds.
pub const SCRUB_SLICE_SECONDS: u64 = 24 * 3600;
/// In so many slices a log is read again: each object once in thirty days, as drives are scrubbed.
pub const SCRUB_SLICES: u64 = 30;
/// Bytes of served points' frames that a process server keeps on its disk; 0: none.
pub const SERVE_NEAR_BYTES_MAX: u64 = 0;
/// Bytes that a process server reads again per second, at most: 10 TiB in thirty days take a quarter of each.
pub const SCRUB_BYTES_PER_SECOND_MAX: u64 = 16 << 20;

/// How long a member's certificate is valid, in days.
pub const CERTIFICATE_DAYS: u32 = 397;
/// Time that the owner before has to bring its cache to the vault during a move, in seconds.
pub const RELEASE_SECONDS: u64 = 5;
/// Time that a new owner has to fence a log and learn its end, in seconds.
pub const ADOPT_SECONDS: u64 = 10;

/// Name, value and unit of every default, for the documentation.
pub const TABLE: &[(&str, u64, &str)] = &[
    ("management port", MANAGEMENT_PORT as u64, "TCP"),
    ("replication port", REPLICATION_PORT as u64, "TCP"),
    ("control port", CONTROL_PORT as u64, "TCP"),
    ("mark interval", MARK_INTERVAL_MS, "ms"),
    ("seal interval", SEAL_INTERVAL_MS, "ms"),
    ("segment size", SEGMENT_BYTES_TARGET, "bytes"),
    ("zstd level", ZSTD_LEVEL as u64, "1 to 19"),
    ("RPO warning", RPO_WARNING_SECONDS, "s"),
    ("RPO critical", RPO_CRITICAL_SECONDS, "s"),
    ("cache", CACHE_BYTES_MAX, "bytes"),
    ("merge interval", MERGE_INTERVAL_MS, "ms"),
    ("merge grace", MERGE_GRACE_SECONDS, "s"),
    ("merge segments", MERGE_SEGMENTS as u64, "segments"),
    ("merge speed", MERGE_BYTES_PER_SECOND_MAX, "bytes/s"),
    ("scrub slice", SCRUB_SLICE_SECONDS, "s"),
    ("scrub slices", SCRUB_SLICES, "slices"),
    ("served near", SERVE_NEAR_BYTES_MAX, "bytes"),
    ("scrub speed", SCRUB_BYTES_PER_SECOND_MAX, "bytes/s"),
    ("certificates", CERTIFICATE_DAYS as u64, "days"),
    ("release", RELEASE_SECONDS, "s"),
    ("adopt", ADOPT_SECONDS, "s"),
    ("agent memory", AGENT_MEMORY_BYTES_MAX, "bytes"),
];
