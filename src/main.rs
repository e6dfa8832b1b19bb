//! `farshore`: every role of the system in one binary.

mod chaos;
mod commands;
mod descriptors;
mod exit;
mod logging;
mod settings;
mod stop;
mod vault_place;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};
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

/// What servers take beside what every command takes.
#[derive(Debug, Args)]
struct Listen {
    /// Address of the management interface.
    #[arg(long)]
    listen_management: Option<SocketAddr>,
    /// Address for replication data.
    #[arg(long)]
    listen_replication: Option<SocketAddr>,
    /// Address for control sessions.
    #[arg(long)]
    listen_control: Option<SocketAddr>,
    /// Serve management over plain HTTP; only on a loopback address.
    #[arg(long)]
    plain_http: bool,
    /// The vault: a path, file:///path, or azblob://account/container/prefix.
    #[arg(long)]
    vault: Option<String>,
    /// Address of the account's blob service, for a vault in Azure outside its public cloud or in an emulator.
    #[arg(long)]
    endpoint: Option<String>,
    /// The vault's key file.
    #[arg(long)]
    vault_key_file: Option<PathBuf>,
    /// Where members find the control port (host:port), once for each; the address that is listened on without it.
    #[arg(long)]
    advertise_control: Vec<String>,
    /// Let faults be injected. Not for production.
    #[arg(long)]
    enable_chaos: bool,
}

impl Listen {
    fn serving(&self) -> commands::servers::Serving {
        let control_addresses = self.advertise_control.clone();
        commands::servers::Serving { control_addresses, chaos: self.enable_chaos }
    }

    fn add_to(&self, flags: &mut Dict) {
        let mut listen = Dict::new();
        let addresses = [
            ("management", self.listen_management),
            ("replication", self.listen_replication),
            ("control", self.listen_control),
        ];
        for (name, address) in addresses {
            if let Some(address) = address {
                listen.insert(name.into(), Value::from(address.to_string()));
            }
        }
        if self.plain_http {
            listen.insert("plain_http".into(), Value::from(true));
        }
        let mut vault = Dict::new();
        if let Some(url) = &self.vault {
            vault.insert("url".into(), Value::from(url.as_str()));
        }
        if let Some(url) = &self.endpoint {
            vault.insert("endpoint".into(), Value::from(url.as_str()));
        }
        if let Some(file) = &self.vault_key_file {
            vault.insert("key_file".into(), Value::from(file.display().to_string()));
        }
        for (name, part) in [("listen", listen), ("vault", vault)] {
            if !part.is_empty() {
                flags.insert(name.into(), Value::from(part));
            }
        }
    }
}

/// What `config-server` takes.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
struct ConfigServerArgs {
    #[command(flatten)]
    listen: Listen,
    #[command(subcommand)]
    command: Option<commands::recover::ConfigServerCommand>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Configuration server and process server in one process.
    Up(Listen),
    /// The configuration server alone.
    ConfigServer(ConfigServerArgs),
    /// A process server alone.
    ProcessServer {
        #[command(flatten)]
        args: commands::servers::ProcessServerArgs,
        #[command(flatten)]
        listen: Listen,
    },
    /// The mobility agent: protects this machine's disks.
    Agent(commands::agent::AgentArgs),
    /// Measure this machine: sealing, a folder as a vault, an export over NBD.
    Bench(commands::bench::BenchArgs),
    /// A working system with a protected machine under live load.
    Demo(commands::demo::DemoArgs),
    /// Prove that nothing is lost: a workload with a journal, and a checker.
    #[command(subcommand)]
    Chaos(commands::chaos::ChaosCommand),
    /// Show or check the configuration.
    #[command(subcommand)]
    Config(commands::config::ConfigCommand),
    /// Call the API of a configuration server.
    Ctl(commands::ctl::CtlArgs),
    /// Reset a lost admin token, on the host of the configuration server.
    #[command(subcommand)]
    Token(commands::token::TokenCommand),
    /// Print a completion script for a shell.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
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
    let mut flags = cli.global.flags();
    match &cli.command {
        Command::Up(listen)
        | Command::ConfigServer(ConfigServerArgs { listen, .. })
        | Command::ProcessServer { listen, .. } => listen.add_to(&mut flags),
        _ => {}
    }
    let loaded = settings::load(cli.global.config.as_deref(), &flags)?;
    let settings = &loaded.settings;
    let level = logging::level(&settings.log.level).map_err(exit::Failure::usage)?;
    let (logger, _guard) = logging::start(settings.log.format, level);
    let stop = || stop::listen(&logger);
    if matches!(cli.command, Command::Config(_) | Command::Ctl(_) | Command::Vault(_) | Command::Token(_)) {
        exit::end_quietly_where_nobody_reads();
    }
    match &cli.command {
        Command::Up(listen) => commands::servers::up(settings, &logger, &stop()?, &listen.serving()),
        Command::ConfigServer(ConfigServerArgs { command: Some(command), .. }) => {
            commands::recover::run(command, settings, &logger)
        }
        Command::ConfigServer(ConfigServerArgs { listen, .. }) => {
            commands::servers::config_server(settings, &logger, &stop()?, &listen.serving())
        }
        Command::ProcessServer { args, listen } => {
            commands::servers::process_server(args, settings, &logger, &stop()?, &listen.serving())
        }
        Command::Agent(args) => commands::agent::run(args, settings, &logger),
        Command::Bench(args) => commands::bench::run(args),
        Command::Demo(args) => commands::demo::run(args, stop::listen_patiently(&logger)?),
        Command::Chaos(command) => commands::chaos::run(command),
        Command::Config(command) => commands::config::run(command, &loaded),
        Command::Ctl(args) => commands::ctl::run(args, settings),
        Command::Vault(command) => commands::vault::run(command, settings, &logger),
        Command::Token(command) => commands::token::run(command, settings),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "farshore", &mut std::io::stdout());
            Ok(())
        }
    }
}
