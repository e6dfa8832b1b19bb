//! TLS 1.3 with mutual authentication, certificates, and length-prefixed messages over it.
