//! The API as its callers meet it: real sockets, real tokens, a real control plane; a process server played by the test.

mod chaos;
mod commands;
mod fuzzed;
mod live;
mod machines;
mod protection;
mod refusals;
mod rig;
mod webhooks;
