//! The replication protocol between agent and process server: messages, codec, and both ends as pure state machines.
