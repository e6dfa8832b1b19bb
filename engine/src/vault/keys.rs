//! The key object: the vault's identity and its key slots.
