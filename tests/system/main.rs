//! The system as its users run it: real processes, real clients, real filesystems and databases, kills and damage. The
//! oracle decides.

mod azure;
#[path = "../azure/azurite.rs"]
mod azurite;
mod bad_input;
mod cluster;
mod filesystems;
mod kills;
mod merging;
mod mounted;
mod mounts;
mod moves;
mod outages;
mod recover;
mod restarts;
mod resync;
mod rig;
mod roles;
mod vault_alone;
mod vaults;
