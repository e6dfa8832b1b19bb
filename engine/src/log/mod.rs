//! The log writer's pure cores: sequencing batches into segments, filling slots in order, fencing.
