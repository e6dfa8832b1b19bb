//! The process server: receives, caches, seals and uploads the writes of its machines.
