//! Machines and process servers: how they become members, change and leave.

use std::collections::BTreeSet;

use farshore_engine::control::messages::{MemberRole, Severity};
use farshore_engine::ids::{MachineId, ProcessServerId, TimelineId};
use farshore_engine::record::{DISKS_MAX, DiskInfo, NAME_BYTES_MAX};

use super::jobs::draft_job;
use super::records::{JobKind, JoinToken, Machine, MachineDisk, MachinePolicy, ProcessServer, Subject};
use super::{Decision, Draft, Ledger, check_label, tokens};
use crate::control::fault::{Fault, FaultCode};

/// Most addresses of a process server.
const ADDRESSES_MAX: usize = 8;

/// What enrolments of both roles bring.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// The join token's text.
    pub token: String,
    /// Its label.
    pub name: String,
    /// SHA-256 of its public key, hex.
    pub key_sha256: String,
}

/// Takes a machine in and starts the job that finds it an owner.
pub struct EnrolMachine {
    /// Who asks.
    pub applicant: Applicant,
    /// Its id, drawn by the caller, who wrote its data key into the vault under it.
    pub machine: MachineId,
    /// Its first timeline.
    pub timeline: TimelineId,
    /// Its disks.
    pub disks: Vec<DiskInfo>,
}

impl EnrolMachine {
    /// Refuses what [`Decision::decide`] would refuse, before anything is written into the vault.
    pub fn check(&self, ledger: &Ledger, now: farshore_engine::ids::Timestamp) -> Result<(), Fault> {
        check_disks(&self.disks)?;
        check_label(&self.applicant.name, "a name")?;
        tokens::check_join(ledger, &self.applicant.token, MemberRole::Machine, now).map(drop)
    }
}

impl Decision for EnrolMachine {
    type Outcome = Machine;

    fn decide(self, draft: &mut Draft<'_>) -> Result<Machine, Fault> {
        if let Some(known) = known_machine(draft.ledger, &self.applicant)? {
            return Ok(known.clone());
        }
        check_disks(&self.disks)?;
        let token = spend(draft, &self.applicant, MemberRole::Machine)?;
        let machine = Machine {
            id: self.machine,
            name: self.applicant.name,
            timeline: self.timeline,
            enrolled_at: draft.now,
            token: token.id,
            key_sha256: self.applicant.key_sha256,
            removed: false,
            points_deleted: false,
            paused: false,
            policy: MachinePolicy::default(),
            resyncs: 0,
            revision: 0,
        };
        draft.put(&machine);
        self.disks.into_iter().for_each(|info| draft.put(&MachineDisk { machine: machine.id, info }));
        let text = format!("Machine '{}' joined.", machine.name);
        draft.event(Severity::Info, "machine_enrolled", Subject::Machine(machine.id), text);
        let same = draft.ledger.machines.iter().filter(|other| other.name == machine.name && !other.removed).count();
        if same > 0 {
            let text = format!(
                "{same} other machine(s) are called '{}' as well. Names are labels and may repeat; ids never do.",
                machine.name
            );
            draft.event(Severity::Warning, "machine_name_repeated", Subject::Machine(machine.id), text);
        }
        draft_job(draft, JobKind::Protect { machine: machine.id }, "enrolment".into());
        Ok(machine)
    }
}

/// The machine that this applicant is already: the same key with the token that it joined with.
pub fn known_machine<'a>(ledger: &'a Ledger, applicant: &Applicant) -> Result<Option<&'a Machine>, Fault> {
    let known = ledger.machines.iter().find(|machine| machine.key_sha256 == applicant.key_sha256);
    let Some(machine) = known else { return Ok(None) };
    let machine = ledger.machine(machine.id)?;
    let token = tokens::known_join(ledger, &applicant.token, MemberRole::Machine)?;
    Ok((token.id == machine.token).then_some(machine))
}

