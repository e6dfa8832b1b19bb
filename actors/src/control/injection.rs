//! Faults on purpose, from the API's side: this process's own, and those of process servers over their control sessions.

use farshore_engine::control::messages::{ChaosCommand, ChaosState, Command, CommandResult, InjectedFault, Injection};
use farshore_engine::ids::ProcessServerId;

use super::fault::{Fault, FaultCode};
use super::plane::{ASK_WITHIN, Caller, ControlPlane, unexpected};

/// Where a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedAt {
    /// The configuration server's process.
    ConfigServer,
    /// A process server's.
    ProcessServer(ProcessServerId),
}

/// A fault and where it strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InjectedView {
    /// Where.
    pub at: InjectedAt,
    /// What, and what came of it.
    pub fault: InjectedFault,
}

impl ControlPlane {
    /// Every fault of every process that was started to allow them, and that answers.
    pub async fn injected(&self) -> Result<Vec<InjectedView>, Fault> {
        let own = self.room.chaos.execute(ChaosCommand::List);
        let mut states = vec![(InjectedAt::ConfigServer, own.clone())];
        let servers: Vec<ProcessServerId> = {
            let ledger = self.room.ledger();
            ledger.process_servers.iter().filter(|server| !server.removed).map(|server| server.id).collect()
        };
        for server in servers {
            match self.ask_chaos(server, ChaosCommand::List).await {
                // The roles of one process share its faults.
                Ok(state) if own.enabled && state.process == own.process => {}
                Ok(state) => states.push((InjectedAt::ProcessServer(server), state)),
                Err(_) => {}
            }
        }
        if !states.iter().any(|(_, state)| state.enabled) {
            return Err(disabled("no process that answers"));
        }
        let views = |(at, state): (InjectedAt, ChaosState)| {
            state.faults.into_iter().map(move |fault| InjectedView { at, fault })
        };
        Ok(states.into_iter().flat_map(views).collect())
    }

    /// Arms a fault.
    pub async fn inject(&self, caller: &Caller, at: InjectedAt, injection: Injection) -> Result<InjectedView, Fault> {
        let state = self.chaos_at(at, ChaosCommand::Arm { injection }).await?;
        slog::warn!(self.room.log, "a fault was armed"; "by" => &caller.name, "at" => ?at, "fault" => ?injection);
        let armed = state.armed.and_then(|id| state.faults.into_iter().find(|fault| fault.id == id));
        let fault = armed.ok_or_else(|| Fault::new(FaultCode::Refused, "the process did not arm the fault"))?;
        Ok(InjectedView { at, fault })
    }

    /// Disarms a fault.
    pub async fn disarm(&self, at: InjectedAt, id: u64) -> Result<InjectedView, Fault> {
        let state = self.chaos_at(at, ChaosCommand::Disarm { id }).await?;
        let fault = state.faults.into_iter().find(|fault| fault.id == id);
        let unknown = || Fault::new(FaultCode::InjectedFaultUnknown, format!("fault {id}"));
        Ok(InjectedView { at, fault: fault.ok_or_else(unknown)? })
    }

    async fn chaos_at(&self, at: InjectedAt, command: ChaosCommand) -> Result<ChaosState, Fault> {
        let state = match at {
            InjectedAt::ConfigServer => self.room.chaos.execute(command),
            InjectedAt::ProcessServer(server) => self.ask_chaos(server, command).await?,
        };
        if state.enabled { Ok(state) } else { Err(disabled("this process")) }
    }

    async fn ask_chaos(&self, server: ProcessServerId, command: ChaosCommand) -> Result<ChaosState, Fault> {
        match self.room.execute(server, Command::Chaos(command), ASK_WITHIN).await? {
            CommandResult::Chaos(state) => Ok(state),
            other => Err(unexpected(&other)),
        }
    }
}

fn disabled(who: &str) -> Fault {
    Fault::new(FaultCode::ChaosDisabled, format!("{who} was not started with --enable-chaos"))
}
