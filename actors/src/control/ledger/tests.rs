mod webhooks;

use std::time::Duration;

use farshore_engine::control::messages::{MemberRole, PointSelector};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, TimelineId, VaultId};

use super::assign::{Adopted, AssignTo, epoch_of, told_to_agent};
use super::jobs::{BeginMove, JobFailed, StepOver};
use super::members::{
    Applicant, EnrolMachine, EnrolProcessServer, MachineSeen, ProcessServerSeen, RemoveMachine, RemoveProcessServer,
};
use super::records::{ApiRole, JobKind, JobStep, Record, Served, ServedState};
use super::serve::{BeginServe, BeginStop, NotServed};
use super::tokens::{CreateApiToken, CreateJoinToken, RevokeApiToken, check_api};
use super::*;
use crate::control::state::VALUE_BYTES_MAX;

struct Counting(u8);

impl Chance for Counting {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 = self.0.wrapping_mul(29).wrapping_add(17);
            *byte = self.0;
        }
    }
}

/// A ledger over a store that is always there.
struct House {
    ledger: Ledger,
    contents: Contents,
    now: Timestamp,
    chance: Counting,
}

impl House {
    fn new() -> Self {
        Self { ledger: Ledger::default(), contents: Contents::new(), now: Timestamp(1_000_000), chance: Counting(1) }
    }

    fn decide<D: Decision>(&mut self, decision: D) -> Result<D::Outcome, Fault> {
        let mut draft = Draft::new(&self.ledger, self.now, &mut self.chance);
        let outcome = decision.decide(&mut draft)?;
        let batch = draft.finish();
        batch.check().expect("a decision drafts only what the store takes");
        batch.apply(&mut self.contents);
        self.ledger.apply(&batch);
        Ok(outcome)
    }

    fn token(&mut self, role: MemberRole, uses_max: u32) -> String {
        let made = self.decide(CreateJoinToken {
            role,
            label: String::new(),
            valid_for: Duration::from_secs(3600),
            uses_max,
            by: "test".into(),
        });
        made.expect("made").1.to_string()
    }

    fn machine(&mut self, n: u8, token: &str) -> Result<records::Machine, Fault> {
        self.decide(EnrolMachine {
            applicant: applicant(&format!("m/{n} x"), token, n),
            machine: MachineId([n; 16]),
            timeline: TimelineId([n; 8]),
            disks: vec![disk(0, "root")],
        })
    }

    fn server(&mut self, n: u8, token: &str) -> Result<records::ProcessServer, Fault> {
        self.decide(EnrolProcessServer {
            applicant: applicant("ps", token, n),
            id: ProcessServerId([n; 16]),
            addresses: vec!["127.0.0.1:9443".into()],
        })
    }

    fn assign(&mut self, machine: MachineId, server: ProcessServerId) -> records::AssignmentRecord {
        let seen = epoch_of(&self.ledger, machine);
        let decided = self.decide(AssignTo { machine, process_server: server, seen, above: Epoch(0) });
        decided.expect("assigned")
    }
}

fn applicant(name: &str, token: &str, key: u8) -> Applicant {
    Applicant { token: token.into(), name: name.into(), key_sha256: format!("{key:064x}") }
}

fn disk(number: u16, name: &str) -> DiskInfo {
    DiskInfo { disk: DiskNo(number), name: name.into(), size_bytes: 1 << 20, sector_bytes: 512 }
}

fn code<T: std::fmt::Debug>(result: Result<T, Fault>) -> FaultCode {
    result.expect_err("refused").code
}

/// Two machines, two process servers, the first machine active on the first server.
fn furnished() -> (House, [MachineId; 2], [ProcessServerId; 2]) {
    let mut house = House::new();
    let machines = house.token(MemberRole::Machine, 9);
    let servers = house.token(MemberRole::ProcessServer, 9);
    let ids = [1, 2].map(|n| house.machine(n, &machines).expect("enrolled").id);
    let servers = [3, 4].map(|n| house.server(n, &servers).expect("enrolled").id);
    let assignment = house.assign(ids[0], servers[0]);
    house.decide(Adopted { machine: ids[0], epoch: assignment.epoch }).expect("adopted");
    let protects: Vec<_> = house.ledger.running_jobs().map(|job| job.id).collect();
    for job in protects {
        let over = StepOver { job, step: JobStep::Prepare, detail: "done".into(), next: None };
        house.decide(over).expect("over");
    }
    (house, ids, servers)
}

