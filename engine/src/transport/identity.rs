//! Who is who: roles in certificates, and the authority that signs them.
//!
//! ```text
//!   authority certificate   CN "Farshore authority <16 hex digits of its key's digest>", self-signed
//!   └ any other             SAN URI farshore://<role>[/<id>]
//!                           SAN DNS farshore, localhost, hosts; SAN IP 127.0.0.1, ::1     (those who listen)
//! ```
//!
//! A certificate signing request brings a public key and nothing else: role, names and times are the authority's.
//! Private keys never leave the process that made them, except into its own 0600 files (the caller's).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

use crate::ids::{MachineId, ProcessServerId, Timestamp};

/// The DNS name in the certificate of everyone who listens; clients ask for it, whatever the address is.
pub const SERVER_NAME: &str = "farshore";
/// How far a certificate is valid before it was asked for: clocks of one installation differ by less, or TLS fails.
const CLOCK_SLACK: Duration = Duration::minutes(5);
const SCHEME: &str = "farshore://";

/// Why a key, certificate or request is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The text or bytes are not what they should be.
    #[error("{what} cannot be read: {cause}")]
    Unreadable {
        /// What was read.
        what: &'static str,
        /// What the parser says.
        cause: String,
    },
    /// Signing failed.
    #[error("{what} cannot be made: {cause}")]
    Signing {
        /// What was to be made.
        what: &'static str,
        /// What the library says.
        cause: String,
    },
    /// A certificate without a role in it.
    #[error("the certificate names no Farshore role: it was not made by a Farshore installation")]
    NoRole,
    /// A host that can stand in no certificate.
    #[error("'{0}' is neither a host name nor an address")]
    BadHost(String),
}

fn unreadable(what: &'static str) -> impl FnOnce(&dyn fmt::Display) -> IdentityError {
    move |cause| IdentityError::Unreadable { what, cause: cause.to_string() }
}

fn signing(what: &'static str) -> impl FnOnce(rcgen::Error) -> IdentityError {
    move |cause| IdentityError::Signing { what, cause: cause.to_string() }
}

/// What the holder of a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// The configuration server.
    ConfigServer,
    /// A process server.
    ProcessServer(ProcessServerId),
    /// A protected machine's agent.
    Machine(MachineId),
    /// A person's tool.
    Operator,
}

impl Role {
    fn listens(self) -> bool {
        matches!(self, Self::ConfigServer | Self::ProcessServer(_))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConfigServer => write!(f, "{SCHEME}config-server"),
            Self::ProcessServer(id) => write!(f, "{SCHEME}process-server/{id}"),
            Self::Machine(id) => write!(f, "{SCHEME}machine/{id}"),
            Self::Operator => write!(f, "{SCHEME}operator"),
        }
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let path = uri.strip_prefix(SCHEME).ok_or(IdentityError::NoRole)?;
        match path.split_once('/') {
            None if path == "config-server" => Ok(Self::ConfigServer),
            None if path == "operator" => Ok(Self::Operator),
            Some(("process-server", id)) => id.parse().map(Self::ProcessServer).map_err(|_| IdentityError::NoRole),
            Some(("machine", id)) => id.parse().map(Self::Machine).map_err(|_| IdentityError::NoRole),
            _ => Err(IdentityError::NoRole),
        }
    }
}

/// The SHA-256 of an authority's certificate: what an operator copies along with a join token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = IdentityError;

    /// Reads 64 hexadecimal digits of either case, with or without colons between the bytes.
    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bad = || IdentityError::Unreadable {
            what: "a fingerprint",
            cause: "expected the 64 hexadecimal digits that the configuration server prints".into(),
        };
        let digits: Vec<u8> = text
            .trim()
            .bytes()
            .filter(|byte| *byte != b':')
            .map(|byte| char::from(byte).to_digit(16).map(|digit| digit as u8).ok_or_else(bad))
            .collect::<Result<_, _>>()?;
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(bad());
        }
        bytes.iter_mut().zip(digits.chunks_exact(2)).for_each(|(byte, pair)| *byte = pair[0] << 4 | pair[1]);
        Ok(Self(bytes))
    }
}

