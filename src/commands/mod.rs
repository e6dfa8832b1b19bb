//! The commands, one file each.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod chaos;
pub(crate) mod config;
pub(crate) mod ctl;
pub(crate) mod demo;
pub(crate) mod recover;
pub(crate) mod servers;
pub(crate) mod token;
pub(crate) mod vault;
