//! Members' sessions as the Orchestrator sees them: who arrived, who left, who asks for its owner, who reports.

use actix::prelude::*;
use farshore_engine::control::messages::{AgentReport, Hello, Refusal, RefusalCode, Severity, ToMember};
use farshore_engine::ids::{MachineId, ProcessServerId};
use farshore_engine::transport::Role;

use super::super::fault::{Fault, FaultCode};
use super::super::ledger::members::{MachineSeen, ProcessServerSeen, process_server};
use super::super::ledger::records::Subject;
use super::super::member_session::{MemberSession, Tell, UseLink};
use super::super::process_server_link::{Attach, Detach};
use super::{AgentSessionOf, Decide, Orchestrator, SessionOf};
use crate::supervise::{ActorKind, wall_clock};

/// A member's session is open.
#[derive(Message)]
#[rtype(result = "Result<(), Fault>")]
pub(crate) struct Arrived {
    /// Who, by the certificate.
    pub(crate) role: Role,
    /// The session's number, never given twice by one process.
    pub(crate) number: u64,
    /// The session.
    pub(crate) session: Addr<MemberSession>,
    /// What it said.
    pub(crate) hello: Hello,
    /// Where it comes from.
    pub(crate) peer: String,
}

impl Handler<Arrived> for Orchestrator {
    type Result = Result<(), Fault>;

    fn handle(&mut self, msg: Arrived, ctx: &mut Self::Context) -> Result<(), Fault> {
        let unknown = |fault: Fault| match fault.code {
            FaultCode::MachineRemoved => fault,
            _ => Fault::new(FaultCode::MemberUnknown, fault.detail),
        };
        match msg.role {
            Role::Machine(machine) => {
                self.room.ledger().machine(machine).map(drop).map_err(unknown)?;
                self.agent_arrived(machine, msg, ctx);
                Ok(())
            }
            Role::ProcessServer(server) => {
                process_server(&self.room.ledger(), server).map(drop).map_err(unknown)?;
                self.server_arrived(server, msg, ctx);
                Ok(())
            }
            Role::ConfigServer | Role::Operator => {
                let detail = format!("{} keeps no control session", msg.role);
                Err(Fault::new(FaultCode::MemberUnknown, detail))
            }
        }
    }
}

impl Orchestrator {
    fn agent_arrived(&mut self, machine: MachineId, msg: Arrived, ctx: &mut Context<Self>) {
        let now = wall_clock();
        let before = self.agents.remove(&machine);
        let mut clone_told_at = before.as_ref().and_then(|agent| agent.clone_told_at);
        if let Some(before) = before {
            before.open.session.do_send(Tell(replaced()));
            let told_lately = clone_told_at.is_some_and(|at| now.micros_since(at) < 60_000_000);
            if before.open.life != msg.hello.life && before.open.session.connected() && !told_lately {
                clone_told_at = Some(now);
                let text = "A second agent opened a session with this machine's certificate while the first was still \
                            connected. If the machine was cloned, remove the clone's identity files and enrol it with a \
                            token of its own; the log takes writes of one of them only."
                    .to_owned();
                self.raise(Severity::Warning, "two_agents", Subject::Machine(machine), text);
            }
        }
        self.room.with_live(|live| {
            let entry = live.machines.entry(machine).or_default();
            entry.connected_since = Some(now);
            entry.program_version = msg.hello.program_version;
            entry.peer = msg.peer;
        });
        let open = SessionOf { number: msg.number, life: msg.hello.life, session: msg.session };
        let welcome = self.room.policy.welcome(self.room.ledger().machines.get(&machine));
        self.agents.insert(machine, AgentSessionOf { open, told: None, welcome, clone_told_at });
        ctx.address().do_send(Decide(MachineSeen { machine, disks: msg.hello.disks }));
    }

