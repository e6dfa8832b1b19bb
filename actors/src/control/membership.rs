//! A process server's papers: how it joins, and the files it keeps.
//!
//! ```text
//!   <dir>/member.key       its private key (0600), written before it asks: asking again is the same applicant
//!   <dir>/member.request   the certificate request over that key
//!   <dir>/member.pem       its certificate            <dir>/authority.pem   whom it trusts
//!   <dir>/member.json      who it is, and where the configuration server is; written last: with it, it is a member
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use farshore_engine::control::client::enrol;
use farshore_engine::control::link::LinkError;
use farshore_engine::control::messages::{CONTROL_VERSION, Enrol, Enrolled, JoinSecret, MemberRole};
use farshore_engine::control::tls::TlsConnect;
use farshore_engine::ids::{ProcessServerId, VaultId};
use farshore_engine::transport::identity::IdentityError;
use farshore_engine::transport::tls::TlsFault;
use farshore_engine::transport::{Fingerprint, Identity, KeyRequest, Role};
use serde::{Deserialize, Serialize};

use super::secret_file::{self, SecretFileError};

/// Time for one try of enrolment: the configuration server may have to wait for its vault.
const ENROL_WITHIN: Duration = Duration::from_secs(30);

/// What a process server needs for its first start.
#[derive(Debug, Clone)]
pub struct JoinTicketIn {
    /// Where the configuration server is (`host:port`), best first.
    pub control_addresses: Vec<String>,
    /// The join token.
    pub token: JoinSecret,
    /// Whom to trust there.
    pub authority: Fingerprint,
}

/// What a process server keeps of its enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MemberFile {
    process_server: ProcessServerId,
    vault: VaultId,
    control_addresses: Vec<String>,
}

/// A process server that is a member.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Its id.
    pub id: ProcessServerId,
    /// The vault that the installation replicates to.
    pub vault: VaultId,
    /// Where the configuration server is, as last told.
    pub control_addresses: Vec<String>,
    /// Its certificate and key.
    pub identity: Identity,
    dir: PathBuf,
}

/// Why a process server is no member.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It never joined, and has no token.
    #[error(
        "this process server has not joined an installation: start it once with a join token (create one with \
             `farshore ctl token create --role process-server`)"
    )]
    NotJoined,
    /// A file.
    #[error(transparent)]
    File(#[from] SecretFileError),
    /// A file that makes no sense.
    #[error(
        "{path} cannot be understood ({cause}): remove the directory's member files and join again with a new token"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        cause: String,
    },
    /// Keys and certificates.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The configuration server said no, or nothing.
    #[error(transparent)]
    Link(#[from] LinkError),
}

impl Membership {
    /// Reads the papers in `dir`; where there are none, joins with `ticket`.
    pub async fn open_or_join(
        dir: &Path,
        ticket: Option<&JoinTicketIn>,
        name: &str,
        replication_addresses: &[String],
        program_version: &str,
    ) -> Result<Self, MembershipError> {
        secret_file::make_directory(dir)?;
        if let Some(membership) = Self::open(dir)? {
            return Ok(membership);
        }
        let ticket = ticket.ok_or(MembershipError::NotJoined)?;
        let request = Enrol {
            version: CONTROL_VERSION,
            token: ticket.token.clone(),
            csr_pem: request(dir)?,
            role: MemberRole::ProcessServer,
            name: name.into(),
            disks: Vec::new(),
            replication_addresses: replication_addresses.to_vec(),
            program_version: program_version.into(),
        };
        let connect = TlsConnect::to_enrol(ticket.authority)?;
        let enrolled = enrol(&connect, &ticket.control_addresses, request, ENROL_WITHIN).await?;
        Self::keep(dir, &enrolled, ticket)?;
        Self::open(dir)?.ok_or(MembershipError::NotJoined)
    }

    fn keep(dir: &Path, enrolled: &Enrolled, ticket: &JoinTicketIn) -> Result<(), MembershipError> {
        let no_id = || LinkError::Broken("the configuration server's answer names no process server".into());
        let mut control_addresses = enrolled.control_addresses.clone();
        // The address that worked stays in the list, whatever the server calls itself.
        control_addresses.extend(ticket.control_addresses.iter().cloned());
        dedup(&mut control_addresses);
        let member = MemberFile {
            process_server: enrolled.process_server.ok_or_else(no_id)?,
            vault: enrolled.vault,
            control_addresses,
        };
        secret_file::write(&dir.join("member.pem"), enrolled.certificate_pem.as_bytes())?;
        secret_file::write(&dir.join("authority.pem"), enrolled.ca_pem.as_bytes())?;
        write_member(dir, &member)
    }

    fn open(dir: &Path) -> Result<Option<Self>, MembershipError> {
        let path = dir.join("member.json");
        let Some(text) = secret_file::read(&path)? else { return Ok(None) };
        let damaged = |path: PathBuf| move |cause: String| MembershipError::Damaged { path, cause };
        let member: MemberFile =
            serde_json::from_str(&text).map_err(|error| damaged(path.clone())(error.to_string()))?;
        let part = |name: &str| {
            let path = dir.join(name);
            let text = secret_file::read(&path)?;
            text.ok_or_else(|| damaged(path)("it is missing".into()))
        };
        let identity = Identity::from_pem(&part("member.pem")?, &part("authority.pem")?, &part("member.key")?)?;
        if identity.role()? != Role::ProcessServer(member.process_server) {
            return Err(damaged(path)("the certificate is somebody else's".into()));
        }
        let MemberFile { process_server: id, vault, control_addresses } = member;
        Ok(Some(Self { id, vault, control_addresses, identity, dir: dir.to_owned() }))
    }

    /// Writes down where the configuration server is now.
    pub fn remember_addresses(&mut self, told: &[String]) -> Result<(), MembershipError> {
        let mut addresses = told.to_vec();
        addresses.extend(self.control_addresses.iter().cloned());
        dedup(&mut addresses);
        addresses.truncate(ADDRESSES_MAX);
        if addresses == self.control_addresses {
            return Ok(());
        }
        self.control_addresses = addresses;
        let control_addresses = self.control_addresses.clone();
        write_member(&self.dir, &MemberFile { process_server: self.id, vault: self.vault, control_addresses })
    }
}

/// Addresses that are kept; the oldest go.
const ADDRESSES_MAX: usize = 8;

fn dedup(addresses: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    addresses.retain(|address| seen.insert(address.clone()));
}

fn write_member(dir: &Path, member: &MemberFile) -> Result<(), MembershipError> {
    let text = serde_json::to_vec_pretty(member).expect("a member file is plain data");
    Ok(secret_file::write(&dir.join("member.json"), &text)?)
}

/// The certificate request; key and request are made once.
fn request(dir: &Path) -> Result<String, MembershipError> {
    let (key_file, request_file) = (dir.join("member.key"), dir.join("member.request"));
    if let (Some(_), Some(request)) = (secret_file::read(&key_file)?, secret_file::read(&request_file)?) {
        return Ok(request.to_string());
    }
    let made = KeyRequest::generate()?;
    secret_file::write(&key_file, made.key_pem.as_bytes())?;
    secret_file::write(&request_file, made.request_pem.as_bytes())?;
    Ok(made.request_pem)
}
