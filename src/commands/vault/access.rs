//! What every vault command needs: where the vault is, what opens it, which machine and which point are meant.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use farshore_engine::ids::{DiskNo, TimelineId};
use farshore_engine::vault::about::About;
use farshore_engine::vault::keys::{RecoveryKey, parse_key_file};
use farshore_engine::vault::read::error::ReadError;
use farshore_engine::vault::read::open_vault::{Credential, OpenVault, VaultError};
use farshore_engine::vault::read::points::RecoveryPoint;
use farshore_engine::vault::read::select::PointSelector;
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::store::ObjectStore;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::exit::{ExitKind, Failure};
use crate::settings::VaultSettings;
use crate::vault_place::{Purpose, VaultPlace, store_failure};

/// Where the vault is and what opens it.
#[derive(Debug, Args)]
pub(in crate::commands) struct Access {
    /// The vault: a folder, file:///path, or azblob://account/container/prefix.
    #[arg(long, value_name = "PATH|URL")]
    vault: String,
    /// Address of the account's blob service, for a vault in Azure outside its public cloud or in an emulator.
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    #[command(flatten)]
    key: KeyArgs,
}

/// One of the vault's keys.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct KeyArgs {
    /// The file that holds the vault key.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The environment variable that holds the passphrase.
    #[arg(long, value_name = "VARIABLE")]
    passphrase_env: Option<String>,
    /// The environment variable that holds the recovery key.
    #[arg(long, value_name = "VARIABLE")]
    recovery_key_env: Option<String>,
}

/// Which machine is meant.
#[derive(Debug, Args)]
pub(super) struct MachineArgs {
    /// The machine, by its name or id.
    #[arg(long, value_name = "NAME|ID")]
    pub(super) machine: String,
    /// The timeline; the one that was written last, if not given.
    #[arg(long, value_name = "ID")]
    pub(super) timeline: Option<TimelineId>,
}

/// Which point and which of its disks are meant.
#[derive(Debug, Args)]
pub(super) struct PointArgs {
    /// latest, a point's id, or a time: the newest point captured at it or before.
    #[arg(long, default_value = "latest", value_name = "latest|ID|TIME")]
    pub(super) point: PointSelector,
    /// Only this disk, by its name or number; may be given several times. All disks of the point, if not given.
    #[arg(long = "disk", value_name = "NAME|NUMBER")]
    pub(super) disks: Vec<String>,
}

/// A machine, chosen, with its log read.
pub(super) struct Chosen {
    pub(super) about: About,
    pub(super) reader: TimelineReader,
}

/// The runtime that a vault command works on.
pub(in crate::commands) fn runtime() -> Result<Runtime, Failure> {
    let built = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    built.map_err(|error| Failure::failed(format!("start the worker threads: {error}")))
}

impl Access {
    /// Opens the vault for reading. Blocks.
    pub(in crate::commands) fn open(&self, at: &VaultSettings, runtime: &Runtime) -> Result<OpenVault, Failure> {
        let (store, credential) = self.store(at, Purpose::Read, runtime)?;
        runtime.block_on(OpenVault::open(store, &credential)).map_err(vault_failure)
    }

    /// The vault's store and what opens the vault. Blocks.
    pub(super) fn store(
        &self,
        at: &VaultSettings,
        purpose: Purpose,
        runtime: &Runtime,
    ) -> Result<(Arc<dyn ObjectStore>, Credential), Failure> {
        let credential = self.key.credential()?;
        let set = if self.vault.starts_with("azblob://") { at.endpoint.as_str() } else { "" };
        let place = VaultPlace::parse(&self.vault, self.endpoint.as_deref().unwrap_or(set))?;
        Ok((place.open(&at.azure, purpose, runtime)?, credential))
    }
}

impl KeyArgs {
    fn credential(&self) -> Result<Credential, Failure> {
        if let Some(path) = &self.key_file {
            return read_key_file(path);
        }
        if let Some(variable) = &self.passphrase_env {
            return Ok(Credential::Passphrase(secret(variable)?));
        }
        let variable = self.recovery_key_env.as_deref().unwrap_or_default();
        let key: RecoveryKey = secret(variable)?.trim().parse().map_err(Failure::usage)?;
        Ok(Credential::Recovery(key))
    }
}

fn read_key_file(path: &Path) -> Result<Credential, Failure> {
    let failed = |error| Failure::usage(format!("read the key file {}: {error}", path.display()));
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(failed)?);
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        eprintln!("farshore: others can read the key file {}: chmod 600 it", path.display());
    }
    let key = parse_key_file(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    Ok(Credential::Key(key))
}

/// A secret from the environment.
pub(super) fn secret(variable: &str) -> Result<Zeroizing<String>, Failure> {
    let value = std::env::var(variable);
    value.map(Zeroizing::new).map_err(|_| Failure::usage(format!("the environment variable {variable} is not set")))
}

