//! The process server's cache: the open segment file, group commit, recovery, limits.
