//! Configuration: defaults, then one TOML file, then the environment, then flags; each value knows where it came from.
//!
//! `FARSHORE_CACHE__BYTES_MAX=...` sets `cache.bytes_max`. A key that nobody knows is an error, in the file as well as
//! in the environment: a setting that silently does nothing is worse than none.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use farshore_engine::defaults;
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Provider};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;
use crate::logging::LogFormat;
use crate::vault_place::{AzureSettings, VaultPlace};

/// Everything that can be set, with its default. The file has the same shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// Where a role keeps its state; each role has its own folder in it.
    pub(crate) state_dir: PathBuf,
    /// Where replicas lie.
    pub(crate) vault: VaultSettings,
    /// Addresses that servers listen on.
    pub(crate) listen: ListenSettings,
    /// The process server's cache.
    pub(crate) cache: CacheSettings,
    /// When a segment is sealed.
    pub(crate) segment: SegmentSettings,
    /// Which points stay.
    pub(crate) retention: RetentionSettings,
    /// How process servers merge.
    pub(crate) merging: MergingSettings,
    /// How process servers read again what lies in the vault.
    pub(crate) scrubbing: ScrubbingSettings,
    /// How process servers serve points.
    pub(crate) serving: ServingSettings,
    /// The mobility agent.
    pub(crate) agent: AgentSettings,
    /// Logs.
    pub(crate) log: LogSettings,
}

/// Where replicas lie, and the key to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VaultSettings {
    /// `file:///path`, a path, or `azblob://account/container/prefix`. Empty: the folder `vault` in the state
    /// directory.
    pub(crate) url: String,
    /// The address of the account's blob service, where that is not Azure's public cloud.
    pub(crate) endpoint: String,
    /// The 0600 file with the vault key. Empty: `vault.key` in the state directory.
    pub(crate) key_file: PathBuf,
    /// How a vault in Azure is opened.
    pub(crate) azure: AzureSettings,
}

/// Addresses that servers listen on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListenSettings {
    /// REST and dashboard.
    pub(crate) management: SocketAddr,
    /// Replication data.
    pub(crate) replication: SocketAddr,
    /// Control sessions of agents and process servers.
    pub(crate) control: SocketAddr,
    /// Serve management over plain HTTP. Only on a loopback address.
    pub(crate) plain_http: bool,
}

/// The process server's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CacheSettings {
    /// Most that cached segments may take, in bytes.
    pub(crate) bytes_max: u64,
}

/// When a segment is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SegmentSettings {
    /// Oldest that an open segment gets, in milliseconds.
    pub(crate) seal_interval_ms: u64,
    /// Size at which a segment closes, in bytes.
    pub(crate) bytes_target: u64,
    /// `snappy`, `zstd`, or `zstd:<level>` with a level of 1 to 19; machines whose policy names none follow it.
    pub(crate) codec: Packing,
}

/// Which points stay, where a machine's policy does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetentionSettings {
    /// Rungs, the densest first: one point every `every_s` seconds (0: all) for points up to `for_s` seconds old.
    pub(crate) ladder: Ladder,
}

/// How process servers merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MergingSettings {
    /// How often it is looked whether something is due, in milliseconds.
    pub(crate) interval_ms: u64,
    /// How long what is no longer needed stays in the vault, in seconds.
    pub(crate) grace_seconds: u64,
    /// So many old segments are merged at once.
    pub(crate) segments: usize,
    /// Bytes merged per second, at most, over all machines of a process server.
    pub(crate) bytes_per_second_max: u64,
}

/// How process servers serve points.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServingSettings {
    /// Bytes of what was read for served points that are kept on disk, sealed; 0: none.
    pub(crate) near_bytes_max: u64,
    /// Bring all that a served point needs there, in the background.
    pub(crate) hydrate: bool,
}

/// How process servers read again what lies in the vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ScrubbingSettings {
    /// How often a slice of each machine's log is read, in seconds.
    pub(crate) slice_seconds: u64,
    /// How many slices a log is read in.
    pub(crate) slices: u64,
    /// Bytes read per second, at most, over all machines of a process server.
    pub(crate) bytes_per_second_max: u64,
}

