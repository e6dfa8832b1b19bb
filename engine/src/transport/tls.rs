//! TLS 1.3, both ways: who is let in, who is believed, and every failure in words that say what to do.
//!
//! ```text
//!   9443, 9444   mutual: ClientAuth::Required, or Optional where one may still have to enrol
//!   client       Trust::Authority(our own)            the chain leads to it, and the peer's role is one of Peers
//!                Trust::Fingerprint(of the authority)  first contact: the same, with the authority the server shows
//! ```
//!
//! Names and addresses prove nothing here: every listener's certificate has the DNS name "farshore".

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::identity::{Facts, Fingerprint, Identity, IdentityError, Role, SERVER_NAME};

/// How long a peer may take for its handshake. Chosen: three round trips of a bad satellite link; longer lets silent
/// peers hold sockets.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Encrypted bytes that a connection may hold before its socket takes them. Measured elsewhere: the library's own
/// 64 KiB costs a system call per four records.
pub const SEND_BUFFER_BYTES: usize = 256 << 10;

/// Why two ends do not talk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// The peer's certificate was signed by another authority.
    #[error("the peer's certificate is from another Farshore installation (or was forged): enrol it with this one")]
    ForeignAuthority,
    /// The peer's certificate is out of its time.
    #[error("the peer's certificate {0}: renew it, or set the clocks right")]
    OutOfTime(String),
    /// The authority that the server shows is not the pinned one.
    #[error(
        "the configuration server's authority has fingerprint {found}, expected {expected}: wrong server, or a wrong \
         fingerprint was copied"
    )]
    WrongFingerprint {
        /// What was given.
        expected: Fingerprint,
        /// What the server shows; the last certificate of its chain.
        found: Fingerprint,
    },
    /// The peer is of this installation, but not who should be there.
    #[error("the peer is {found}, expected {expected}: check the address")]
    WrongRole {
        /// Who should be there.
        expected: String,
        /// Who is.
        found: String,
    },
    /// The peer shows no certificate, where one is needed.
    #[error("the peer shows no certificate: enrol it first")]
    NoCertificate,
    /// The other side does not like this side's certificate.
    #[error("the peer does not accept this side's certificate: {0}")]
    Refused(&'static str),
    /// The peer does not speak TLS 1.3.
    #[error("the peer does not speak TLS 1.3: check the address and port ({0})")]
    NotTls(String),
    /// The peer did not finish its handshake.
    #[error("the peer did not finish its TLS handshake in time: it is not a Farshore peer, or the network is stuck")]
    Timeout,
    /// The peer or the network ended it.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Keys or certificates on this side cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Settings on this side cannot be used.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

impl TlsFault {
    /// What an error of a TLS stream says in these words.
    pub fn explain(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(fault) => Self::of(fault),
            None => Self::Broken(error.to_string()),
        }
    }

    fn of(fault: &rustls::Error) -> Self {
        match fault {
            rustls::Error::InvalidCertificate(fault) => Self::of_certificate(fault),
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            rustls::Error::InvalidMessage(_)
            | rustls::Error::InappropriateMessage { .. }
            | rustls::Error::PeerIncompatible(_) => Self::NotTls(fault.to_string()),
            other => Self::Broken(other.to_string()),
        }
    }

    fn of_certificate(fault: &CertificateError) -> Self {
        match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::ForeignAuthority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::OutOfTime("has expired".into())
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::OutOfTime("is not valid yet".into())
            }
            CertificateError::Other(OtherError(cause)) => match cause.downcast_ref::<Self>() {
                Some(fault) => fault.clone(),
                None => Self::Broken(cause.to_string()),
            },
            other => Self::WrongRole { expected: "a Farshore server".into(), found: other.to_string() },
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => {
                Self::Refused("it is from another Farshore installation; enrol this side there")
            }
            AlertDescription::CertificateExpired => Self::Refused("it has expired; renew it, or set the clocks right"),
            AlertDescription::CertificateRequired => Self::Refused("there is none; enrol this side first"),
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Self::Refused("it is not one that may connect there"),
            AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => {
                Self::NotTls("no common version of TLS".into())
            }
            other => Self::Broken(format!("the peer reports {other:?}")),
        }
    }

    fn within(self) -> rustls::Error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(self))))
    }
}