    fn server_arrived(&mut self, server: ProcessServerId, msg: Arrived, ctx: &mut Context<Self>) {
        if let Some(before) = self.servers.remove(&server) {
            before.session.do_send(Tell(replaced()));
            if before.life != msg.hello.life && before.session.connected() {
                let text =
                    "A second process opened a session with this process server's certificate while the first was \
                            still connected."
                        .to_owned();
                self.raise(Severity::Warning, "two_process_servers", Subject::ProcessServer(server), text);
            }
        }
        self.room.with_live(|live| {
            let entry = live.servers.entry(server).or_default();
            entry.connected_since = Some(wall_clock());
            entry.program_version = msg.hello.program_version;
            entry.peer = msg.peer;
            entry.heartbeat = None;
        });
        self.raise(
            Severity::Info,
            "process_server_connected",
            Subject::ProcessServer(server),
            "It is connected.".into(),
        );
        let session = SessionOf { number: msg.number, life: msg.hello.life, session: msg.session };
        self.servers.insert(server, session);
        self.attach(server);
        ctx.address().do_send(Decide(ProcessServerSeen { id: server, addresses: msg.hello.replication_addresses }));
    }

    /// Makes a link and a session know each other.
    fn attach(&mut self, server: ProcessServerId) {
        let (Some(link), Some(open)) = (self.links.get(&server), self.servers.get(&server)) else { return };
        open.session.do_send(UseLink(link.clone()));
        link.do_send(Attach { number: open.number, session: open.session.clone() });
    }
}

fn replaced() -> ToMember {
    ToMember::Refused(Refusal::new(
        RefusalCode::Busy,
        "another session was opened with this certificate",
        "Make sure that only one process uses these identity files.",
    ))
}

/// A member's session is over.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Left {
    /// Whose it was.
    pub(crate) role: Role,
    /// Its number.
    pub(crate) number: u64,
}

impl Handler<Left> for Orchestrator {
    type Result = ();

    fn handle(&mut self, msg: Left, _: &mut Self::Context) {
        match msg.role {
            Role::Machine(machine) if self.agents.get(&machine).is_some_and(|now| now.open.number == msg.number) => {
                self.agents.remove(&machine);
                self.room.with_live(|live| live.machines.entry(machine).or_default().connected_since = None);
            }
            Role::ProcessServer(server) if self.servers.get(&server).is_some_and(|now| now.number == msg.number) => {
                self.servers.remove(&server);
                self.room.with_live(|live| live.servers.entry(server).or_default().connected_since = None);
                if let Some(link) = self.links.get(&server) {
                    link.do_send(Detach { number: msg.number });
                }
                let owns = self.room.ledger().assignments.iter().filter(|now| now.process_server == server).count();
                let text =
                    format!("Its control session is closed. It owns {owns} machine(s); their replication may go on.");
                let severity = if owns > 0 { Severity::Warning } else { Severity::Info };
                self.raise(severity, "process_server_disconnected", Subject::ProcessServer(server), text);
            }
            _ => {}
        }
    }
}

/// An agent asks who owns its log.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct AskWhere {
    /// Its machine, by the certificate.
    pub(crate) machine: MachineId,
    /// Who asks.
    pub(crate) session: Addr<MemberSession>,
}

impl Handler<AskWhere> for Orchestrator {
    type Result = ();

    fn handle(&mut self, msg: AskWhere, _: &mut Self::Context) {
        self.room.chaos.check(ActorKind::Orchestrator, Some(msg.machine));
        let answer = self.where_to(msg.machine);
        msg.session.do_send(Tell(answer));
    }
}

/// An agent's report.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Reported {
    /// Its machine, by the certificate.
    pub(crate) machine: MachineId,
    /// The report.
    pub(crate) report: AgentReport,
}

impl Handler<Reported> for Orchestrator {
    type Result = ();

    fn handle(&mut self, mut msg: Reported, _: &mut Self::Context) {
        self.raise_members(Subject::Machine(msg.machine), std::mem::take(&mut msg.report.events));
        let now = wall_clock();
        self.room.with_live(|live| live.machines.entry(msg.machine).or_default().report = Some((now, msg.report)));
    }
}
