//! TLS 1.3 with mutual authentication, certificates, and length-prefixed messages over it.
//!
//! ```text
//!   identity   who is who: roles in certificates, the installation's own certificate authority
//!   tls        how two of them trust each other: configurations, connect, accept, and faults in plain words
//!   framed     messages over what tls gives (or over any byte stream)
//! ```
//!
//! Trust hangs on the installation's authority and on roles, never on host names or addresses: a process server or
//! configuration server may move to another address without a new certificate.

pub mod framed;
pub mod identity;
pub mod tls;

pub use framed::{FramedReader, FramedWriter, LinkError};
pub use identity::{CertificateAuthority, Fingerprint, Identity, KeyRequest, Role};
pub use tls::{ClientAuth, Peers, SharedIdentity, TlsFault, Trust};

#[cfg(test)]
mod tests;
