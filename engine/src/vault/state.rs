//! What a log says up to a position: the state every footer carries.
