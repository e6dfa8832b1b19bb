//! The control protocol: enrolment, assignments, commands and heartbeats.