/// The mobility agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AgentSettings {
    /// Time between marks under load, in milliseconds.
    pub(crate) mark_interval_ms: u64,
    /// Most that writes may hold in memory until they are committed, in bytes.
    pub(crate) memory_bytes_max: u64,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogSettings {
    /// `terminal` or `json`.
    pub(crate) format: LogFormat,
    /// `error`, `warning`, `info`, `debug` or `trace`.
    pub(crate) level: String,
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            state_dir: PathBuf::from("farshore-state"),
            vault: VaultSettings {
                url: String::new(),
                endpoint: String::new(),
                key_file: PathBuf::new(),
                azure: AzureSettings::default(),
            },
            listen: ListenSettings {
                management: loopback(defaults::MANAGEMENT_PORT),
                replication: loopback(defaults::REPLICATION_PORT),
                control: loopback(defaults::CONTROL_PORT),
                plain_http: false,
            },
            cache: CacheSettings { bytes_max: defaults::CACHE_BYTES_MAX },
            segment: SegmentSettings {
                seal_interval_ms: defaults::SEAL_INTERVAL_MS,
                bytes_target: defaults::SEGMENT_BYTES_TARGET,
                codec: Packing::default(),
            },
            retention: RetentionSettings { ladder: Ladder::default() },
            merging: MergingSettings {
                interval_ms: defaults::MERGE_INTERVAL_MS,
                grace_seconds: defaults::MERGE_GRACE_SECONDS,
                segments: defaults::MERGE_SEGMENTS,
                bytes_per_second_max: defaults::MERGE_BYTES_PER_SECOND_MAX,
            },
            scrubbing: ScrubbingSettings {
                slice_seconds: defaults::SCRUB_SLICE_SECONDS,
                slices: defaults::SCRUB_SLICES,
                bytes_per_second_max: defaults::SCRUB_BYTES_PER_SECOND_MAX,
            },
            serving: ServingSettings { near_bytes_max: defaults::SERVE_NEAR_BYTES_MAX, hydrate: false },
            agent: AgentSettings {
                mark_interval_ms: defaults::MARK_INTERVAL_MS,
                memory_bytes_max: defaults::AGENT_MEMORY_BYTES_MAX,
            },
            log: LogSettings { format: LogFormat::Terminal, level: "info".into() },
        }
    }
}

/// Settings with the origin of each value.
pub(crate) struct Loaded {
    /// The values.
    pub(crate) settings: Settings,
    figment: Figment,
}

/// Reads the settings: `file` (where given, it must exist), the environment, then `flags`.
pub(crate) fn load(file: Option<&Path>, flags: &Dict) -> Result<Loaded, Failure> {
    let mut figment = Figment::from(Serialized::defaults(Settings::default()));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(Failure::usage(format!("read configuration {}: no such file", file.display())));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    let environment = Env::prefixed("FARSHORE_").filter(names_a_setting).split("__");
    figment = figment.merge(environment).merge(Flags(flags.clone()));
    let mut settings: Settings = figment.extract().map_err(|error| Failure::usage(explain(error)))?;
    check(&settings)?;
    // Sockets in it are told to others, who may stand in another directory.
    settings.state_dir = std::path::absolute(&settings.state_dir)
        .map_err(|error| Failure::usage(format!("state_dir {}: {error}", settings.state_dir.display())))?;
    Ok(Loaded { settings, figment })
}

/// Variables with our prefix that are no settings: switches of the tests, secrets for single commands.
fn names_a_setting(key: &figment::value::UncasedStr) -> bool {
    let lower = key.as_str().to_ascii_lowercase();
    lower == "state_dir" || lower.contains("__")
}

fn explain(error: figment::Error) -> String {
    let lines: Vec<String> = error.into_iter().map(|cause| format!("configuration: {cause}")).collect();
    lines.join("\n")
}

fn check(settings: &Settings) -> Result<(), Failure> {
    let refuse = |key: &str, why: &str| Err(Failure::usage(format!("configuration: {key} {why}")));
    if settings.listen.plain_http && !settings.listen.management.ip().is_loopback() {
        return refuse(
            "listen.plain_http",
            "is only for a loopback address: tokens would cross the network in the clear",
        );
    }
    if !(50..=60_000).contains(&settings.segment.seal_interval_ms) {
        return refuse("segment.seal_interval_ms", "must lie between 50 and 60000");
    }
    if !(1 << 20..=256 << 20).contains(&settings.segment.bytes_target) {
        return refuse("segment.bytes_target", "must lie between 1 MiB and 256 MiB");
    }
    if !(100..=3_600_000).contains(&settings.agent.mark_interval_ms) {
        return refuse("agent.mark_interval_ms", "must lie between 100 and 3600000");
    }
    if !(100..=3_600_000).contains(&settings.merging.interval_ms) {
        return refuse("merging.interval_ms", "must lie between 100 and 3600000");
    }
    if !(2..=1024).contains(&settings.merging.segments) {
        return refuse("merging.segments", "must lie between 2 and 1024");
    }
    if settings.merging.bytes_per_second_max < 1 << 20 {
        return refuse("merging.bytes_per_second_max", "must be at least 1 MiB");
    }
    if settings.serving.hydrate && settings.serving.near_bytes_max == 0 {
        return refuse("serving.hydrate", "needs serving.near_bytes_max above 0: that is where it brings things");
    }
    if !(60..=31 * 86_400).contains(&settings.scrubbing.slice_seconds) {
        return refuse("scrubbing.slice_seconds", "must lie between 60 and 2678400");
    }
    if !(1..=1000).contains(&settings.scrubbing.slices) {
        return refuse("scrubbing.slices", "must lie between 1 and 1000");
    }
    if settings.scrubbing.bytes_per_second_max < 1 << 20 {
        return refuse("scrubbing.bytes_per_second_max", "must be at least 1 MiB");
    }
    if settings.agent.memory_bytes_max < 16 << 20 {
        return refuse("agent.memory_bytes_max", "must be at least 16 MiB");
    }
    if settings.cache.bytes_max < 64 << 20 {
        return refuse("cache.bytes_max", "must be at least 64 MiB");
    }
    crate::logging::level(&settings.log.level).map(|_| ()).map_err(|why| Failure::usage(format!("log.level: {why}")))
}

