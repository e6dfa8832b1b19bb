//! What the process tells its caller. Documented in docs/operations.md; scripts rely on the numbers.

use std::fmt;
use std::process::ExitCode;

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
