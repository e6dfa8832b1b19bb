//! The vault: what lies in the object store, how it is written and how it is read.

pub mod about;
pub mod catalog;
pub mod crypto;
pub mod envelope;
pub mod export;
pub mod keys;
pub mod layout;
pub mod manifest;
pub mod manifest_keeper;
pub mod merge;
pub mod pins;
pub mod read;
pub mod repair;
pub mod retention;
pub mod scrub;
pub mod segment;
pub mod state;
pub mod store;
