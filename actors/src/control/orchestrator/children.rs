//! The Orchestrator's children: links to process servers, and jobs; what follows when one of them is born or lost.

use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::Severity;
use farshore_engine::ids::ProcessServerId;
use slog::warn;

use super::super::job::Job;
use super::super::ledger::jobs::JobFailed;
use super::super::ledger::records::{JobId, Subject};
use super::super::member_session::UseLink;
use super::super::process_server_link::{Attach, ProcessServerLink};
use super::{Decide, Orchestrator};
use crate::supervise::{Ended, Loss, Parent, Warden, on_ended};

impl Parent<ProcessServerLink> for Orchestrator {
    fn warden(&mut self) -> &mut Warden<ProcessServerLink> {
        &mut self.links
    }

    fn child_born(&mut self, server: &ProcessServerId, addr: Addr<ProcessServerLink>, _: u64, _: &mut Context<Self>) {
        self.room.link_is(*server, Some(addr.clone()));
        if let Some(open) = self.servers.get(server) {
            open.session.do_send(UseLink(addr.clone()));
            addr.do_send(Attach { number: open.number, session: open.session.clone() });
        }
    }

    fn child_lost(&mut self, server: &ProcessServerId, loss: Loss, ctx: &mut Context<Self>) {
        match loss {
            Loss::Restarting { ending, .. } => {
                let text = format!("The link to it was restarted: {ending}.");
                self.raise(Severity::Warning, "link_restarted", Subject::ProcessServer(*server), text);
            }
            // A link rests for a minute and is tried again: without it the process server gets no commands.
            Loss::GaveUp { ending } => {
                let text = format!("The link to it keeps failing ({ending}); it is tried again in a minute.");
                self.raise(Severity::Critical, "link_given_up", Subject::ProcessServer(*server), text);
                let server = *server;
                ctx.run_later(Duration::from_secs(60), move |this, ctx| {
                    Warden::<ProcessServerLink>::resume(this, &server, ctx);
                });
            }
            Loss::Finished => {}
        }
    }
}

impl Handler<Ended<ProcessServerLink>> for Orchestrator {
    type Result = ();

    fn handle(&mut self, msg: Ended<ProcessServerLink>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}

impl Parent<Job> for Orchestrator {
    fn warden(&mut self) -> &mut Warden<Job> {
        &mut self.jobs
    }

    fn child_lost(&mut self, job: &JobId, loss: Loss, ctx: &mut Context<Self>) {
        match loss {
            Loss::GaveUp { ending } => {
                self.jobs.dismiss(job);
                let why = format!("its actor kept failing: {ending}");
                ctx.address().do_send(Decide(JobFailed { job: *job, why }));
            }
            Loss::Restarting { ending, .. } => {
                warn!(self.room.log, "a job goes on after its actor failed"; "job" => job.0, "ending" => %ending);
            }
            // One that ended while its job runs on was overtaken by a restart of the ledger: upkeep begins it again.
            Loss::Finished => self.jobs_follow_the_ledger(ctx),
        }
    }
}

impl Handler<Ended<Job>> for Orchestrator {
    type Result = ();

    fn handle(&mut self, msg: Ended<Job>, ctx: &mut Self::Context) {
        on_ended(self, &msg, ctx);
    }
}