/// Takes a process server in.
pub struct EnrolProcessServer {
    /// Who asks.
    pub applicant: Applicant,
    /// Its id, drawn by the caller.
    pub id: ProcessServerId,
    /// Where agents reach it.
    pub addresses: Vec<String>,
}

impl Decision for EnrolProcessServer {
    type Outcome = ProcessServer;

    fn decide(self, draft: &mut Draft<'_>) -> Result<ProcessServer, Fault> {
        let known = draft.ledger.process_servers.iter().find(|server| server.key_sha256 == self.applicant.key_sha256);
        if let Some(server) = known.filter(|server| !server.removed) {
            let token = tokens::known_join(draft.ledger, &self.applicant.token, MemberRole::ProcessServer)?;
            if token.id == server.token {
                return Ok(server.clone());
            }
        }
        check_addresses(&self.addresses)?;
        let token = spend(draft, &self.applicant, MemberRole::ProcessServer)?;
        let server = ProcessServer {
            id: self.id,
            name: self.applicant.name,
            addresses: self.addresses,
            enrolled_at: draft.now,
            token: token.id,
            key_sha256: self.applicant.key_sha256,
            removed: false,
        };
        draft.put(&server);
        let text = format!("Process server '{}' joined.", server.name);
        draft.event(Severity::Info, "process_server_enrolled", Subject::ProcessServer(server.id), text);
        Ok(server)
    }
}

/// Uses the token once.
fn spend(draft: &mut Draft<'_>, applicant: &Applicant, role: MemberRole) -> Result<JoinToken, Fault> {
    check_label(&applicant.name, "a name")?;
    let mut token = tokens::check_join(draft.ledger, &applicant.token, role, draft.now)?;
    token.uses += 1;
    draft.put(&token);
    Ok(token)
}

/// What a machine said of itself when its session opened.
pub struct MachineSeen {
    /// The machine.
    pub machine: MachineId,
    /// Its disks as they are now; empty: nothing is said of them.
    pub disks: Vec<DiskInfo>,
}

impl Decision for MachineSeen {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        draft.ledger.machine(self.machine)?;
        check_disks(&self.disks)?;
        if self.disks.is_empty() {
            return Ok(());
        }
        let now: BTreeSet<_> = self.disks.iter().map(|disk| disk.disk).collect();
        let before: Vec<DiskInfo> = draft.ledger.disks_of(self.machine).cloned().collect();
        for gone in before.iter().filter(|disk| !now.contains(&disk.disk)) {
            draft.delete::<MachineDisk>(&(self.machine, gone.disk));
        }
        for info in self.disks.into_iter().filter(|disk| !before.contains(disk)) {
            draft.put(&MachineDisk { machine: self.machine, info });
        }
        Ok(())
    }
}

/// What a process server said of itself when its session opened.
pub struct ProcessServerSeen {
    /// The process server.
    pub id: ProcessServerId,
    /// Where agents reach it now; empty: nothing is said of it.
    pub addresses: Vec<String>,
}

impl Decision for ProcessServerSeen {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let server = process_server(draft.ledger, self.id)?;
        check_addresses(&self.addresses)?;
        if !self.addresses.is_empty() && self.addresses != server.addresses {
            let server = ProcessServer { addresses: self.addresses, ..server.clone() };
            draft.put(&server);
        }
        Ok(())
    }
}

/// A process server that is there and not removed.
pub fn process_server(ledger: &Ledger, id: ProcessServerId) -> Result<&ProcessServer, Fault> {
    let server = ledger.process_servers.get(&id).filter(|server| !server.removed);
    server.ok_or_else(|| Fault::new(FaultCode::ProcessServerUnknown, format!("process server {id}")))
}

/// Ends a machine's protection. Its replica stays in the vault; its owner lets go at its next heartbeat.
pub struct RemoveMachine {
    /// The machine.
    pub machine: MachineId,
    /// Who asks.
    pub by: String,
}