/// A fresh private key and the request for a certificate over it.
pub struct KeyRequest {
    /// The private key (PKCS #8, PEM).
    pub key_pem: Zeroizing<String>,
    /// The request (PKCS #10, PEM).
    pub request_pem: String,
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRequest(..)")
    }
}

impl KeyRequest {
    /// Draws a key (ECDSA P-256).
    pub fn generate() -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(signing("a key"))?;
        let request = CertificateParams::default()
            .serialize_request(&key)
            .and_then(|request| request.pem())
            .map_err(signing("a certificate request"))?;
        Ok(Self { key_pem: Zeroizing::new(key.serialize_pem()), request_pem: request })
    }
}

/// A certificate with the authority's behind it, and its private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.role().map_or_else(|_| "no role".into(), |role| role.to_string()))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl Identity {
    /// Reads a certificate, the authority's and the key (all PEM).
    pub fn from_pem(certificate_pem: &str, authority_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let key =
            PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|cause| unreadable("the private key")(&cause))?;
        let chain = vec![
            certificate_from_pem(certificate_pem, "the certificate")?,
            certificate_from_pem(authority_pem, "the authority's certificate")?,
        ];
        Ok(Self { chain, key })
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.chain[0]
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.chain[1]
    }

    /// What the certificate says its holder is.
    pub fn role(&self) -> Result<Role, IdentityError> {
        Facts::of(self.certificate()).map(|facts| facts.role)
    }

    pub(super) fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    pub(super) fn key(&self) -> &PrivateKeyDer<'static> {
        &self.key
    }
}

/// Reads the first certificate of a PEM text.
pub fn certificate_from_pem(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, IdentityError> {
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|cause| unreadable(what)(&cause))
}

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// What its holder is.
    pub role: Role,
    /// From when it counts.
    pub valid_from: Timestamp,
    /// Until when it counts.
    pub valid_until: Timestamp,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
}

impl Facts {
    /// Reads a certificate. Says nothing about who signed it.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(certificate).map_err(|cause| unreadable("the certificate")(&cause))?;
        let names = parsed.subject_alternative_name().map_err(|cause| unreadable("the certificate's names")(&cause))?;
        let uris: Vec<&str> = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
            .collect();
        // Exactly one: a certificate that names two roles would be whichever a reader looks at.
        let [uri] = uris[..] else { return Err(IdentityError::NoRole) };
        let micros = |seconds: i64| Timestamp(seconds.saturating_mul(1_000_000));
        Ok(Self {
            role: uri.parse()?,
            valid_from: micros(parsed.validity().not_before.timestamp()),
            valid_until: micros(parsed.validity().not_after.timestamp()),
            serial: parsed.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }
}

/// The installation's own certificate authority.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CertificateAuthority({})", self.fingerprint())
    }
}

impl CertificateAuthority {
    /// Draws an authority that counts from `valid_from` for so many days.
    pub fn generate(valid_from: Timestamp, days: u32) -> Result<Self, IdentityError> {
        let key = KeyPair::generate().map_err(signing("the authority's key"))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let digest = Fingerprint(Sha256::digest(key.der_bytes()).into()).to_string();
        params.distinguished_name = common_name(&format!("Farshore authority {}", &digest[..16]));
        (params.not_before, params.not_after) = span(valid_from, days)?;
        params.serial_number = Some(serial(&key, valid_from, "authority"));
        let certificate = params.self_signed(&key).map_err(signing("the authority's certificate"))?;
        let (der, certificate_pem) = (certificate.der().clone(), certificate.pem());
        Ok(Self { issuer: Issuer::new(params, key), certificate: der, certificate_pem })
    }