impl Settings {
    /// Where the vault lies.
    pub(crate) fn vault_place(&self) -> Result<VaultPlace, Failure> {
        match self.vault.url.as_str() {
            "" => Ok(VaultPlace::Folder(self.state_dir.join("vault"))),
            url => VaultPlace::parse(url, &self.vault.endpoint),
        }
    }

    /// The vault's key file.
    pub(crate) fn vault_key_path(&self) -> PathBuf {
        let path = &self.vault.key_file;
        if path.as_os_str().is_empty() { self.state_dir.join("vault.key") } else { path.clone() }
    }
}

impl Loaded {
    /// Each value with where it came from, in order of keys.
    pub(crate) fn rows(&self) -> Vec<(String, String, String)> {
        let mut rows = Vec::new();
        if let Ok(values) = self.figment.extract::<Dict>() {
            collect(&self.figment, "", &values, &mut rows);
        }
        rows
    }
}

fn collect(figment: &Figment, above: &str, values: &Dict, rows: &mut Vec<(String, String, String)>) {
    for (key, value) in values {
        let path = if above.is_empty() { key.clone() } else { format!("{above}.{key}") };
        if let Value::Dict(_, inner) = value {
            collect(figment, &path, inner, rows);
            continue;
        }
        let shown = match value {
            Value::String(_, text) => text.clone(),
            Value::Bool(_, flag) => flag.to_string(),
            Value::Num(_, number) => number.to_u128().map_or_else(|| format!("{number:?}"), |n| n.to_string()),
            other => format!("{other:?}"),
        };
        let origin = figment.find_metadata(&path).map_or_else(String::new, |metadata| match &metadata.source {
            Some(figment::Source::File(file)) => file.display().to_string(),
            _ if metadata.name.contains("environment") => {
                format!("environment FARSHORE_{}", path.to_uppercase().replace('.', "__"))
            }
            _ if metadata.name == FLAGS => format!("flag --{}", path.replace(['.', '_'], "-")),
            _ => "default".into(),
        });
        rows.push((path, shown, origin));
    }
}

const FLAGS: &str = "flags";

/// What the command line set.
struct Flags(Dict);

impl Provider for Flags {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(FLAGS)
    }

    fn data(&self) -> Result<figment::value::Map<figment::Profile, Dict>, figment::Error> {
        Ok(figment::Profile::Default.collect(self.0.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str) -> Result<Loaded, Failure> {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = dir.path().join("farshore.toml");
        std::fs::write(&file, text).expect("write");
        load(Some(&file), &Dict::new())
    }

    #[test]
    fn each_value_says_where_it_came_from() {
        let loaded = load_text("[segment]\nseal_interval_ms = 500\n").expect("valid");
        assert_eq!(loaded.settings.segment.seal_interval_ms, 500);
        let rows = loaded.rows();
        let origin = |key: &str| rows.iter().find(|row| row.0 == key).map(|row| row.2.clone()).expect(key);
        assert!(origin("segment.seal_interval_ms").ends_with("farshore.toml"));
        assert_eq!(origin("cache.bytes_max"), "default");
    }

    #[test]
    fn a_half_written_or_wrong_file_is_refused_with_its_reason() {
        for (text, said) in [
            ("[segment\n", "configuration"),
            ("[segment]\nseal_intervall_ms = 5\n", "seal_intervall_ms"),
            ("[segment]\nseal_interval_ms = \"soon\"\n", "seal_interval_ms"),
            ("[segment]\nseal_interval_ms = 1\n", "between 50 and 60000"),
            ("[listen]\nmanagement = \"0.0.0.0:8443\"\nplain_http = true\n", "loopback"),
            ("[retention]\nladder = [{ every_s = 60, for_s = 0 }]\n", "at least one second"),
            ("[merging]\nsegments = 1\n", "merging.segments"),
            ("[scrubbing]\nslices = 0\n", "scrubbing.slices"),
            ("[serving]\nhydrate = true\n", "serving.hydrate"),
            ("[log]\nlevel = \"loud\"\n", "no log level"),
        ] {
            let failure = load_text(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
            assert!(failure.text.contains(said), "{text}: {}", failure.text);
        }
    }
}
