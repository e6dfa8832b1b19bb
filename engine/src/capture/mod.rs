//! The write path on the protected machine: order, overlap, the activity log, the scanner, the overload ladder.
