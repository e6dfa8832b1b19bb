//! What is so at this moment and need not survive anything: sessions, heartbeats, reports.

use std::collections::BTreeMap;
use std::time::Duration;

use farshore_engine::control::messages::{AgentReport, Heartbeat, MachineReport};
use farshore_engine::ids::{MachineId, ProcessServerId, Timestamp};

/// A process server whose last heartbeat is older counts as silent. Heartbeats come each second.
pub const SILENT_AFTER: Duration = Duration::from_secs(5);
/// For so long after the picture was begun, who has no session may just not be back yet: members come back after 200 ms
/// when the Orchestrator was restarted, and within seconds when the configuration server was.
pub const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// What is so now.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// When it was begun.
    pub begun_at: Timestamp,
    /// Process servers that were heard of since the start.
    pub servers: BTreeMap<ProcessServerId, ServerLive>,
    /// Machines whose agents were heard of since the start.
    pub machines: BTreeMap<MachineId, MachineLive>,
    /// Objects of machines' logs that their owners found damaged, whoever has the log now: the next owner looks at them first.
    pub doubted: BTreeMap<MachineId, Vec<String>>,
}

/// A process server now.
#[derive(Debug, Clone, Default)]
pub struct ServerLive {
    /// It has a session since then.
    pub connected_since: Option<Timestamp>,
    /// Its program's version.
    pub program_version: String,
    /// Where its session comes from.
    pub peer: String,
    /// Its last heartbeat and when it came, by our clock. Its machines are in order of their ids.
    pub heartbeat: Option<(Timestamp, Heartbeat)>,
}

/// A machine's agent now.
#[derive(Debug, Clone, Default)]
pub struct MachineLive {
    /// It has a session since then.
    pub connected_since: Option<Timestamp>,
    /// Its program's version.
    pub program_version: String,
    /// Where its session comes from.
    pub peer: String,
    /// Its last report and when it came, by our clock.
    pub report: Option<(Timestamp, AgentReport)>,
}

/// How a process server is to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It has a session and sends heartbeats.
    Connected,
    /// It has a session and says nothing.
    Silent,
    /// It has no session.
    Away,
}

impl Live {
    /// What process servers said last.
    pub fn heartbeats(&self) -> impl Iterator<Item = &Heartbeat> {
        self.servers.values().filter_map(|server| server.heartbeat.as_ref()).map(|(_, said)| said)
    }

    /// Takes what a process server says, at `now`.
    pub fn heard(&mut self, server: ProcessServerId, now: Timestamp, mut said: Heartbeat) {
        said.machines.sort_unstable_by_key(|report| report.machine);
        for report in &said.machines {
            // An owner that has read nothing yet knows nothing.
            let Some(scrub) = report.scrub.as_ref().filter(|scrub| scrub.ended_at.is_some()) else { continue };
            let damaged: Vec<String> = scrub.damaged.iter().map(|damaged| damaged.object.clone()).collect();
            match damaged.is_empty() {
                true => drop(self.doubted.remove(&report.machine)),
                false => drop(self.doubted.insert(report.machine, damaged)),
            }
        }
        self.servers.entry(server).or_default().heartbeat = Some((now, said));
    }

    /// How a process server is to be reached.
    pub fn reach(&self, server: ProcessServerId, now: Timestamp) -> Reach {
        let Some(live) = self.servers.get(&server) else { return Reach::Away };
        let Some(since) = live.connected_since else { return Reach::Away };
        let heard = live.heartbeat.as_ref().map_or(since, |(at, _)| (*at).max(since));
        match now.micros_since(heard) > SILENT_AFTER.as_micros() as u64 {
            true => Reach::Silent,
            false => Reach::Connected,
        }
    }

    /// Whether those who are away really are, and not just on their way back.
    pub fn settled(&self, now: Timestamp) -> bool {
        now.micros_since(self.begun_at) > SETTLED_AFTER.as_micros() as u64
    }

    /// What a process server last said of a machine.
    pub fn machine_at(&self, server: ProcessServerId, machine: MachineId) -> Option<&MachineReport> {
        let (_, heartbeat) = self.servers.get(&server)?.heartbeat.as_ref()?;
        let at = heartbeat.machines.binary_search_by_key(&machine, |report| report.machine).ok()?;
        heartbeat.machines.get(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_without_heartbeats_is_silent_and_one_without_a_session_away() {
        let server = ProcessServerId([1; 16]);
        let mut live = Live::default();
        assert_eq!(live.reach(server, Timestamp(0)), Reach::Away);
        let entry = ServerLive { connected_since: Some(Timestamp(10)), ..ServerLive::default() };
        live.servers.insert(server, entry);
        assert_eq!(live.reach(server, Timestamp(5_000_010)), Reach::Connected);
        assert_eq!(live.reach(server, Timestamp(5_000_011)), Reach::Silent);
        live.servers.entry(server).or_default().connected_since = None;
        assert_eq!(live.reach(server, Timestamp(11)), Reach::Away);
    }
}
