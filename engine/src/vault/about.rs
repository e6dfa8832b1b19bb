//! A machine's description: disks, timelines, its wrapped data key.
