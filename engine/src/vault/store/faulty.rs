//! A store that fails on purpose, by value.
