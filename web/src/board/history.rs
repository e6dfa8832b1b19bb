//! How machines fared lately, for charts: rings in memory, fine for a quarter of an hour, coarse for half a day.
//!
//! Bounds: [`FINE_MAX`] and [`COARSE_MAX`] samples of 24 bytes for each machine, some 22 KiB; [`MACHINES_MAX`] machines.
//! A restart of the configuration server forgets them; what must be kept longer belongs into Prometheus.

use std::collections::{BTreeMap, VecDeque};

use farshore_actors::control::view::{MachineView, Picture};
use farshore_engine::ids::{MachineId, Timestamp};

/// Seconds between fine samples.
pub(crate) const FINE_SECONDS: u32 = 5;
/// Fine samples that are kept: a quarter of an hour.
const FINE_MAX: usize = 180;
/// Seconds between coarse samples.
pub(crate) const COARSE_SECONDS: u32 = 60;
/// Coarse samples that are kept: twelve hours.
const COARSE_MAX: usize = 720;
/// Machines that are sampled.
const MACHINES_MAX: usize = 4096;
/// A counter is looked at again after this time at the earliest: shorter makes rates jump.
const METER_MICROS_MIN: u64 = 4_000_000;
/// A counter that did not move on for so long has no rate.
const METER_MICROS_MAX: u64 = 60_000_000;

/// One moment; `NAN`: not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sample {
    /// Seconds since 1970.
    pub(crate) at: u32,
    /// Newest recovery point's age in seconds.
    pub(crate) rpo: f32,
    /// Bytes backlog.
    pub(crate) backlog: f32,
    /// Rates.
    pub(crate) rates: Rates,
}

/// Bytes a second; `NAN`: not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rates {
    /// Written by applications.
    pub(crate) write: f32,
    /// Received by the process server.
    pub(crate) shipped: f32,
    /// Put into the vault.
    pub(crate) uploaded: f32,
}

impl Rates {
    const UNKNOWN: Self = Self { write: f32::NAN, shipped: f32::NAN, uploaded: f32::NAN };

    fn add(&mut self, other: Self) {
        let add = |sum: &mut f32, more: f32| {
            if !more.is_nan() {
                *sum = if sum.is_nan() { more } else { *sum + more };
            }
        };
        add(&mut self.write, other.write);
        add(&mut self.shipped, other.shipped);
        add(&mut self.uploaded, other.uploaded);
    }
}

/// A counter's rate.
#[derive(Debug, Clone, Copy, Default)]
struct Meter {
    last: Option<(Timestamp, u64)>,
    rate: Option<f32>,
}

impl Meter {
    /// The counter stood at `value` at `at`.
    fn look(&mut self, at: Timestamp, value: u64) {
        let Some((before, last)) = self.last else { return self.last = Some((at, value)) };
        let micros = at.micros_since(before);
        if micros < METER_MICROS_MIN {
            return;
        }
        // One that fell was begun anew.
        let grown = value.checked_sub(last).filter(|_| micros <= METER_MICROS_MAX);
        self.rate = grown.map(|bytes| (bytes as f64 / micros as f64 * 1e6) as f32);
        self.last = Some((at, value));
    }

    fn rate(&self, now: Timestamp) -> f32 {
        let fresh = self.last.is_some_and(|(at, _)| now.micros_since(at) <= METER_MICROS_MAX);
        self.rate.filter(|_| fresh).unwrap_or(f32::NAN)
    }
}

#[derive(Debug, Clone, Default)]
struct Rings {
    fine: VecDeque<Sample>,
    coarse: VecDeque<Sample>,
}

impl Rings {
    fn push(&mut self, sample: Sample) {
        let push = |ring: &mut VecDeque<Sample>, most: usize, every: u32| {
            if ring.back().is_some_and(|last| sample.at < last.at.saturating_add(every)) {
                return;
            }
            if ring.len() == most {
                ring.pop_front();
            }
            ring.push_back(sample);
        };
        push(&mut self.fine, FINE_MAX, FINE_SECONDS);
        push(&mut self.coarse, COARSE_MAX, COARSE_SECONDS);
    }
}

#[derive(Debug, Clone, Default)]
struct Entry {
    rings: Rings,
    written: Meter,
    received: Meter,
    uploaded: Meter,
}

/// How machines fared lately.
#[derive(Debug, Default)]
pub(crate) struct History {
    machines: BTreeMap<MachineId, Entry>,
    all: Rings,
}

