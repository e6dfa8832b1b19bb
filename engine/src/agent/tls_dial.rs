//! Connections to process servers, over TLS with the machine's certificate.

use std::sync::Arc;

use async_trait::async_trait;

use super::session::{Dial, Stream};
use crate::ids::ProcessServerId;
use crate::transport::identity::{Identity, Role};
use crate::transport::tls::{self, Peers, SharedIdentity, TlsFault, Trust};

/// See the module.
#[derive(Debug)]
pub struct TlsDial {
    identity: Identity,
    shared: SharedIdentity,
}

impl TlsDial {
    /// Connects as `identity`.
    pub fn new(identity: &Identity) -> Result<Self, TlsFault> {
        Ok(Self { identity: identity.clone(), shared: SharedIdentity::new(identity)? })
    }
}

#[async_trait]
impl Dial for TlsDial {
    async fn dial(&self, address: &str, expected: Option<ProcessServerId>) -> Result<Box<dyn Stream>, String> {
        let peers = expected.map_or(Peers::AnyProcessServer, |id| Peers::Exactly(Role::ProcessServer(id)));
        let trust = Trust::Authority(self.identity.authority().clone());
        let config = tls::client_config(Some(&self.shared), trust, peers).map_err(|fault| fault.to_string())?;
        let secured = tls::connect(address, Arc::clone(&config)).await.map_err(|fault| fault.to_string())?;
        Ok(Box::new(secured.stream))
    }
}