impl Decision for RemoveMachine {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let machine = draft.ledger.machine(self.machine)?;
        if let Some(job) = draft.ledger.running_jobs().find(|job| job.kind.machine() == self.machine) {
            let detail = format!("job {} ({}) of machine '{}'", job.id, job.kind.name(), machine.name);
            return Err(Fault::new(FaultCode::MachineBusy, detail));
        }
        draft.put(&Machine { removed: true, ..machine.clone() });
        let text =
            format!("{} ended the protection of machine '{}'. Its replica stays in the vault.", self.by, machine.name);
        draft.event(Severity::Warning, "machine_removed", Subject::Machine(self.machine), text);
        Ok(())
    }
}

/// A removed machine's replica is no longer in the vault.
pub struct PointsDeleted {
    /// The machine.
    pub machine: MachineId,
}

impl Decision for PointsDeleted {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let machine = draft.ledger.machines.get(&self.machine).filter(|machine| !machine.points_deleted);
        let Some(machine) = machine.cloned() else { return Ok(()) };
        let text = format!("Every recovery point of machine '{}' was deleted from the vault.", machine.name);
        draft.put(&Machine { points_deleted: true, ..machine });
        draft.event(Severity::Warning, "points_deleted", Subject::Machine(self.machine), text);
        Ok(())
    }
}

/// Strikes a process server off. It must own nothing.
pub struct RemoveProcessServer {
    /// The process server.
    pub id: ProcessServerId,
    /// Who asks.
    pub by: String,
}

impl Decision for RemoveProcessServer {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let server = process_server(draft.ledger, self.id)?;
        let owns = draft.ledger.assignments.iter().filter(|assignment| assignment.process_server == self.id);
        let owns = owns.filter(|assignment| draft.ledger.machine(assignment.machine).is_ok()).count();
        if owns > 0 {
            let detail = format!("process server '{}' owns {owns} machine(s)", server.name);
            return Err(Fault::new(FaultCode::ProcessServerInUse, detail));
        }
        draft.put(&ProcessServer { removed: true, ..server.clone() });
        let text = format!("{} removed process server '{}'.", self.by, server.name);
        draft.event(Severity::Warning, "process_server_removed", Subject::ProcessServer(self.id), text);
        Ok(())
    }
}

fn check_disks(disks: &[DiskInfo]) -> Result<(), Fault> {
    let invalid = |detail: String| Err(Fault::new(FaultCode::InvalidValue, detail));
    if disks.len() > DISKS_MAX {
        return invalid(format!("a machine has at most {DISKS_MAX} disks, not {}", disks.len()));
    }
    let numbers: BTreeSet<_> = disks.iter().map(|disk| disk.disk).collect();
    if numbers.len() != disks.len() {
        return invalid("two disks have the same number".into());
    }
    for disk in disks {
        if disk.name.is_empty() || disk.name.len() > NAME_BYTES_MAX || disk.name.chars().any(char::is_control) {
            let detail =
                format!("disk {}: its name must have 1 to {NAME_BYTES_MAX} bytes, no control characters", disk.disk);
            return invalid(detail);
        }
        let sector = u64::from(disk.sector_bytes);
        if !matches!(sector, 512 | 4096) || disk.size_bytes == 0 || !disk.size_bytes.is_multiple_of(sector) {
            let detail = format!(
                "disk '{}': sectors have 512 or 4096 bytes and sizes are whole sectors, not {} bytes of {}",
                disk.name, disk.size_bytes, disk.sector_bytes
            );
            return invalid(detail);
        }
    }
    Ok(())
}

fn check_addresses(addresses: &[String]) -> Result<(), Fault> {
    let invalid = |detail: String| Err(Fault::new(FaultCode::InvalidValue, detail));
    if addresses.len() > ADDRESSES_MAX {
        return invalid(format!("a process server has at most {ADDRESSES_MAX} addresses"));
    }
    for address in addresses {
        let port = address.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if address.len() > 255 || !port.is_some_and(|(host, port)| !host.is_empty() && port != 0) {
            return invalid(format!("'{address}' is no address: expected host:port"));
        }
    }
    Ok(())
}