impl History {
    /// Looks at everything.
    pub(crate) fn look(&mut self, picture: &Picture) {
        let at = u32::try_from(picture.at.0 / 1_000_000).unwrap_or(0);
        let known: std::collections::BTreeSet<MachineId> = picture.machines.iter().map(|machine| machine.id).collect();
        self.machines.retain(|machine, _| known.contains(machine));
        let mut all = Sample { at, rpo: f32::NAN, backlog: 0.0, rates: Rates::UNKNOWN };
        for machine in &picture.machines {
            if !self.machines.contains_key(&machine.id) && self.machines.len() >= MACHINES_MAX {
                continue;
            }
            let entry = self.machines.entry(machine.id).or_default();
            let sample = entry.look(machine, picture.at, at);
            all.rpo = all.rpo.max(sample.rpo);
            all.backlog += sample.backlog;
            all.rates.add(sample.rates);
        }
        self.all.push(all);
    }

    /// A machine's rates now.
    pub(crate) fn rates(&self, machine: MachineId, now: Timestamp) -> Rates {
        self.machines.get(&machine).map_or(Rates::UNKNOWN, |entry| entry.rates(now))
    }

    /// The newest sample of everything together.
    pub(crate) fn now(&self) -> Option<Sample> {
        self.all.fine.back().copied()
    }

    /// The samples of the last `minutes` of a machine, or of everything together, and the seconds between them.
    pub(crate) fn since(&self, machine: Option<MachineId>, minutes: u32, now: Timestamp) -> (u32, Vec<Sample>) {
        let rings = match machine {
            Some(machine) => self.machines.get(&machine).map(|entry| &entry.rings),
            None => Some(&self.all),
        };
        let fine = minutes.saturating_mul(60) <= FINE_SECONDS * FINE_MAX as u32;
        let step = if fine { FINE_SECONDS } else { COARSE_SECONDS };
        let from = u32::try_from(now.0 / 1_000_000).unwrap_or(0).saturating_sub(minutes.saturating_mul(60));
        let ring = rings.map(|rings| if fine { &rings.fine } else { &rings.coarse });
        let samples = ring.into_iter().flatten().filter(|sample| sample.at >= from).copied().collect();
        (step, samples)
    }
}

impl Entry {
    fn look(&mut self, machine: &MachineView, now: Timestamp, at: u32) -> Sample {
        if let Some((reported, report)) = &machine.report {
            self.written.look(*reported, report.written_bytes);
        }
        if let Some(report) = &machine.at_owner {
            self.received.look(now, report.received_bytes);
            self.uploaded.look(now, report.uploaded_bytes);
        }
        let backlog = machine.at_owner.as_ref().map_or(0, |report| report.backlog_bytes);
        let rpo = machine.rpo.map_or(f32::NAN, |rpo| rpo.as_secs_f32());
        let sample = Sample { at, rpo, backlog: backlog as f32, rates: self.rates(now) };
        self.rings.push(sample);
        sample
    }

    fn rates(&self, now: Timestamp) -> Rates {
        let (write, shipped) = (self.written.rate(now), self.received.rate(now));
        Rates { write, shipped, uploaded: self.uploaded.rate(now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u32) -> Sample {
        Sample { at, rpo: 1.0, backlog: 0.0, rates: Rates::UNKNOWN }
    }

    #[test]
    fn rings_keep_a_quarter_of_an_hour_fine_and_half_a_day_coarse_and_no_more() {
        let mut rings = Rings::default();
        (0..100_000).for_each(|at| rings.push(sample(at)));
        assert_eq!((rings.fine.len(), rings.coarse.len()), (FINE_MAX, COARSE_MAX));
        let gaps = |ring: &VecDeque<Sample>| ring.iter().zip(ring.iter().skip(1)).map(|(a, b)| b.at - a.at).max();
        assert_eq!((gaps(&rings.fine), gaps(&rings.coarse)), (Some(FINE_SECONDS), Some(COARSE_SECONDS)));
        assert_eq!(size_of::<Sample>(), 24, "the bound in the module's head");
    }

    #[test]
    fn a_rate_needs_two_looks_and_a_counter_that_fell_has_none() {
        let mut meter = Meter::default();
        let at = |seconds: i64| Timestamp(seconds * 1_000_000);
        meter.look(at(0), 100);
        assert!(meter.rate(at(0)).is_nan());
        meter.look(at(1), 900);
        assert!(meter.rate(at(1)).is_nan(), "too soon");
        meter.look(at(5), 1100);
        assert_eq!(meter.rate(at(5)), 200.0);
        assert!(meter.rate(at(66)).is_nan(), "nothing was heard for a minute");
        meter.look(at(10), 3);
        assert!(meter.rate(at(10)).is_nan(), "it was begun anew");
    }
}