/// Who is believed to be a server.
#[derive(Debug, Clone)]
pub enum Trust {
    /// Whom this authority signed.
    Authority(CertificateDer<'static>),
    /// Whom the authority with this fingerprint signed; the server shows it. For the first contact.
    Fingerprint(Fingerprint),
}

/// Which servers may be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peers {
    /// The configuration server.
    ConfigServer,
    /// Any process server.
    AnyProcessServer,
    /// Exactly this one.
    Exactly(Role),
}

impl Peers {
    fn include(self, role: Role) -> bool {
        match self {
            Self::ConfigServer => role == Role::ConfigServer,
            Self::AnyProcessServer => matches!(role, Role::ProcessServer(_)),
            Self::Exactly(expected) => role == expected,
        }
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigServer => f.write_str("the configuration server"),
            Self::AnyProcessServer => f.write_str("a process server"),
            Self::Exactly(role) => role.fmt(f),
        }
    }
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Every one.
    Required,
    /// Those who have one show it; others may enrol.
    Optional,
    /// None: browsers and API clients, who bring tokens.
    None,
}

/// An identity that may be renewed while connections and listeners use it.
#[derive(Clone)]
pub struct SharedIdentity(Arc<Cell>);

struct Cell {
    key: RwLock<Arc<CertifiedKey>>,
}

impl fmt::Debug for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cell(..)")
    }
}

impl fmt::Debug for SharedIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedIdentity(..)")
    }
}

impl SharedIdentity {
    /// Shares an identity.
    pub fn new(identity: &Identity) -> Result<Self, TlsFault> {
        Ok(Self(Arc::new(Cell { key: RwLock::new(Arc::new(certified(identity)?)) })))
    }

    /// New connections use this one from now on.
    pub fn replace(&self, identity: &Identity) -> Result<(), TlsFault> {
        *self.0.key.write() = Arc::new(certified(identity)?);
        Ok(())
    }
}

impl ResolvesServerCert for Cell {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.key.read().clone())
    }
}