/// A vault that stays closed as a failed command.
pub(super) fn vault_failure(error: VaultError) -> Failure {
    match error {
        VaultError::Store(error) => store_failure(error),
        VaultError::NoVault => Failure::usage(error),
        VaultError::Refused(_) => Failure::new(ExitKind::Refused, error),
        VaultError::KeysDamaged { .. } => Failure::failed(error),
    }
}

/// A failed read as a failed command.
pub(super) fn read_failure(error: ReadError) -> Failure {
    match error {
        ReadError::Store(error) => store_failure(error),
        other => Failure::failed(format!("{other}; 'farshore vault verify' tells what else is damaged")),
    }
}

impl MachineArgs {
    /// Finds the machine and reads its log.
    pub(super) async fn choose(&self, vault: &OpenVault) -> Result<Chosen, Failure> {
        let about = self.find(vault).await?;
        let newest = about.timelines.last().map(|timeline| timeline.id);
        let nothing = || Failure::failed(format!("machine {} has no timeline: nothing was replicated yet", about.name));
        let timeline = self.timeline.or(newest).ok_or_else(nothing)?;
        let source = vault.source(&about).map_err(read_failure)?;
        let reader = TimelineReader::open(source, timeline).await.map_err(read_failure)?;
        if let Some(broken) = reader.broken() {
            eprintln!(
                "farshore: the log cannot be read behind LSN {}: {}: {}",
                reader.chain().last_lsn,
                broken.object,
                broken.damage
            );
        }
        Ok(Chosen { about, reader })
    }

    async fn find(&self, vault: &OpenVault) -> Result<About, Failure> {
        let by_id = self.machine.parse().ok();
        let mut found = Vec::new();
        for entry in vault.machines().await.map_err(read_failure)? {
            match entry.about {
                Some(about) if Some(entry.machine) == by_id || about.name == self.machine => found.push(about),
                None if Some(entry.machine) == by_id => {
                    let text = format!("no description of machine {} can be read: its key is in there", entry.machine);
                    return Err(Failure::failed(text));
                }
                _ => {}
            }
        }
        if found.len() > 1 {
            let ids: Vec<String> = found.iter().map(|about| about.machine.to_string()).collect();
            let text = format!("several machines are called '{}': give an id: {}", self.machine, ids.join(", "));
            return Err(Failure::usage(text));
        }
        let missing = || {
            Failure::usage(format!(
                "no machine of this vault is called '{}', by name or id: see 'farshore vault ls'",
                self.machine
            ))
        };
        found.pop().ok_or_else(missing)
    }
}

impl Chosen {
    /// A disk's name as the log knows it.
    pub(super) fn disk_name(&self, disk: DiskNo) -> String {
        let known = self.reader.history().disks().find(|info| info.disk == disk);
        known.map_or_else(|| disk.to_string(), |info| info.name.clone())
    }

    fn disk(&self, text: &str) -> Result<DiskNo, Failure> {
        let disks: Vec<_> = self.reader.history().disks().collect();
        let number = text.parse().ok().map(DiskNo);
        let by_name = disks.iter().find(|info| info.name == text);
        let found = by_name.or_else(|| disks.iter().find(|info| Some(info.disk) == number));
        let names = || disks.iter().map(|info| format!("{} ({})", info.name, info.disk)).collect::<Vec<_>>().join(", ");
        let missing = || Failure::usage(format!("machine {} has no disk '{text}': {}", self.about.name, names()));
        found.map(|info| info.disk).ok_or_else(missing)
    }
}

impl PointArgs {
    /// Finds the point, and which of its disks are wanted.
    pub(super) fn choose(&self, machine: &Chosen) -> Result<(RecoveryPoint, Vec<DiskNo>), Failure> {
        let wanted = self.disks.iter().map(|text| machine.disk(text)).collect::<Result<Vec<_>, _>>()?;
        let point = self.point.choose(&machine.reader, &wanted).ok_or_else(|| self.none(machine))?;
        for disk in point.in_gap.iter().filter(|_| wanted.is_empty()) {
            eprintln!("farshore: disk {} has a gap there and is left out", machine.disk_name(*disk));
        }
        let disks = if wanted.is_empty() { point.disks.clone() } else { wanted };
        Ok((point, disks))
    }

    fn none(&self, machine: &Chosen) -> Failure {
        let hint = match machine.reader.newest() {
            None => "it has no recovery point at all".to_owned(),
            Some(newest) => {
                let names: Vec<String> = newest.disks.iter().map(|disk| machine.disk_name(*disk)).collect();
                format!("its newest point, {}, covers {}; name disks with --disk", newest.id, names.join(", "))
            }
        };
        let which = if self.disks.is_empty() { "all its disks" } else { "these disks" };
        Failure::failed(format!(
            "machine {} has no point '{}' that covers {which}: {hint}",
            machine.about.name, self.point
        ))
    }
}
