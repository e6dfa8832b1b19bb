//! `farshore vault ls | verify | repair | restore | export | serve | key`: everything of a vault with nothing but the vault and one of its keys.
//! No server and no state directory is needed; of the configuration only how a vault in Azure is opened.

pub(super) mod access;
mod key;
mod ls;
mod repair;
mod restore;
mod serve;
mod verify;

use clap::Subcommand;
use slog::Logger;

use crate::exit::Outcome;
use crate::settings::Settings;

/// Read a vault with nothing but the vault and one of its keys.
#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// List machines and their timelines, or the recovery points of one machine.
    Ls(ls::LsArgs),
    /// Read everything, and say which objects are damaged and which points that touches.
    Verify(verify::VerifyArgs),
    /// Put damaged objects back from a copy of the vault.
    Repair(repair::RepairArgs),
    /// Write the disks of a point to raw files.
    Restore(restore::RestoreArgs),
    /// Write the disks of a point to files that virtual machines start from.
    Export(restore::ExportArgs),
    /// Who may open the vault: passphrase, recovery key.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// Serve the disks of a point over NBD until stopped.
    Serve(serve::ServeArgs),
}

/// Runs a vault command.
pub(crate) fn run(command: &VaultCommand, settings: &Settings, logger: &Logger) -> Outcome {
    let vault = &settings.vault;
    match command {
        VaultCommand::Ls(args) => ls::run(args, vault),
        VaultCommand::Verify(args) => verify::run(args, vault),
        VaultCommand::Repair(args) => repair::run(args, vault),
        VaultCommand::Restore(args) => restore::run(args, vault),
        VaultCommand::Key(command) => key::run(command, vault),
        VaultCommand::Export(args) => restore::export(args, vault),
        VaultCommand::Serve(args) => serve::run(args, vault, logger),
    }
}
