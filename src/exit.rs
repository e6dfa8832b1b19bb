//! What the process tells its caller. Documented in docs/operations.md; scripts rely on the numbers.

use std::process::{self, ExitCode};
use std::{fmt, panic};

/// Why a command ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitKind {
    /// It was tried and failed, or a check found something wrong.
    Failed = 1,
    /// The command line, a file it names or the configuration is wrong: nothing was tried.
    Usage = 2,
    /// A server or the vault does not answer: trying again may help.
    Unreachable = 3,
    /// Credentials, a key or a certificate were refused: trying again does not help.
    Refused = 4,
}

/// A command that failed: what happened, why, and what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the caller does next.
    pub(crate) kind: ExitKind,
    /// For people.
    pub(crate) text: String,
}

impl Failure {
    /// A failure of `kind` with a text for people.
    pub(crate) fn new(kind: ExitKind, text: impl fmt::Display) -> Self {
        Self { kind, text: text.to_string() }
    }

    /// Tried and failed.
    pub(crate) fn failed(text: impl fmt::Display) -> Self {
        Self::new(ExitKind::Failed, text)
    }

    /// Wrong input: nothing was tried.
    pub(crate) fn usage(text: impl fmt::Display) -> Self {
        Self::new(ExitKind::Usage, text)
    }
}

/// How a command ends.
pub(crate) type Outcome = Result<(), Failure>;

/// What a shell calls the end of a program whose output nobody reads any more: 128 + SIGPIPE.
const NOBODY_READS: i32 = 141;

/// Ends a tool without a word when whoever read its output has gone (`farshore ctl events | head`): printing panics then.
/// Not for what has children or sessions to end.
pub(crate) fn end_quietly_where_nobody_reads() {
    let otherwise = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>().map_or("", String::as_str);
        if text.starts_with("failed printing to stdout: Broken pipe") {
            process::exit(NOBODY_READS);
        }
        otherwise(info);
    }));
}

/// Prints a failure and gives the code.
pub(crate) fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("farshore: {}", failure.text);
            ExitCode::from(failure.kind as u8)
        }
    }
}
