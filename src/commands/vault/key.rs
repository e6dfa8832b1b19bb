//! `farshore vault key ls | passphrase | recovery | rm`: who may open the vault.

mod rotate;

use clap::{Args, Subcommand};
use farshore_actors::supervise::OsChance;
use farshore_engine::ids::Chance;
use farshore_engine::vault::crypto::VaultKey;
use farshore_engine::vault::keys::change::{ChangeError, change, read};
use farshore_engine::vault::keys::{KeyObject, KeysError, PassphraseCost, RecoveryKey, SlotKind};

use super::access::{Access, runtime, secret, vault_failure};
use super::ls::print_json;
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::VaultSettings;
use crate::vault_place::{Purpose, store_failure};

/// Who may open the vault. Nothing of the data is written anew.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show the key slots.
    Ls(LsArgs),
    /// Set the passphrase: replaces the one there is, or adds another.
    Passphrase(PassphraseArgs),
    /// Replace the recovery key; the new one is printed once.
    Recovery(RecoveryArgs),
    /// Make a new vault key; no data is written anew. The old key, passphrases and recovery key are refused afterwards.
    Rotate(rotate::RotateArgs),
    /// Remove a key slot. The vault key file opens the vault whatever slots there are.
    Rm(RmArgs),
}

/// What to show.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    #[command(flatten)]
    access: Access,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

/// The new passphrase.
#[derive(Debug, Args)]
pub(crate) struct PassphraseArgs {
    #[command(flatten)]
    access: Access,
    /// The environment variable that holds the new passphrase.
    #[arg(long, value_name = "VARIABLE")]
    new_passphrase_env: String,
    /// Keep the passphrases that there are.
    #[arg(long)]
    add: bool,
}

/// Which vault's recovery key.
#[derive(Debug, Args)]
pub(crate) struct RecoveryArgs {
    #[command(flatten)]
    access: Access,
}

/// Which slot.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    access: Access,
    /// Its number, as `vault key ls` shows it.
    slot: usize,
}

/// Runs a key command.
pub(super) fn run(command: &KeyCommand, at: &VaultSettings) -> Outcome {
    match command {
        KeyCommand::Ls(args) => ls(args, at),
        KeyCommand::Passphrase(args) => passphrase(args, at),
        KeyCommand::Recovery(args) => recovery(args, at),
        KeyCommand::Rotate(args) => rotate::run(args, at),
        KeyCommand::Rm(args) => rm(args, at),
    }
}

fn ls(args: &LsArgs, at: &VaultSettings) -> Outcome {
    let runtime = runtime()?;
    let (store, credential) = args.access.store(at, Purpose::Read, &runtime)?;
    let (object, _) = runtime.block_on(read(&store, &credential)).map_err(failure)?;
    let slots: Vec<SlotKind> = object.slots().collect();
    if args.json {
        return print_json(&slots);
    }
    println!("vault {}, key object {}", object.vault(), object.generation());
    for (number, kind) in slots.iter().enumerate() {
        let kind = match kind {
            SlotKind::Passphrase => "passphrase",
            SlotKind::Recovery => "recovery key",
            SlotKind::Wrapped => "wrapped by a key management service",
            SlotKind::Unknown => "of a kind that this version does not know",
        };
        println!("    slot {number}: {kind}");
    }
    Ok(())
}

fn passphrase(args: &PassphraseArgs, at: &VaultSettings) -> Outcome {
    let new = secret(&args.new_passphrase_env)?;
    changed(&args.access, at, |object, key, chance| {
        if !args.add {
            object.remove_passphrases();
        }
        object.add_passphrase(key, &new, PassphraseCost::DEFAULT, chance)
    })?;
    println!("the passphrase is set");
    Ok(())
}

fn recovery(args: &RecoveryArgs, at: &VaultSettings) -> Outcome {
    let fresh = changed(&args.access, at, |object, key, chance| {
        let fresh = RecoveryKey::draw(chance);
        object.remove_recovery();
        object.add_recovery(key, &fresh, chance);
        Ok(fresh)
    })?;
    println!("The vault's new recovery key, shown this once; the one before opens it no more:\n");
    println!("    {}", *fresh.print());
    Ok(())
}

fn rm(args: &RmArgs, at: &VaultSettings) -> Outcome {
    changed(&args.access, at, |object, _, _| object.remove_slot(args.slot))?;
    println!("slot {} is removed", args.slot);
    Ok(())
}

fn changed<T>(
    access: &Access,
    at: &VaultSettings,
    what: impl FnOnce(&mut KeyObject, &VaultKey, &mut dyn Chance) -> Result<T, KeysError>,
) -> Result<T, Failure> {
    let runtime = runtime()?;
    let (store, credential) = access.store(at, Purpose::Change, &runtime)?;
    runtime.block_on(change(&store, &credential, &mut OsChance, what)).map_err(failure)
}

fn failure(error: ChangeError) -> Failure {
    match error {
        ChangeError::Vault(error) => vault_failure(error),
        ChangeError::Store(error) => store_failure(error),
        ChangeError::Keys(error @ (KeysError::PassphraseTooShort | KeysError::NoSuchSlot { .. })) => {
            Failure::new(ExitKind::Usage, error)
        }
        other => Failure::failed(other),
    }
}
