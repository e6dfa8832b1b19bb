//! The manifest of a timeline: floor, epoch, pins, live runs.
