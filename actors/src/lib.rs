//! The actor system of Farshore: every machine, disk and upload stream is a supervised actor.
//!
//! An actor is a thin shell: it owns a pure state machine of `farshore_engine`, feeds it messages and time, and carries
//! out what comes out of it. Arrows point one way: `src → web → actors → engine`.
//!
//! | room | what lives there |
//! |---|---|
//! | [`supervise`] | watched start, warden, credit, retire, offload pools, chaos switch |
//! | [`data`] | the process server: machines, disks, upload streams, agent sessions |
//! | [`control`] | the configuration server: orchestrator, links, jobs, state store, CA |

pub mod control;
pub mod data;
pub mod supervise;
