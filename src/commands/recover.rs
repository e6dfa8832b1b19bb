//! `farshore config-server recover`: brings a lost configuration server back from the vault and one of its keys.

use std::path::Path;

use clap::{Args, Subcommand};
use farshore_actors::control::recover::{RecoverError, recover};
use farshore_actors::control::secret_file;
use farshore_engine::vault::keys::print_key_file;
use slog::Logger;

use super::vault::access::{self, Access};
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;

/// What a configuration server can be told beside to run.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigServerCommand {
    /// Bring a lost configuration server back from the vault's newest snapshot, into an empty state directory.
    Recover(RecoverArgs),
}

/// What `recover` takes.
#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    access: Access,
}

/// Runs such a command.
pub(crate) fn run(command: &ConfigServerCommand, settings: &Settings, log: &Logger) -> Outcome {
    let ConfigServerCommand::Recover(args) = command;
    let runtime = access::runtime()?;
    let vault = args.access.open(&settings.vault, &runtime)?;
    let (state_dir, key_file) = (settings.state_dir.join("control"), settings.vault_key_path());
    let recovered = runtime.block_on(recover(&vault, &state_dir, log)).map_err(failure)?;
    keep_key(&key_file, print_key_file(vault.key()).as_bytes())?;
    println!("The configuration server is back in {}, from snapshot {}.", state_dir.display(), recovered.generation);
    println!("  machines {}, process servers {}", recovered.machines, recovered.process_servers);
    for object in &recovered.damaged {
        println!("  {object} is newer and cannot be read: `farshore vault verify` says why");
    }
    if !recovered.unknown_machines.is_empty() {
        println!("  machines that joined later must be enrolled again: {}", recovered.unknown_machines.join(", "));
    }
    println!(
        "Start it with `farshore config-server` or `farshore up`, the same --state-dir and --vault. Make sure that the"
    );
    println!(
        "old one never runs again. Members that do not find the new address: start them once with --server HOST:PORT."
    );
    Ok(())
}

/// Writes the key file that the server starts with, unless it is there.
fn keep_key(path: &Path, text: &[u8]) -> Outcome {
    match secret_file::read(path).map_err(Failure::failed)? {
        Some(_) => Ok(()),
        None => {
            secret_file::write(path, text).map_err(Failure::failed)?;
            println!("The vault key was written to {}.", path.display());
            Ok(())
        }
    }
}

fn failure(error: RecoverError) -> Failure {
    let kind = match &error {
        RecoverError::Occupied { .. } => ExitKind::Usage,
        RecoverError::Read(farshore_engine::vault::read::error::ReadError::Store(_)) => ExitKind::Unreachable,
        _ => ExitKind::Failed,
    };
    Failure::new(kind, error)
}
