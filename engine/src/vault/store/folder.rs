//! A store in a folder: write aside, sync, hard-link, sync the directory.
