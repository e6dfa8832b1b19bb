//! Logs: slog, to a terminal or as JSON lines on standard error; `log` and `tracing` of dependencies end here too.
//! No key, token or passphrase is ever a value here: their types print as "(..)".

use std::io::IsTerminal;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use slog::{Drain, Level, Logger, o};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum LogFormat {
    /// Columns for people.
    Terminal,
    /// One JSON object a line.
    Json,
}

/// Log lines that may wait for the writer; beyond them lines are dropped and their number is reported.
const QUEUE_LINES: usize = 8192;

/// Keeps logging alive; dropping it writes what still waits.
pub(crate) struct LogGuard {
    _async: slog_async::AsyncGuard,
    _scope: slog_scope::GlobalLoggerGuard,
}

/// The level a text names.
pub(crate) fn level(text: &str) -> Result<Level, String> {
    text.parse().map_err(|()| format!("'{text}' is no log level: use error, warning, info, debug or trace"))
}

/// Sets up logging for the process.
pub(crate) fn start(format: LogFormat, level: Level) -> (Logger, LogGuard) {
    let (drain, guard) = match format {
        LogFormat::Json => {
            let json = slog_json::Json::default(std::io::stderr()).fuse();
            slog_async::Async::new(json).chan_size(QUEUE_LINES).build_with_guard()
        }
        LogFormat::Terminal => {
            let colour = slog_term::TermDecorator::new().stderr();
            let colour = if std::io::stderr().is_terminal() { colour.force_color() } else { colour.force_plain() };
            let lines = slog_term::FullFormat::new(colour.build()).build().fuse();
            slog_async::Async::new(lines).chan_size(QUEUE_LINES).build_with_guard()
        }
    };
    let logger = Logger::root(drain.filter_level(level).fuse(), o!());
    let scope = slog_scope::set_global_logger(logger.clone());
    // A second call in one process (tests) finds the bridge in place already.
    let _ = slog_stdlog::init_with_level(log_level(level));
    (logger, LogGuard { _async: guard, _scope: scope })
}

/// Dependencies speak one level more quietly than we do.
fn log_level(level: Level) -> log::Level {
    match level {
        Level::Critical | Level::Error | Level::Warning | Level::Info => log::Level::Warn,
        Level::Debug => log::Level::Info,
        Level::Trace => log::Level::Debug,
    }
}
