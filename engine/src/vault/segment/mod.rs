//! The segment: the immutable object that fills one log slot.
