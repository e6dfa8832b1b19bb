//! Where a process server's heartbeat and the ledger disagree, and what to do about it. Pure: a plan of remedies.
//!
//! | ledger says | heartbeat says | remedy |
//! |---|---|---|
//! | this server owns the machine | it does not know it, or under another epoch, or it is fenced | a protect job: epoch + 1 |
//! | this server owns the machine | its key is missing | bring the key: the same assignment again |
//! | this server owns the machine | its frames are not packed as its policy wants | say how |
//! | this server owns the machine | it does not keep the points that its policy wants | say which |
//! | another server owns it, or it was removed or paused | it is owned here | release it |
//! | the point is served here | it is not served | forget it: its overlay is gone |
//! | nothing is served under that number | it is served | stop serving |
//!
//! Machines with a running ownership job are left to the job.

use std::collections::BTreeSet;
use std::fmt;

use farshore_engine::control::messages::{Heartbeat, MachineState};
use farshore_engine::ids::{Epoch, MachineId, ProcessServerId, TimelineId, WriterId};
use farshore_engine::vault::retention::Ladder;
use farshore_engine::vault::segment::Packing;

use super::control_room::ControlPolicy;
use super::ledger::Ledger;
use super::ledger::records::{AssignmentRecord, ServeId, ServedState};

/// What to do about a disagreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Begin a protect job.
    Protect {
        /// The machine.
        machine: MachineId,
        /// Why.
        why: &'static str,
    },
    /// Send the assignment again, with the key.
    BringKey {
        /// The machine.
        machine: MachineId,
        /// Its timeline.
        timeline: TimelineId,
        /// The ownership number.
        epoch: Epoch,
        /// The owner's identity.
        writer: WriterId,
    },
    /// Have its frames packed as the policy wants.
    SetPacking {
        /// The machine.
        machine: MachineId,
        /// With what.
        packing: Packing,
    },
    /// Have the points kept that the policy wants.
    SetRetention {
        /// The machine.
        machine: MachineId,
        /// Which.
        ladder: Ladder,
    },
    /// Let go of a machine.
    Release {
        /// The machine.
        machine: MachineId,
        /// The epoch that it is owned under there.
        epoch: Epoch,
    },
    /// A served point is gone.
    ForgetServed {
        /// Which.
        serve: ServeId,
    },
    /// Nobody asked for this served point any more.
    StopServing {
        /// Which.
        serve: u64,
    },
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protect { machine, why } => write!(f, "find an owner for machine {machine} ({why})"),
            Self::BringKey { machine, .. } => write!(f, "bring the key of machine {machine}"),
            Self::SetPacking { machine, packing } => write!(f, "have machine {machine} packed with {packing}"),
            Self::SetRetention { machine, .. } => write!(f, "say which points of machine {machine} stay"),
            Self::Release { machine, .. } => write!(f, "release machine {machine}"),
            Self::ForgetServed { serve } => write!(f, "forget served point {serve}"),
            Self::StopServing { serve } => write!(f, "stop serving {serve}"),
        }
    }
}

/// What to do after this heartbeat of `server`; `policy` is the installation's.
pub(crate) fn remedies(
    ledger: &Ledger,
    server: ProcessServerId,
    heartbeat: &Heartbeat,
    policy: &ControlPolicy,
) -> Vec<Remedy> {
    let busy: BTreeSet<MachineId> =
        ledger.running_jobs().filter(|job| job.kind.changes_owner()).map(|job| job.kind.machine()).collect();
    let mut plan = Vec::new();
    let owned = ledger.assignments.iter().filter(|assignment| assignment.process_server == server);
    for assignment in owned.filter(|assignment| !busy.contains(&assignment.machine)) {
        if ledger.machine(assignment.machine).is_ok_and(|machine| !machine.paused) {
            plan.extend(for_owned(ledger, assignment, heartbeat, policy));
        }
    }
    for report in heartbeat.machines.iter().filter(|report| !busy.contains(&report.machine)) {
        let ours = ledger.assignments.get(&report.machine).is_some_and(|now| now.process_server == server);
        let gone = ledger.machine(report.machine).map_or(true, |machine| machine.paused);
        if (!ours || gone) && report.state != MachineState::Releasing {
            plan.push(Remedy::Release { machine: report.machine, epoch: report.epoch });
        }
    }
    let working: BTreeSet<u64> =
        ledger.running_jobs().filter_map(|job| job.kind.serve()).map(|serve| serve.0).collect();
    for served in ledger.served.iter().filter(|served| served.process_server == server) {
        if served.state == ServedState::Serving && !heartbeat.serving.contains(&served.id.0) {
            plan.push(Remedy::ForgetServed { serve: served.id });
        }
    }
    for serve in heartbeat.serving.iter().filter(|serve| !working.contains(serve)) {
        if ledger.served.get(&ServeId(*serve)).is_none() {
            plan.push(Remedy::StopServing { serve: *serve });
        }
    }
    plan
}

