//! Reading a vault: tail, points, extent maps, volumes, verify, restore.
