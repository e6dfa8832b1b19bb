//! `farshore ctl`: the API from the shell.
//!
//! Without `--server` and `--token-file` it finds both in the state directory of a configuration server on this host, and
//! where there is none in the profile that `ctl login` keeps.
//! `--json` prints what the API says, lists joined over their parts; without it, tables for people.

mod client;
mod holds;
mod perform;
mod profile;
mod stream;
mod table;
mod tokens;
mod verbs;
mod webhooks;

use std::io::IsTerminal as _;
use std::time::Duration;

use self::perform::perform;
pub(crate) use self::verbs::CtlArgs;
use self::verbs::CtlCommand;
use crate::exit::{ExitKind, Failure, Outcome};
use crate::settings::Settings;

/// Runs a command against the API.
pub(crate) fn run(args: &CtlArgs, settings: &Settings) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("start a runtime: {error}")))?;
    if matches!(args.command, CtlCommand::Login) {
        return runtime.block_on(login(args, settings));
    }
    let client = client::connect(args, &settings.state_dir)?;
    let Some(seconds) = args.watch else { return runtime.block_on(perform(&client, &args.command, args.json)) };
    if !args.command.looks() {
        return Err(Failure::usage("--watch is for commands that look, not for those that change something"));
    }
    loop {
        if std::io::stdout().is_terminal() {
            // Clears the screen and goes to its top.
            print!("\x1b[2J\x1b[H");
        }
        match runtime.block_on(perform(&client, &args.command, args.json)) {
            // A server that restarts comes back.
            Err(failure) if failure.kind == ExitKind::Unreachable => eprintln!("farshore: {}", failure.text),
            outcome => outcome?,
        }
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Keeps where the server is, whom to trust and the token, once the server has taken the token.
async fn login(args: &CtlArgs, settings: &Settings) -> Outcome {
    let server = args.server.clone().ok_or_else(|| Failure::usage("--server names the server to log in to"))?;
    let token = match &args.token_file {
        Some(_) => client::token(args, &settings.state_dir)?,
        None => profile::ask_token()?,
    };
    let authority_pem = match &args.ca_file {
        Some(file) => {
            let read = std::fs::read_to_string(file);
            Some(read.map_err(|error| Failure::usage(format!("read {}: {error}", file.display())))?)
        }
        None => None,
    };
    let kept = profile::Profile { server, token, authority_pem, ca_fingerprint: args.ca_fingerprint.clone() };
    let session = client::of_profile(&kept)?.get("session").await?;
    let path = profile::save(&kept)?;
    let field = |name: &str| session[name].as_str().unwrap_or("?").to_owned();
    println!("Logged in as '{}' ({}); kept in {}", field("name"), field("role"), path.display());
    Ok(())
}

#[cfg(test)]
mod tests;