#[test]
fn a_ledger_loaded_from_the_store_is_the_ledger_that_decided() {
    let (mut house, ids, servers) = furnished();
    house.decide(Found { vault: VaultId([9; 16]) }).expect("founded");
    house.decide(BeginMove { machine: ids[0], target: servers[1], by: "ops".into() }).expect("begun");
    let loaded = Ledger::load(&house.contents).expect("loads");
    assert_eq!(format!("{loaded:?}"), format!("{:?}", house.ledger));
    assert!(
        matches!(house.decide(Found { vault: VaultId([8; 16]) }), Err(fault) if fault.code == FaultCode::VaultForeign)
    );
}

#[test]
fn a_record_that_cannot_be_understood_is_named() {
    for (key, value) in [("machine/xx", "{}"), ("nothing/1", "{}"), ("machine", "{}"), ("counters/-", "[")] {
        let contents = Contents::from([(key.to_owned(), value.as_bytes().to_vec())]);
        let error = Ledger::load(&contents).expect_err("refused").to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn join_tokens_are_refused_when_unknown_expired_used_up_or_for_another_role() {
    let mut house = House::new();
    let once = house.token(MemberRole::Machine, 1);
    let server = house.token(MemberRole::ProcessServer, 1);
    let mut wrong_secret = once.clone();
    wrong_secret.replace_range(once.len() - 1.., if once.ends_with('0') { "1" } else { "0" });
    for unknown in ["", "farshore-join-", "farshore-join-zz-zz", "fährshore", wrong_secret.as_str()] {
        assert_eq!(code(house.machine(1, unknown)), FaultCode::TokenUnknown, "{unknown}");
    }
    assert_eq!(code(house.machine(1, &server)), FaultCode::TokenWrongRole);
    assert_eq!(code(house.server(1, &once)), FaultCode::TokenWrongRole);
    house.machine(1, &once).expect("the first use");
    assert_eq!(code(house.machine(2, &once)), FaultCode::TokenUsedUp);
    let late = house.token(MemberRole::Machine, 1);
    house.now = Timestamp(house.now.0 + 3_600_000_000);
    assert_eq!(code(house.machine(2, &late)), FaultCode::TokenExpired);
    assert_eq!(house.ledger.machines.len(), 1);
}

#[test]
fn the_same_key_asking_again_gets_the_same_identity_and_no_other_key_does() {
    let mut house = House::new();
    let once = house.token(MemberRole::Machine, 1);
    let first = house.machine(1, &once).expect("enrolled");
    let mut again = EnrolMachine {
        applicant: applicant("renamed", &once, 1),
        machine: MachineId([77; 16]),
        timeline: TimelineId([7; 8]),
        disks: vec![],
    };
    again.applicant.key_sha256 = first.key_sha256.clone();
    assert_eq!(house.decide(again).expect("the same again"), first);
    assert_eq!(house.ledger.machines.len(), 1);
    let other = house.token(MemberRole::Machine, 1);
    house.decide(RemoveMachine { machine: first.id, by: "ops".into() }).expect_err("its protect job is running");
    assert!(house.machine(2, &other).is_ok());
}

#[test]
fn names_may_repeat_and_an_event_says_so() {
    let mut house = House::new();
    let token = house.token(MemberRole::Machine, 2);
    for key in [1, 2] {
        let enrol = EnrolMachine {
            applicant: applicant("db / main", &token, key),
            machine: MachineId([key; 16]),
            timeline: TimelineId([1; 8]),
            disks: vec![],
        };
        house.decide(enrol).expect("enrolled");
    }
    assert_eq!(house.ledger.events.iter().filter(|event| event.code == "machine_name_repeated").count(), 1);
}

#[test]
fn disks_names_and_addresses_that_make_no_sense_are_refused() {
    let mut house = House::new();
    let token = house.token(MemberRole::Machine, 99);
    let mut enrol = |name: &str, disks: Vec<DiskInfo>| {
        let applicant = applicant(name, &token, 1);
        code(house.decide(EnrolMachine { applicant, machine: MachineId([1; 16]), timeline: TimelineId([1; 8]), disks }))
    };
    assert_eq!(enrol("", vec![]), FaultCode::InvalidValue);
    assert_eq!(enrol("a\nb", vec![]), FaultCode::InvalidValue);
    assert_eq!(enrol(&"n".repeat(256), vec![]), FaultCode::InvalidValue);
    assert_eq!(enrol("m", vec![disk(1, "a"), disk(1, "b")]), FaultCode::InvalidValue);
    assert_eq!(enrol("m", vec![disk(1, "")]), FaultCode::InvalidValue);
    assert_eq!(enrol("m", vec![DiskInfo { size_bytes: 513, ..disk(1, "odd") }]), FaultCode::InvalidValue);
    assert_eq!(enrol("m", vec![DiskInfo { sector_bytes: 520, ..disk(1, "odd") }]), FaultCode::InvalidValue);
    assert_eq!(enrol("m", (0..300).map(|n| disk(n, "d")).collect()), FaultCode::InvalidValue);
    let (mut house, _, servers) = furnished();
    for address in ["host", ":1", "host:0", "host:99999", "host:http"] {
        let seen = ProcessServerSeen { id: servers[0], addresses: vec![address.into()] };
        assert_eq!(code(house.decide(seen)), FaultCode::InvalidValue, "{address}");
    }
}

#[test]
fn a_machine_of_256_disks_with_long_names_fits_the_store() {
    let mut house = House::new();
    let token = house.token(MemberRole::Machine, 1);
    let name = "ü".repeat(120);
    let enrol = EnrolMachine {
        applicant: applicant(&name, &token, 1),
        machine: MachineId([1; 16]),
        timeline: TimelineId([1; 8]),
        disks: (0..256).map(|n| disk(n, &name)).collect(),
    };
    let machine = house.decide(enrol).expect("enrolled");
    assert_eq!(house.ledger.disks_of(machine.id).count(), 256);
    let seen = MachineSeen { machine: machine.id, disks: vec![disk(3, "only one")] };
    house.decide(seen).expect("seen");
    assert_eq!(house.ledger.disks_of(machine.id).map(|disk| disk.name.as_str()).collect::<Vec<_>>(), ["only one"]);
}

#[test]
fn epochs_only_rise_and_a_decision_on_an_old_one_is_refused() {
    let (mut house, ids, servers) = furnished();
    assert_eq!(epoch_of(&house.ledger, ids[0]), Epoch(1));
    let assign = |seen, above| AssignTo { machine: ids[0], process_server: servers[1], seen, above };
    assert_eq!(code(house.decide(assign(Epoch(0), Epoch(0)))), FaultCode::MachineBusy);
    let second = house.decide(assign(Epoch(1), Epoch(41))).expect("assigned");
    assert_eq!(second.epoch, Epoch(42), "above the highest that the vault knows");
    assert_eq!(told_to_agent(&house.ledger, ids[0]), None, "agents hear nothing of an owner that is not ready");
    assert_eq!(code(house.decide(Adopted { machine: ids[0], epoch: Epoch(1) })), FaultCode::MachineBusy);
    house.decide(Adopted { machine: ids[0], epoch: Epoch(42) }).expect("adopted");
    let told = told_to_agent(&house.ledger, ids[0]).expect("told");
    assert_eq!((told.epoch, told.process_server), (Epoch(42), servers[1]));
}

#[test]
fn a_machine_has_one_ownership_job_at_a_time_and_its_steps_are_taken_once() {
    let (mut house, ids, servers) = furnished();
    let begin = |target| BeginMove { machine: ids[0], target, by: "ops".into() };
    assert_eq!(code(house.decide(begin(servers[0]))), FaultCode::AlreadyThere);
    assert_eq!(code(house.decide(begin(ProcessServerId([99; 16])))), FaultCode::ProcessServerUnknown);
    let elsewhere = BeginMove { machine: ids[1], target: servers[0], by: "ops".into() };
    assert_eq!(code(house.decide(elsewhere)), FaultCode::MachineUnassigned);
    let job = house.decide(begin(servers[1])).expect("begun");
    assert_eq!(code(house.decide(begin(servers[1]))), FaultCode::MachineBusy);
    let remove = RemoveMachine { machine: ids[0], by: "ops".into() };
    assert_eq!(code(house.decide(remove)), FaultCode::MachineBusy);
    let over = |step, next| StepOver { job: job.id, step, detail: "x".repeat(2000), next };
    house.decide(over(JobStep::Prepare, Some(JobStep::Release))).expect("over");
    let after = house.decide(over(JobStep::Prepare, Some(JobStep::Release))).expect("taken once");
    assert_eq!((after.step, after.done.len()), (JobStep::Release, 1));
    house.decide(JobFailed { job: job.id, why: "w".repeat(3000) }).expect("failed");
    assert_eq!(code(house.decide(over(JobStep::Release, None))), FaultCode::JobUnknown);
    house.decide(begin(servers[1])).expect("another one may begin");
}

#[test]
fn what_is_removed_is_refused_and_a_server_in_use_stays() {
    let (mut house, ids, servers) = furnished();
    let strike = |id| RemoveProcessServer { id, by: "ops".into() };
    assert_eq!(code(house.decide(strike(servers[0]))), FaultCode::ProcessServerInUse);
    house.decide(RemoveMachine { machine: ids[0], by: "ops".into() }).expect("removed");
    house.decide(strike(servers[0])).expect("its only machine is removed");
    assert_eq!(code(house.decide(strike(servers[0]))), FaultCode::ProcessServerUnknown);
    let again = RemoveMachine { machine: ids[0], by: "ops".into() };
    assert_eq!(code(house.decide(again)), FaultCode::MachineRemoved);
    assert_eq!(epoch_of(&house.ledger, ids[0]), Epoch(1), "the epoch outlives the removal");
}

#[test]
fn a_served_point_is_known_until_it_is_stopped() {
    let (mut house, ids, servers) = furnished();
    let begin = BeginServe {
        machine: ids[0],
        selector: PointSelector::Newest,
        disks: vec![],
        read_only: true,
        process_server: servers[0],
        test: false,
        by: "ops".into(),
    };
    let (served, job) = house.decide(begin).expect("begun");
    assert_eq!((served.process_server, served.state), (servers[0], ServedState::Starting));
    assert_eq!(job.kind, JobKind::Serve { machine: ids[0], serve: served.id });
    let stop = house.decide(BeginStop { serve: served.id, notes: String::new(), by: "ops".into() }).expect("stops");
    assert_eq!(
        house.decide(BeginStop { serve: served.id, notes: String::new(), by: "ops".into() }).expect("the same").id,
        stop.id
    );
    house.decide(NotServed { serve: served.id }).expect("gone");
    let gone = BeginStop { serve: served.id, notes: String::new(), by: "ops".into() };
    assert_eq!(code(house.decide(gone)), FaultCode::ServedPointUnknown);
    let next = BeginServe {
        machine: ids[0],
        selector: PointSelector::Newest,
        disks: vec![],
        read_only: true,
        process_server: servers[0],
        test: false,
        by: "ops".into(),
    };
    assert!(house.decide(next).expect("begun").0.id > served.id, "numbers are never given twice");
    assert_eq!(house.contents.keys().filter(|key| key.starts_with(Served::TABLE)).count(), 1);
}

#[test]
fn api_tokens_expire_and_the_last_admin_token_cannot_be_revoked() {
    let mut house = House::new();
    let make = |role, valid_for| CreateApiToken { role, label: "x".into(), valid_for, by: "test".into() };
    let (admin, text) = house.decide(make(ApiRole::Admin, None)).expect("made");
    let (_, short) = house.decide(make(ApiRole::Viewer, Some(Duration::from_secs(1)))).expect("made");
    assert_eq!(check_api(&house.ledger, &text, house.now).map(|token| token.role), Some(ApiRole::Admin));
    assert!(check_api(&house.ledger, &short, house.now).is_some());
    assert!(check_api(&house.ledger, &short, Timestamp(house.now.0 + 1_000_000)).is_none());
    assert!(check_api(&house.ledger, &text.to_uppercase(), house.now).is_none());
    let revoke = |id| RevokeApiToken { id, by: "test".into() };
    assert_eq!(code(house.decide(revoke(admin.id))), FaultCode::InvalidValue);
    house.decide(make(ApiRole::Admin, None)).expect("another");
    house.decide(revoke(admin.id)).expect("revoked");
    assert!(check_api(&house.ledger, &text, house.now).is_none());
    assert!(house.contents.values().all(|value| !String::from_utf8_lossy(value).contains(&text[30..])));
}

#[test]
fn events_stay_bounded_and_the_oldest_go() {
    let mut house = House::new();
    let text = "ä\u{7}".repeat(4000);
    for round in 0..21 {
        let events = (0..500).map(|_| (Severity::Info, format!("round_{round}"), Subject::Installation, text.clone()));
        house.decide(RaiseEvents(events.collect())).expect("raised");
    }
    assert_eq!(house.ledger.events.len(), EVENTS_MAX);
    assert_eq!(house.ledger.events.iter().next().map(|event| event.id), Some(EventId(501)));
    assert!(house.contents.values().all(|value| value.len() <= VALUE_BYTES_MAX));
}
