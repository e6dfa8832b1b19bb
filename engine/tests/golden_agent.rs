//! The agent's files have the bytes that were committed with version 1, and those still read as what was put into them.
//! After a deliberate change of format (with its version) they are written anew with `FARSHORE_BLESS=1`.

use std::fs::File;
use std::path::PathBuf;

use farshore_engine::agent::state::AgentState;
use farshore_engine::capture::RegionSet;
use farshore_engine::capture::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity};
use farshore_engine::capture::activity_log::{ActivityLog, read};
use farshore_engine::ids::{Epoch, IncarnationId, Lsn, MachineId, TimelineId, VaultId};

fn golden(name: &str, made: &[u8]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name);
    if std::env::var_os("FARSHORE_BLESS").is_some() {
        std::fs::write(&path, made).expect("golden files can be written");
    }
    let file = std::fs::read(&path).expect("the golden file is there");
    assert!(file == made, "{name} has changed; a change of format needs a new version");
}

fn log() -> LogIdentity {
    LogIdentity { vault: VaultId([1; 16]), machine: MachineId([2; 16]), timeline: TimelineId([3; 8]) }
}

#[test]
fn an_activity_log_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let disk = DiskIdentity { size_bytes: 5000 << 20, inode: 4, born_ns: 5, serial: 6, modified_ns: 7, changed_ns: 8 };
    let header = ActivityHeader {
        sequence: 1,
        clean: false,
        region_bytes: 1 << 20,
        disk,
        log: log(),
        incarnation: IncarnationId([9; 16]),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("disk.activity");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&path).expect("opens");
    let kept = ActivityLog::begin(Box::new(open()), header, RegionSet::none(5000), None).expect("written");
    kept.record_hot(1..=3).expect("recorded");
    kept.record_hot(4999..=4999).expect("recorded");
    kept.clean_stop(disk).expect("stopped");
    golden("activity_log", &std::fs::read(&path).expect("reads"));
    let found = read(&open()).expect("it is whole");
    assert_eq!(found.hot.iter().collect::<Vec<_>>(), [1, 2, 3, 4999]);
    assert!(found.header.clean && found.header.disk == disk && found.damaged_pages == 0);
}

#[test]
fn an_agents_state_has_the_bytes_of_version_1_and_reads_as_it_did() {
    let state = AgentState {
        sequence: 5,
        log: log(),
        incarnation: IncarnationId([4; 16]),
        announced: true,
        confirmed: false,
        disavowed: false,
        lineage: vec![IncarnationId([5; 16]), IncarnationId([6; 16])],
        reserved: Lsn(1 << 20),
        committed: Lsn(77),
        epoch: Epoch(3),
        clean_stop: Some(Lsn(78)),
        next_disk: 2,
    };
    let bytes = state.encode();
    golden("agent_state", &bytes);
    assert_eq!(AgentState::decode(&bytes), Ok(state));
}
