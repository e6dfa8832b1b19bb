//! What a process does differently that was started with `--enable-chaos`. Without that switch nothing here is looked at.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use farshore_actors::data::DataLimits;
use farshore_actors::supervise::set_clock_offset;
use slog::Logger;

use super::defects::Defect;
use crate::exit::Failure;

/// How wrong the process's clock is, in milliseconds.
const CLOCK_OFFSET: &str = "FARSHORE_CLOCK_OFFSET_MS";
/// How long an actor that was given up rests, in milliseconds: a storm is seen from end to end in a test.
const STORM_REST: &str = "FARSHORE_CHAOS_STORM_REST_MS";
/// How often a failing actor is started again before it is given up: the same.
const RESTARTS_MAX: &str = "FARSHORE_CHAOS_RESTARTS_MAX";
/// What the process does wrong.
const DEFECT: &str = "FARSHORE_CHAOS_DEFECT";

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Inside {
    /// What the process does wrong.
    pub(crate) defect: Option<Defect>,
    /// How long an actor that was given up rests.
    pub(crate) storm_rest: Option<Duration>,
    /// How often a failing actor is started again before it is given up.
    pub(crate) restarts_max: Option<usize>,
}

/// Longer than any installation lives that has a defect.
const FOR_EVER: Duration = Duration::from_secs(86_400);

impl Inside {
    /// The limits of a process server with what was asked for.
    pub(crate) fn adjust(&self, limits: &mut DataLimits) {
        limits.storm_rest = self.storm_rest.unwrap_or(limits.storm_rest);
        limits.restarts.restarts_max = self.restarts_max.unwrap_or(limits.restarts.restarts_max);
        match self.defect {
            Some(Defect::EndlessPatience) => limits.restarts.restarts_max = usize::MAX,
            Some(Defect::EndlessRest) => limits.storm_rest = FOR_EVER,
            _ => {}
        }
    }

    /// Hears that the process shall stop, unless that is its defect: then no signal but SIGKILL does anything.
    pub(crate) fn listen(&self, log: &Logger) -> Result<Arc<AtomicBool>, Failure> {
        let heard = match self.defect {
            Some(Defect::Deaf) => crate::stop::listen_patiently(log)?,
            _ => return crate::stop::listen(log),
        };
        drop(heard);
        Ok(Arc::default())
    }
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
            let all: Vec<&str> = Defect::ALL.iter().map(|(name, ..)| *name).collect();
            Failure::usage(format!("{DEFECT}: there is no defect '{name}', only {}", all.join(", ")))
        })?),
    };
    if let Some(defect) = defect {
        defect.take_hold()?;
    }
    let storm_rest = number(STORM_REST)?.map(Duration::from_millis);
    Ok(Inside { defect, storm_rest, restarts_max: number(RESTARTS_MAX)? })
}
