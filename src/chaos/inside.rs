//! What a process does differently that was started with `--enable-chaos`. Without that switch nothing here is looked at.

use std::time::Duration;

use farshore_actors::supervise::set_clock_offset;

use super::defects::Defect;
use crate::exit::Failure;

/// How wrong the process's clock is, in milliseconds.
const CLOCK_OFFSET: &str = "FARSHORE_CLOCK_OFFSET_MS";
/// How long an actor that was given up rests, in milliseconds: a storm is seen from end to end in a test.
const STORM_REST: &str = "FARSHORE_CHAOS_STORM_REST_MS";
/// What the process does wrong.
const DEFECT: &str = "FARSHORE_CHAOS_DEFECT";

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inside {
    /// What the process does wrong.
    pub(crate) defect: Option<Defect>,
    /// How long an actor that was given up rests.
    pub(crate) storm_rest: Option<Duration>,
}

fn number<T: std::str::FromStr>(name: &str) -> Result<Option<T>, Failure> {
    let Some(text) = std::env::var_os(name) else { return Ok(None) };
    let number = text.to_str().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Failure::usage(format!("{name} is {}: expected a number", text.display())))
}

/// Looks at the environment, where faults are allowed; sets the clock.
pub(crate) fn prepare(enabled: bool) -> Result<Inside, Failure> {
    if !enabled {
        return Ok(Inside::default());
    }
    if let Some(offset_ms) = number(CLOCK_OFFSET)? {
        set_clock_offset(offset_ms);
    }
    let defect = match std::env::var(DEFECT) {
        Err(_) => None,
        Ok(name) => Some(Defect::named(&name).ok_or_else(|| {
            let all: Vec<&str> = Defect::ALL.iter().map(|(name, _)| *name).collect();
            Failure::usage(format!("{DEFECT}: there is no defect '{name}', only {}", all.join(", ")))
        })?),
    };
    Ok(Inside { defect, storm_rest: number(STORM_REST)?.map(Duration::from_millis) })
}
