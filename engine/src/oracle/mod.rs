//! The oracle: stamped blocks, the journal of what was acknowledged, and the checker.
