//! Farshore.
