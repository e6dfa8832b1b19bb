//! The chaos harness against whole installations of real processes: what it says of a system that is broken on purpose, and
//! that it would say otherwise of one that loses something.

mod defects;
mod outside;
mod rounds;
