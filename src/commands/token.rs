//! `farshore token reset`: a lost admin token is made anew by whoever may write the state directory.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Subcommand;

use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;

/// How long a server that runs may take to make the new token.
const WITHIN: Duration = Duration::from_secs(10);

/// The admin token of this host.
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Make the local admin token of a configuration server anew; the one before is no longer valid.
    Reset,
}

/// Takes the token's file away; the server makes another one.
pub(crate) fn run(command: &TokenCommand, settings: &Settings) -> Outcome {
    let TokenCommand::Reset = command;
    let (own, copy) = (settings.state_dir.join("control/admin.token"), settings.state_dir.join("admin.token"));
    if !settings.state_dir.join("control").is_dir() {
        let text = format!("{} is no configuration server's state: give --state-dir", settings.state_dir.display());
        return Err(Failure::usage(text));
    }
    remove(&copy)?;
    remove(&own)?;
    let begun = Instant::now();
    while begun.elapsed() < WITHIN {
        if copy.is_file() {
            println!("The admin token was made anew: {}", copy.display());
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let text = "the configuration server does not run: it makes the new token when it starts";
    Err(Failure::new(ExitKind::Unreachable, text))
}

fn remove(path: &Path) -> Outcome {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Failure::failed(format!("remove {}: {error}", path.display())))
        }
        _ => Ok(()),
    }
}
