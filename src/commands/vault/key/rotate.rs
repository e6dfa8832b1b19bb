//! `farshore vault key rotate`: a new vault key, kept in a file before anything depends on it. Run again, it goes on where
//! it was cut off.

use std::path::PathBuf;

use clap::Args;
use farshore_actors::control::secret_file;
use farshore_actors::supervise::OsChance;
use farshore_engine::ids::Chance;
use farshore_engine::vault::crypto::VaultKey;
use farshore_engine::vault::keys::rotate::{Finished, RotateError, begin, finish, still_opens};
use farshore_engine::vault::keys::{KeyObject, PassphraseCost, RecoveryKey, parse_key_file, print_key_file};

use super::super::access::{Access, runtime, secret};
use super::failure;
use crate::exit::{Failure, Outcome};
use crate::settings::VaultSettings;
use crate::vault_place::{Purpose, store_failure};

/// Where the new key goes, and who may open the vault with it.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    access: Access,
    /// Where the new vault key is kept. The same file again goes on with a rotation that was cut off.
    #[arg(long, value_name = "FILE")]
    new_key_file: PathBuf,
    /// The environment variable that holds the passphrase from now on; without one the vault has no passphrase.
    #[arg(long, value_name = "VARIABLE")]
    new_passphrase_env: Option<String>,
}

/// Rotates the vault key.
pub(super) fn run(args: &RotateArgs, at: &VaultSettings) -> Outcome {
    let passphrase = args.new_passphrase_env.as_deref().map(secret).transpose()?;
    let runtime = runtime()?;
    let (store, credential) = args.access.store(at, Purpose::Change, &runtime)?;
    let next = new_key(args)?;
    let begun = runtime.block_on(still_opens(&store, &next)).map_err(store_failure)?;
    if !begun {
        let slots = |object: &mut KeyObject, key: &VaultKey, chance: &mut dyn Chance| {
            if let Some(passphrase) = &passphrase {
                object.add_passphrase(key, passphrase, PassphraseCost::DEFAULT, chance)?;
            }
            let recovery = RecoveryKey::draw(chance);
            object.add_recovery(key, &recovery, chance);
            // Before anything depends on it.
            println!("The vault's new recovery key, shown this once; it counts when the rotation is done:\n");
            println!("    {}\n", *recovery.print());
            Ok(())
        };
        runtime.block_on(begin(&store, &credential, &next, &mut OsChance, slots)).map_err(rotate_failure)?;
    }
    let finished = runtime.block_on(finish(&store, &next, &mut OsChance)).map_err(rotate_failure)?;
    if begun && finished == Finished::default() {
        println!("The vault key is the one in {} already.", args.new_key_file.display());
        println!("For another, name a file that is not there yet with --new-key-file.");
        return Ok(());
    }
    println!("The vault key is the one in {} now; those before it are refused.", args.new_key_file.display());
    println!("  data keys wrapped again: {}; data written anew: none", finished.machines);
    println!("Put it in the place of the configuration server's key file: a running server takes it by itself.");
    Ok(())
}

/// The key that an earlier run kept, or a new one, kept.
fn new_key(args: &RotateArgs) -> Result<VaultKey, Failure> {
    let path = &args.new_key_file;
    if let Some(text) = secret_file::read(path).map_err(Failure::failed)? {
        return parse_key_file(&text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())));
    }
    let key = VaultKey::draw(&mut OsChance);
    secret_file::write(path, print_key_file(&key).as_bytes()).map_err(Failure::failed)?;
    Ok(key)
}

fn rotate_failure(error: RotateError) -> Failure {
    match error {
        RotateError::Change(error) => failure(error),
        RotateError::Store(error) => store_failure(error),
        other => Failure::failed(other),
    }
}