    /// Reads an authority from its certificate and private key.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, IdentityError> {
        let certificate = certificate_from_pem(certificate_pem, "the authority's certificate")?;
        let key = KeyPair::from_pem(key_pem).map_err(|cause| unreadable("the authority's key")(&cause))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)
            .map_err(|cause| unreadable("the authority's certificate")(&cause))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            let cause: &dyn fmt::Display = &"it is not the key of the authority's certificate";
            return Err(unreadable("the authority's key")(cause));
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|cause| unreadable("the authority's certificate")(&cause))?;
        Ok(Self { issuer, certificate, certificate_pem: certificate_pem.to_owned() })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The authority's certificate as text.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's private key as text, for its 0600 file and the sealed catalog.
    pub fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.issuer.key().serialize_pem())
    }

    /// What is copied along with a join token.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Signs the public key of a request for a role, from `valid_from` for so many days; gives the certificate (PEM).
    /// `hosts` are further names and addresses under which others (browsers) may ask for it.
    pub fn sign(
        &self,
        request_pem: &str,
        role: Role,
        hosts: &[String],
        valid_from: Timestamp,
        days: u32,
    ) -> Result<String, IdentityError> {
        let request = CertificateSigningRequestParams::from_pem(request_pem)
            .map_err(|cause| unreadable("the certificate request")(&cause))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(&role.to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(ia5(&role.to_string())?)];
        if role.listens() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.extend(server_names(hosts)?);
        }
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = span(valid_from, days)?;
        params.serial_number = Some(serial(&request.public_key, valid_from, &role.to_string()));
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(signing("a certificate"))?;
        Ok(certificate.pem())
    }

    /// A fresh key with a certificate for a role, for the process that holds the authority itself.
    pub fn issue(
        &self,
        role: Role,
        hosts: &[String],
        valid_from: Timestamp,
        days: u32,
    ) -> Result<Identity, IdentityError> {
        let request = KeyRequest::generate()?;
        let certificate = self.sign(&request.request_pem, role, hosts, valid_from, days)?;
        Identity::from_pem(&certificate, &self.certificate_pem, &request.key_pem)
    }
}

fn common_name(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}

fn ia5(text: &str) -> Result<rcgen::string::Ia5String, IdentityError> {
    text.try_into().map_err(|_| IdentityError::BadHost(text.to_owned()))
}

fn server_names(hosts: &[String]) -> Result<Vec<SanType>, IdentityError> {
    let mut names = vec![
        SanType::DnsName(ia5(SERVER_NAME)?),
        SanType::DnsName(ia5("localhost")?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    for host in hosts {
        let name = match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) if rustls::pki_types::DnsName::try_from(host.as_str()).is_ok() => SanType::DnsName(ia5(host)?),
            Err(_) => return Err(IdentityError::BadHost(host.clone())),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

fn span(valid_from: Timestamp, days: u32) -> Result<(OffsetDateTime, OffsetDateTime), IdentityError> {
    let refused =
        || IdentityError::Signing { what: "a certificate", cause: "its times lie outside the calendar".into() };
    let from = OffsetDateTime::from_unix_timestamp_nanos(i128::from(valid_from.0) * 1000).map_err(|_| refused())?;
    let until = from.checked_add(Duration::days(days.into())).ok_or_else(refused)?;
    Ok((from.checked_sub(CLOCK_SLACK).ok_or_else(refused)?, until))
}

/// One serial number per certificate, so that a single one can be denied: a digest, positive, 16 bytes.
fn serial(key: &impl PublicKeyData, valid_from: Timestamp, holder: &str) -> SerialNumber {
    let mut digest = Sha256::new();
    digest.update(key.der_bytes());
    digest.update(valid_from.0.to_le_bytes());
    digest.update(holder.as_bytes());
    let mut number: [u8; 32] = digest.finalize().into();
    number[0] = number[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&number[..16])
}
