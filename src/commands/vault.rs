//! `farshore vault ls | verify | restore | serve`: everything of a vault with nothing but the vault and one of its keys.
//! No server, no state directory, no configuration is needed.

pub(super) mod access;
mod ls;
mod restore;
mod serve;
mod verify;

use clap::Subcommand;
use slog::Logger;

use crate::exit::Outcome;

/// Read a vault with nothing but the vault and one of its keys.
#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// List machines and their timelines, or the recovery points of one machine.
    Ls(ls::LsArgs),
    /// Read everything, and say which objects are damaged and which points that touches.
    Verify(verify::VerifyArgs),
    /// Write the disks of a point to raw files.
    Restore(restore::RestoreArgs),
    /// Serve the disks of a point over NBD until stopped.
    Serve(serve::ServeArgs),
}

/// Runs a vault command.
pub(crate) fn run(command: &VaultCommand, logger: &Logger) -> Outcome {
    match command {
        VaultCommand::Ls(args) => ls::run(args),
        VaultCommand::Verify(args) => verify::run(args),
        VaultCommand::Restore(args) => restore::run(args),
        VaultCommand::Serve(args) => serve::run(args, logger),
    }
}
