//! `farshore`: every role of the system in one binary.

mod commands;
mod exit;
mod logging;
mod settings;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use figment::value::{Dict, Value};

use crate::exit::{Outcome, report};

/// Disaster-recovery replication: every write, in order, to a far shore.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
struct Global {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "FARSHORE_CONFIG")]
    config: Option<PathBuf>,
    /// Where state is kept.
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, global = true, value_enum)]
    log_format: Option<logging::LogFormat>,
    /// error, warning, info, debug or trace.
    #[arg(long, global = true)]
    log_level: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Protect this machine's disks.
    Agent(commands::agent::AgentArgs),
    /// Prove that nothing is lost: a workload with a journal, and a checker.
    #[command(subcommand)]
    Chaos(commands::chaos::ChaosCommand),
    /// Show or check the configuration.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// Call the API of a configuration server.
    Ctl(commands::ctl::CtlArgs),
    /// Read a vault with nothing but the vault and one of its keys.
    #[command(subcommand)]
    Vault(commands::vault::VaultCommand),
}

impl Global {
    fn flags(&self) -> Dict {
        let mut flags = Dict::new();
        if let Some(dir) = &self.state_dir {
            flags.insert("state_dir".into(), Value::from(dir.display().to_string()));
        }
        let mut log = Dict::new();
        if let Some(format) = self.log_format {
            let name = match format {
                logging::LogFormat::Terminal => "terminal",
                logging::LogFormat::Json => "json",
            };
            log.insert("format".into(), Value::from(name));
        }
        if let Some(level) = &self.log_level {
            log.insert("level".into(), Value::from(level.as_str()));
        }
        if !log.is_empty() {
            flags.insert("log".into(), Value::from(log));
        }
        flags
    }
}

fn main() -> ExitCode {
    report(run(&Cli::parse()))
}

fn run(cli: &Cli) -> Outcome {
    let loaded = settings::load(cli.global.config.as_deref(), &cli.global.flags())?;
    let level = logging::level(&loaded.settings.log.level).map_err(exit::Failure::usage)?;
    let (logger, _guard) = logging::start(loaded.settings.log.format, level);
    match &cli.command {
        Command::Agent(args) => commands::agent::run(args, &loaded.settings, &logger),
        Command::Chaos(command) => commands::chaos::run(command),
        Command::Config(command) => commands::config::run(command, &loaded),
        Command::Ctl(args) => commands::ctl::run(args, &loaded.settings),
        Command::Vault(command) => commands::vault::run(command, &logger),
    }
}