impl ResolvesClientCert for Cell {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.key.read().clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn certified(identity: &Identity) -> Result<CertifiedKey, TlsFault> {
    let key = provider().key_provider.load_private_key(identity.key().clone_key());
    let certified = CertifiedKey::new(identity.chain().to_vec(), key.map_err(setup)?);
    certified.keys_match().map_err(setup)?;
    Ok(certified)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn setup(cause: impl fmt::Display) -> TlsFault {
    TlsFault::Setup(cause.to_string())
}

fn roots(authority: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, TlsFault> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).map_err(setup)?;
    Ok(Arc::new(roots))
}

/// How to listen: `identity` is shown, clients must come from `authority`.
pub fn server_config(
    identity: &SharedIdentity,
    authority: &CertificateDer<'static>,
    client_auth: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsFault> {
    let verifier = || Ok::<_, TlsFault>(WebPkiClientVerifier::builder_with_provider(roots(authority)?, provider()));
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?;
    let builder = match client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Required => builder.with_client_cert_verifier(verifier()?.build().map_err(setup)?),
        ClientAuth::Optional => {
            builder.with_client_cert_verifier(verifier()?.allow_unauthenticated().build().map_err(setup)?)
        }
    };
    let mut config = builder.with_cert_resolver(identity.0.clone());
    // A resumed session shows and checks no certificate: a renewed, expired or denied one would go unnoticed.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// How to connect: as `identity` where there is one, to servers that `trust` and `peers` allow.
pub fn client_config(
    identity: Option<&SharedIdentity>,
    trust: Trust,
    peers: Peers,
) -> Result<Arc<ClientConfig>, TlsFault> {
    let chain = match trust {
        Trust::Authority(authority) => Chain::Known(chain_verifier(&authority)?),
        Trust::Fingerprint(fingerprint) => Chain::Pinned(fingerprint),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(RoleVerifier { chain, peers, provider: provider() }));
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(identity.0.clone()),
        None => builder.with_no_client_auth(),
    };
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

fn chain_verifier(authority: &CertificateDer<'static>) -> Result<Arc<WebPkiServerVerifier>, TlsFault> {
    WebPkiServerVerifier::builder_with_provider(roots(authority)?, provider()).build().map_err(setup)
}

#[derive(Debug)]
enum Chain {
    Known(Arc<WebPkiServerVerifier>),
    Pinned(Fingerprint),
}

/// Believes a server whose chain leads to the authority, and whose role is the one that is looked for.
#[derive(Debug)]
struct RoleVerifier {
    chain: Chain,
    peers: Peers,
    provider: Arc<CryptoProvider>,
}

impl RoleVerifier {
    fn anchor(
        &self,
        shown: &[CertificateDer<'_>],
        own: &CertificateDer<'_>,
    ) -> Result<Arc<WebPkiServerVerifier>, TlsFault> {
        match &self.chain {
            Chain::Known(verifier) => Ok(verifier.clone()),
            Chain::Pinned(expected) => {
                let authority = shown.iter().find(|certificate| Fingerprint::of(certificate) == *expected);
                let found = Fingerprint::of(shown.last().unwrap_or(own));
                let authority = authority.ok_or(TlsFault::WrongFingerprint { expected: *expected, found })?;
                chain_verifier(&authority.clone().into_owned())
            }
        }
    }
}

impl ServerCertVerifier for RoleVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let anchor = self.anchor(intermediates, end_entity).map_err(TlsFault::within)?;
        let name = ServerName::try_from(SERVER_NAME).expect("the name is a DNS name");
        let verified = anchor.verify_server_cert(end_entity, intermediates, &name, ocsp, now)?;
        let found = Facts::of(end_entity).map_err(|cause| TlsFault::from(cause).within())?.role;
        if self.peers.include(found) {
            return Ok(verified);
        }
        Err(TlsFault::WrongRole { expected: self.peers.to_string(), found: found.to_string() }.within())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection with the peer's role, as far as it showed one.
#[derive(Debug)]
pub struct Secured<S> {
    /// The encrypted stream.
    pub stream: S,
    /// Who is at the other end; `None` only where clients may come without a certificate.
    pub peer: Option<Role>,
    /// The peer's certificate.
    pub certificate: Option<Facts>,
}

/// Takes a connection in; bounded in time.
pub async fn accept<IO>(io: IO, config: Arc<ServerConfig>) -> Result<Secured<server::TlsStream<IO>>, TlsFault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    accept_within(HANDSHAKE_TIMEOUT, io, config).await
}

/// Takes a connection in whose handshake may take so long.
pub async fn accept_within<IO>(
    timeout: Duration,
    io: IO,
    config: Arc<ServerConfig>,
) -> Result<Secured<server::TlsStream<IO>>, TlsFault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = tokio::time::timeout(timeout, TlsAcceptor::from(config).accept(io)).await;
    let mut stream = handshake.map_err(|_| TlsFault::Timeout)?.map_err(|error| TlsFault::explain(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(SEND_BUFFER_BYTES));
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let certificate = shown.map(Facts::of).transpose()?;
    Ok(Secured { stream, peer: certificate.as_ref().map(|facts| facts.role), certificate })
}

/// Secures a connection that stands; bounded in time.
///
/// A server that does not like this side's certificate says so after the handshake: the first read fails, and
/// [`TlsFault::explain`] says why.
pub async fn secure<IO>(io: IO, config: Arc<ClientConfig>) -> Result<Secured<client::TlsStream<IO>>, TlsFault>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let name = ServerName::try_from(SERVER_NAME).expect("the name is a DNS name");
    let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(config).connect(name, io)).await;
    let mut stream = handshake.map_err(|_| TlsFault::Timeout)?.map_err(|error| TlsFault::explain(&error))?;
    stream.get_mut().1.set_buffer_limit(Some(SEND_BUFFER_BYTES));
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let facts = shown.map(Facts::of).transpose()?.ok_or(TlsFault::NoCertificate)?;
    Ok(Secured { stream, peer: Some(facts.role), certificate: Some(facts) })
}

/// Connects to `host:port` and secures the connection; bounded in time.
pub async fn connect(
    address: &str,
    config: Arc<ClientConfig>,
) -> Result<Secured<client::TlsStream<TcpStream>>, TlsFault> {
    let connecting = tokio::time::timeout(HANDSHAKE_TIMEOUT, TcpStream::connect(address)).await;
    let broken = |cause: &dyn fmt::Display| TlsFault::Broken(format!("connect to {address}: {cause}"));
    let stream = connecting.map_err(|_| broken(&"no answer"))?.map_err(|cause| broken(&cause))?;
    tune(&stream);
    secure(stream, config).await
}

/// Settings of every socket: small messages go at once, and a vanished peer is noticed. A socket that cannot take
/// them still works, so failures are let pass.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_socket_keepalive(stream, true);
}
