//! Enrolment: a join token and a certificate request become a member with papers.
//!
//! ```text
//!   check the request's own signature ─► member with this key already? its papers again
//!     │                                                     (a lost answer costs nothing)
//!     ├ machine: data key drawn and written, wrapped, into the vault ─► ledger (token spent) ─► certificate ─► answer
//!     └ process server:                                                ledger (token spent) ─► certificate ─► answer
//! ```
//!
//! Crash story: a machine whose `about` was written and whose enrolment was not decided leaves an object that nobody
//! refers to; the applicant asks again and gets another id.

use farshore_engine::control::messages::{
    CONTROL_VERSION, Enrol, Enrolled, MachineGrant, MemberRole, Refusal, RefusalCode, WireKey,
};
use farshore_engine::ids::{MachineId, ProcessServerId, TimelineId};
use farshore_engine::transport::Role;
use rcgen::{CertificateSigningRequestParams, PublicKeyData};
use sha2::{Digest, Sha256};

use super::control_room::ControlRoom;
use super::fault::{Fault, FaultCode};
use super::ledger::members::{Applicant, EnrolMachine, EnrolProcessServer, known_machine};
use super::ledger::tokens::hex;
use super::vault_keeper::NewMachine;
use crate::supervise::{OsChance, wall_clock};

/// Takes an applicant in.
pub(crate) async fn enrol(room: &ControlRoom, request: Enrol) -> Result<Enrolled, Refusal> {
    if request.version != CONTROL_VERSION {
        return Err(version_refusal(request.version));
    }
    let outcome = match request.role {
        MemberRole::Machine => enrol_machine(room, request).await,
        MemberRole::ProcessServer => enrol_process_server(room, request).await,
    };
    outcome.map_err(|fault| fault.refusal())
}

/// The peer's version is not ours.
pub(crate) fn version_refusal(theirs: u16) -> Refusal {
    let text = format!("the member speaks control protocol version {theirs}, this server speaks {CONTROL_VERSION}");
    Refusal::new(RefusalCode::VersionUnsupported, text, "Upgrade the older one.")
}

async fn enrol_machine(room: &ControlRoom, request: Enrol) -> Result<Enrolled, Fault> {
    let applicant = applicant(&request)?;
    let known = known_machine(&room.ledger(), &applicant)?.cloned();
    let (machine, data_key) = match known {
        Some(machine) => {
            let data_key = room.vault.data_key(machine.id).await?;
            (machine, data_key)
        }
        None => take_in(room, applicant, &request).await?,
    };
    let grant = MachineGrant { machine: machine.id, timeline: machine.timeline, data_key };
    papers(room, &request, Role::Machine(machine.id)).map(|papers| Enrolled { machine: Some(grant), ..papers })
}

async fn take_in(
    room: &ControlRoom,
    applicant: Applicant,
    request: &Enrol,
) -> Result<(super::ledger::records::Machine, WireKey), Fault> {
    let new = NewMachine {
        machine: MachineId::draw(&mut OsChance),
        timeline: TimelineId::draw(&mut OsChance),
        name: request.name.clone(),
        disks: request.disks.clone(),
    };
    let (machine, timeline, disks) = (new.machine, new.timeline, new.disks.clone());
    let decision = EnrolMachine { applicant, machine, timeline, disks };
    decision.check(&room.ledger(), wall_clock())?;
    let data_key = room.vault.make_machine(new).await?;
    let enrolled = room.decide(decision).await?;
    if enrolled.id == machine {
        return Ok((enrolled, data_key));
    }
    // The same applicant was taken in a moment ago, over another connection.
    let data_key = room.vault.data_key(enrolled.id).await?;
    Ok((enrolled, data_key))
}

async fn enrol_process_server(room: &ControlRoom, request: Enrol) -> Result<Enrolled, Fault> {
    let applicant = applicant(&request)?;
    let id = ProcessServerId::draw(&mut OsChance);
    let addresses = request.replication_addresses.clone();
    let server = room.decide(EnrolProcessServer { applicant, id, addresses }).await?;
    let role = Role::ProcessServer(server.id);
    papers(room, &request, role).map(|papers| Enrolled { process_server: Some(server.id), ..papers })
}

/// Reads the request; its own signature proves that the applicant has the key.
fn applicant(request: &Enrol) -> Result<Applicant, Fault> {
    let csr = CertificateSigningRequestParams::from_pem(&request.csr_pem);
    let csr = csr.map_err(|error| Fault::new(FaultCode::CertificateRequest, error.to_string()))?;
    let key_sha256 = hex(&Sha256::digest(csr.public_key.subject_public_key_info()));
    Ok(Applicant { token: request.token.text().to_owned(), name: request.name.clone(), key_sha256 })
}

fn papers(room: &ControlRoom, request: &Enrol, role: Role) -> Result<Enrolled, Fault> {
    let days = room.policy.certificate_days;
    let signed = room.authority.sign(&request.csr_pem, role, &[], wall_clock(), days);
    let certificate_pem = signed.map_err(|error| Fault::new(FaultCode::CertificateRequest, error.to_string()))?;
    Ok(Enrolled {
        certificate_pem,
        ca_pem: room.authority.certificate_pem().to_owned(),
        control_addresses: room.policy.control_addresses.clone(),
        vault: room.vault.vault(),
        process_server: None,
        machine: None,
    })
}
