//! `farshore config show` and `config check`.

use clap::Subcommand;

use crate::exit::Outcome;
use crate::settings::Loaded;

/// What to do with the configuration.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print every value with where it came from.
    Show,
    /// Read it, and say whether it is right.
    Check,
}

/// Runs a configuration command; reading it has succeeded already.
pub(crate) fn run(command: &ConfigCommand, loaded: &Loaded) -> Outcome {
    match command {
        ConfigCommand::Show => {
            let rows = loaded.rows();
            let widths = rows.iter().fold((0, 0), |(a, b), row| (a.max(row.0.len()), b.max(row.1.len())));
            for (key, value, origin) in rows {
                println!("{key:<0$}  {value:<1$}  {origin}", widths.0, widths.1);
            }
        }
        ConfigCommand::Check => println!("the configuration is valid"),
    }
    Ok(())
}
