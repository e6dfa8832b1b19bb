//! Supervision that holds when a child panics.
