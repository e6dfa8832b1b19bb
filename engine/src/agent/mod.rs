//! The mobility agent put together: exports, capture, session to the process server.
