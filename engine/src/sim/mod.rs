//! The seeded simulator: virtual time, faulty stores, disks, links and processes around the pure cores.
