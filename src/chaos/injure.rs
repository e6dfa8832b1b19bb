//! Carries out a schedule: begins each fault at its time and ends it at its time.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::fault::{Fault, Span, Way};
use super::proxy::Weather;
use super::schedule::Due;
use super::site::Site;

/// A fault that is not over.
struct Open {
    until: f64,
    fault: Fault,
    /// Of a storm: when it strikes next.
    next: f64,
}

/// See the module.
pub(crate) struct Injuries {
    coming: Vec<Due>,
    open: Vec<Open>,
}

impl Injuries {
    /// What is to come, in order of time.
    pub(crate) fn new(schedule: &[Due]) -> Self {
        let mut coming = schedule.to_vec();
        coming.reverse();
        Self { coming, open: Vec::new() }
    }

    /// Does what is due at `now`, in seconds after the load began; gives what has begun.
    pub(crate) fn advance(&mut self, site: &mut Site, now: f64) -> Result<Vec<Due>, String> {
        for at in (0..self.open.len()).rev() {
            if self.open[at].until <= now {
                let over = self.open.swap_remove(at);
                end(site, &over.fault)?;
            } else if self.open[at].next <= now {
                self.open[at].next = strike_again(site, &self.open[at].fault, now)?;
            }
        }
        let mut begun = Vec::new();
        while let Some(due) = self.coming.pop_if(|due| due.at <= now) {
            begin(site, &due.fault)?;
            if due.fault.seconds().is_some() {
                let next = if let Fault::Storm { every, .. } = &due.fault { now + every.most() } else { f64::INFINITY };
                self.open.push(Open { until: due.until().max(now), fault: due.fault.clone(), next });
            }
            begun.push(due);
        }
        Ok(begun)
    }

    /// Whether nothing is open and nothing comes.
    pub(crate) fn are_over(&self) -> bool {
        self.coming.is_empty() && self.open.is_empty()
    }
}

fn weather_of(fault: &Fault) -> Weather {
    let fair = Weather::default();
    match fault {
        Fault::BlackHole { .. } => Weather { up_held: true, down_held: true, ..fair },
        Fault::HalfOpen { way: Way::Up, .. } => Weather { up_held: true, ..fair },
        Fault::HalfOpen { way: Way::Down, .. } => Weather { down_held: true, ..fair },
        Fault::SlowLink { latency_ms, kib_per_second, .. } => Weather {
            latency: std::time::Duration::from_millis(*latency_ms),
            bytes_per_second: (*kib_per_second > 0).then_some(kib_per_second << 10),
            ..fair
        },
        Fault::Refuse { .. } => Weather { refuses: true, ..fair },
        _ => fair,
    }
}

fn begin(site: &mut Site, fault: &Fault) -> Result<(), String> {
    match fault {
        Fault::Kill { target, .. } => site.kill(target),
        Fault::Pause { target, .. } => site.signal(target, Signal::STOP),
        Fault::Restart { target } => site.restart(target, None),
        Fault::Skew { target, offset, .. } => site.restart(target, Some(milliseconds(*offset))),
        Fault::Storm { target, .. } => {
            site.kill(target);
            site.start(target)?;
        }
        Fault::BlackHole { link, .. }
        | Fault::HalfOpen { link, .. }
        | Fault::SlowLink { link, .. }
        | Fault::Refuse { link, .. } => site.weather(link, weather_of(fault)),
        Fault::Reset { link } => site.reset(link),
        Fault::Panic { target, .. }
        | Fault::VaultFail { target, .. }
        | Fault::VaultSlow { target, .. }
        | Fault::CacheFull { target, .. } => {
            let process = if target == "config" { "config-server" } else { target };
            site.ask(&["chaos", "arm", "--process", process, &injection(fault).to_string()]);
        }
        Fault::LoseCache { target, .. } => {
            site.kill(target);
            site.lose_cache(target)?;
        }
        Fault::Cut { target, .. } => site.cut(target, true)?,
        Fault::Corrupt { object, bit, .. } => site.vault_damage.strike(object.most(), bit.most())?,
        Fault::Move { target, to } => site.ask(&["move", target, "--to", to]),
    }
    Ok(())
}

/// A fault as the API takes it.
fn injection(fault: &Fault) -> Value {
    let ms = |seconds: &Span| milliseconds(*seconds).max(1);
    match fault {
        Fault::Panic { actor, times, seconds, .. } => {
            json!({ "fault": "panic", "actor": actor, "times": times, "for_ms": ms(seconds) })
        }
        Fault::VaultFail { seconds, after_effect, .. } => {
            json!({ "fault": "vault_fail", "for_ms": ms(seconds), "after_effect": after_effect })
        }
        Fault::VaultSlow { seconds, delay_ms, .. } => {
            json!({ "fault": "vault_slow", "for_ms": ms(seconds), "delay_ms": delay_ms })
        }
        Fault::CacheFull { seconds, .. } => json!({ "fault": "cache_full", "for_ms": ms(seconds) }),
        _ => Value::Null,
    }
}

fn milliseconds(seconds: Span) -> i64 {
    (seconds.most() * 1000.0) as i64
}

/// The next blow of a storm; gives when the one after it falls.
fn strike_again(site: &mut Site, fault: &Fault, now: f64) -> Result<f64, String> {
    let Fault::Storm { target, every, .. } = fault else { return Ok(f64::INFINITY) };
    site.kill(target);
    site.start(target)?;
    Ok(now + every.most())
}

fn end(site: &mut Site, fault: &Fault) -> Result<(), String> {
    match fault {
        Fault::Kill { target, .. } | Fault::LoseCache { target, .. } => site.start(target)?,
        Fault::Cut { target, .. } => site.cut(target, false)?,
        Fault::Corrupt { .. } => site.vault_damage.mend()?,
        Fault::Pause { target, .. } => site.signal(target, Signal::CONT),
        Fault::BlackHole { link, .. }
        | Fault::HalfOpen { link, .. }
        | Fault::SlowLink { link, .. }
        | Fault::Refuse { link, .. } => site.weather(link, Weather::default()),
        Fault::Skew { target, .. } => site.restart(target, Some(0)),
        // What was armed ends by itself.
        Fault::Panic { .. }
        | Fault::VaultFail { .. }
        | Fault::VaultSlow { .. }
        | Fault::CacheFull { .. }
        | Fault::Move { .. }
        | Fault::Storm { .. }
        | Fault::Restart { .. }
        | Fault::Reset { .. } => {}
    }
    Ok(())
}
