//! Power cuts: whatever a component has acknowledged is there when the power comes back. Each component's own code
//! runs as a process on a filesystem whose disk has a volatile cache; the power goes in the middle of it, again and again.
//! With syncs that do nothing, the same rig must find that data is lost.

mod device;
mod parts;
mod rig;

use rig::{Rig, privileged, rounds};

/// Cuts the power so many times; nothing acknowledged may ever be missing.
fn survives(name: &str, part: &'static str, seed: u64) {
    if !privileged(name) {
        return;
    }
    let mut rig = Rig::new(part, seed);
    for round in 1..=rounds() {
        rig.round().unwrap_or_else(|lost| panic!("{part}, round {round}, seed {seed}: {lost}"));
    }
    let found = rig.check().unwrap_or_else(|lost| panic!("{part}, after the last cut, seed {seed}: {lost}"));
    println!("{part}: {} cuts; at the end {found}", rounds());
}

/// The same with syncs that do nothing: the rig must notice.
fn is_caught_without_sync(name: &str, part: &'static str) {
    if !privileged(name) {
        return;
    }
    let mut rig = Rig::new(part, 1).without_sync();
    let lost = (0..3).find_map(|_| rig.round().err()).or_else(|| rig.check().err());
    println!("{part} without sync: {}", lost.expect("what was never synced is lost by a cut, and the rig says so"));
}

#[test]
fn power_cuts_take_nothing_from_the_cache_that_was_durable() {
    survives("power_cuts_take_nothing_from_the_cache_that_was_durable", "cache", 11);
}

#[test]
fn power_cuts_leave_every_region_hot_that_was_recorded_hot() {
    survives("power_cuts_leave_every_region_hot_that_was_recorded_hot", "activity", 12);
}

#[test]
fn power_cuts_take_nothing_from_the_state_store_that_was_committed() {
    survives("power_cuts_take_nothing_from_the_state_store_that_was_committed", "state", 13);
}

#[test]
fn power_cuts_take_nothing_from_a_folder_vault_that_was_published() {
    survives("power_cuts_take_nothing_from_a_folder_vault_that_was_published", "vault", 14);
}

#[test]
fn a_cache_that_does_not_sync_is_caught() {
    is_caught_without_sync("a_cache_that_does_not_sync_is_caught", "cache");
}

#[test]
fn an_activity_log_that_does_not_sync_is_caught() {
    is_caught_without_sync("an_activity_log_that_does_not_sync_is_caught", "activity");
}

#[test]
fn a_state_store_that_does_not_sync_is_caught() {
    is_caught_without_sync("a_state_store_that_does_not_sync_is_caught", "state");
}

#[test]
fn a_folder_vault_that_does_not_sync_is_caught() {
    is_caught_without_sync("a_folder_vault_that_does_not_sync_is_caught", "vault");
}

/// The process that the power is cut from. The other tests start it; by itself it does nothing.
#[test]
#[ignore = "started by the other tests"]
fn the_child_of_the_power_cuts() {
    parts::run();
}