fn for_owned(
    ledger: &Ledger,
    assignment: &AssignmentRecord,
    heartbeat: &Heartbeat,
    policy: &ControlPolicy,
) -> Option<Remedy> {
    let machine = assignment.machine;
    let protect = |why| Some(Remedy::Protect { machine, why });
    let Some(report) = heartbeat.machines.iter().find(|report| report.machine == machine) else {
        return protect("the process server does not know the machine");
    };
    if report.epoch != assignment.epoch {
        return protect("the process server has the machine under another epoch");
    }
    match report.state {
        MachineState::Fenced => protect("the log has another owner"),
        MachineState::Locked => {
            let timeline = ledger.machine(machine).ok()?.timeline;
            Some(Remedy::BringKey { machine, timeline, epoch: assignment.epoch, writer: assignment.writer })
        }
        _ => {
            let known = ledger.machine(machine).ok()?;
            let packing = policy.packing_of(known);
            if report.packing.unwrap_or(packing) != packing {
                return Some(Remedy::SetPacking { machine, packing });
            }
            let ladder = policy.retention_of(known);
            let follows = report.merging.is_none() || report.retention.as_ref() == Some(&ladder);
            (!follows).then_some(Remedy::SetRetention { machine, ladder })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farshore_engine::control::messages::{CacheReport, MachineReport, MergingReport};
    use farshore_engine::ids::{Lsn, Slot, Timestamp};
    use farshore_engine::vault::retention::Rung;
    use farshore_engine::vault::store::metered::StoreCounts;

    use super::super::ledger::records::{AssignmentStage, Machine, MachinePolicy, TokenId};
    use super::super::ledger::{Decision, Draft, assign, jobs};
    use super::super::state::Batch;
    use super::*;
    use crate::supervise::OsChance;

    const HERE: ProcessServerId = ProcessServerId([1; 16]);
    const THERE: ProcessServerId = ProcessServerId([2; 16]);

    fn policy(packing: Packing) -> ControlPolicy {
        ControlPolicy {
            control_addresses: Vec::new(),
            mark_interval: Duration::from_secs(1),
            seal_interval: Duration::from_secs(2),
            packing,
            retention: Ladder::default(),
            rpo_warning: Duration::from_secs(30),
            rpo_critical: Duration::from_secs(300),
            certificate_days: 365,
            release_within: Duration::from_secs(2),
            adopt_within: Duration::from_secs(3),
        }
    }

    fn ledger_of(machines: &[(u8, ProcessServerId, u64)]) -> Ledger {
        let mut ledger = Ledger::default();
        let batch = draft(&ledger, |draft| {
            for (n, owner, epoch) in machines {
                draft.put(&Machine {
                    id: MachineId([*n; 16]),
                    name: "m".into(),
                    timeline: TimelineId([*n; 8]),
                    enrolled_at: Timestamp(1),
                    token: TokenId(1),
                    key_sha256: String::new(),
                    removed: false,
                    points_deleted: false,
                    paused: false,
                    policy: MachinePolicy::default(),
                    resyncs: 0,
                    revision: 0,
                });
                draft.put(&AssignmentRecord {
                    machine: MachineId([*n; 16]),
                    process_server: *owner,
                    epoch: Epoch(*epoch),
                    writer: WriterId([*n; 16]),
                    stage: AssignmentStage::Active,
                    since: Timestamp(1),
                });
            }
        });
        ledger.apply(&batch);
        ledger
    }

    fn draft(ledger: &Ledger, write: impl FnOnce(&mut Draft<'_>)) -> Batch {
        let mut chance = OsChance;
        let mut draft = Draft::new(ledger, Timestamp(1), &mut chance);
        write(&mut draft);
        draft.finish()
    }

    fn heartbeat(machines: &[(u8, u64, MachineState)]) -> Heartbeat {
        let report = |(n, epoch, state): &(u8, u64, MachineState)| MachineReport {
            machine: MachineId([*n; 16]),
            epoch: Epoch(*epoch),
            state: *state,
            durable: Lsn(0),
            committed: Lsn(0),
            next_slot: Slot(0),
            packing: None,
            retention: None,
            merging: None,
            scrub: None,
            newest_mark: None,
            idle_confirmed_at: None,
            backlog_bytes: 0,
            received_bytes: 0,
            uploaded_bytes: 0,
            upload_failures: 0,
            actor_restarts: 0,
            issues: vec![],
        };
        Heartbeat {
            at: Timestamp(1),
            cpu: 0.0,
            cache: CacheReport::default(),
            vault_reachable: true,
            store: StoreCounts::default(),
            machines: machines.iter().map(report).collect(),
            serving: vec![],
            near: vec![],
            events: vec![],
        }
    }

    #[test]
    fn agreement_needs_no_remedy() {
        let ledger = ledger_of(&[(5, HERE, 3), (6, THERE, 9)]);
        for state in [MachineState::Replicating, MachineState::AgentAway, MachineState::Adopting, MachineState::Failed]
        {
            assert_eq!(remedies(&ledger, HERE, &heartbeat(&[(5, 3, state)]), &policy(Packing::Snappy)), []);
        }
    }

    #[test]
    fn a_machine_is_packed_as_its_policy_wants_where_its_owner_can() {
        let ledger = ledger_of(&[(5, HERE, 3)]);
        let mut heard = heartbeat(&[(5, 3, MachineState::Replicating)]);
        let (machine, packing) = (MachineId([5; 16]), Packing::Zstd(3));
        assert_eq!(remedies(&ledger, HERE, &heard, &policy(packing)), [], "one that says nothing knows one way only");
        heard.machines[0].packing = Some(Packing::Snappy);
        assert_eq!(remedies(&ledger, HERE, &heard, &policy(packing)), [Remedy::SetPacking { machine, packing }]);
        heard.machines[0].packing = Some(packing);
        assert_eq!(remedies(&ledger, HERE, &heard, &policy(packing)), []);
    }

    // I7
    #[test]
    fn an_owner_that_was_not_told_which_points_stay_or_keeps_others_is_told() {
        let ledger = ledger_of(&[(5, HERE, 3)]);
        let mut heard = heartbeat(&[(5, 3, MachineState::AgentAway)]);
        let (machine, ladder, policy) = (MachineId([5; 16]), Ladder::default(), policy(Packing::Snappy));
        let tell = [Remedy::SetRetention { machine, ladder: ladder.clone() }];
        assert_eq!(remedies(&ledger, HERE, &heard, &policy), [], "one that says nothing of merging does not merge");
        heard.machines[0].merging = Some(MergingReport::default());
        assert_eq!(remedies(&ledger, HERE, &heard, &policy), tell);
        heard.machines[0].retention = Some(Ladder::new(vec![Rung { every_s: 0, for_s: 1 }]).expect("a ladder"));
        assert_eq!(remedies(&ledger, HERE, &heard, &policy), tell);
        heard.machines[0].retention = Some(ladder);
        assert_eq!(remedies(&ledger, HERE, &heard, &policy), []);
    }

    #[test]
    fn a_machine_that_its_owner_lost_gets_an_owner_under_a_higher_epoch() {
        let ledger = ledger_of(&[(5, HERE, 3)]);
        let lost = [
            heartbeat(&[]),
            heartbeat(&[(5, 2, MachineState::Replicating)]),
            heartbeat(&[(5, 4, MachineState::Replicating)]),
            heartbeat(&[(5, 3, MachineState::Fenced)]),
        ];
        for heartbeat in lost {
            let plan = remedies(&ledger, HERE, &heartbeat, &policy(Packing::Snappy));
            assert!(matches!(plan[..], [Remedy::Protect { machine: MachineId([5, ..]), .. }]), "{plan:?}");
        }
    }

    #[test]
    fn a_locked_machine_gets_its_key_and_a_foreign_one_is_released() {
        let ledger = ledger_of(&[(5, HERE, 3), (6, THERE, 9)]);
        let heard = heartbeat(&[(5, 3, MachineState::Locked), (6, 8, MachineState::Replicating)]);
        let plan = remedies(&ledger, HERE, &heard, &policy(Packing::Snappy));
        assert_eq!(
            plan,
            [
                Remedy::BringKey {
                    machine: MachineId([5; 16]),
                    timeline: TimelineId([5; 8]),
                    epoch: Epoch(3),
                    writer: WriterId([5; 16])
                },
                Remedy::Release { machine: MachineId([6; 16]), epoch: Epoch(8) },
            ]
        );
    }

    #[test]
    fn machines_with_an_ownership_job_are_left_to_it() {
        let mut ledger = ledger_of(&[(5, HERE, 3)]);
        let machine = MachineId([5; 16]);
        let batch = draft(&ledger, |draft| {
            jobs::BeginProtect { machine, by: "t".into() }.decide(draft).expect("begun");
        });
        ledger.apply(&batch);
        assert_eq!(remedies(&ledger, HERE, &heartbeat(&[]), &policy(Packing::Snappy)), []);
        assert_eq!(assign::epoch_of(&ledger, machine), Epoch(3));
    }

    #[test]
    fn what_is_served_without_being_known_is_stopped() {
        let ledger = ledger_of(&[]);
        let heard = Heartbeat { serving: vec![4], ..heartbeat(&[]) };
        assert_eq!(remedies(&ledger, HERE, &heard, &policy(Packing::Snappy)), [Remedy::StopServing { serve: 4 }]);
    }
}
