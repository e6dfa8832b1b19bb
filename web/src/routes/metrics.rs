//! `/metrics`: what Prometheus reads. A machine's figures are told for the first [`MACHINES_MAX`] machines only.

use std::fmt::{Display, Write as _};

use actix_web::{HttpResponse, get, web};
use farshore_actors::control::health::{Health, Protection};
use farshore_actors::control::live::Reach;
use farshore_actors::control::view::{MachineView, Picture, ProcessServerView};
use farshore_engine::control::messages::MachineReport;

use crate::auth::Viewer;
use crate::problem::Problem;
use crate::server::Api;
use crate::show::name_of;

/// Machines whose figures are told one by one: some 10 lines each.
const MACHINES_MAX: usize = 2000;

/// Metrics in Prometheus' text format.
struct Text(String);

impl Text {
    /// A metric with its help and all its values; values of a kind stand together.
    fn metric<L: Display, V: Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        values: impl Iterator<Item = (L, V)>,
    ) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP farshore_{name} {help}\n# TYPE farshore_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(self.0, "farshore_{name}{labels} {value}");
        }
    }

    fn gauge<L: Display, V: Display>(&mut self, name: &str, help: &str, values: impl Iterator<Item = (L, V)>) {
        self.metric(name, "gauge", help, values);
    }

    fn counter<L: Display, V: Display>(&mut self, name: &str, help: &str, values: impl Iterator<Item = (L, V)>) {
        self.metric(name, "counter", help, values);
    }

    fn one(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauge(name, help, [("", value)].into_iter());
    }
}

/// A label's value, escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn level(health: Health) -> u8 {
    match health {
        Health::Normal => 0,
        Health::Warning => 1,
        Health::Critical => 2,
    }
}

/// Figures for Prometheus.
#[utoipa::path(tag = "system",
    responses((status = 200, content_type = "text/plain", body = String), (status = "4XX", body = Problem)))]
#[get("/metrics")]
pub(crate) async fn get_metrics(_: Viewer, api: web::Data<Api>) -> HttpResponse {
    let picture = api.plane.picture();
    let mut text = Text(String::new());
    system(&mut text, &api, &picture);
    machines(&mut text, &picture.machines);
    process_servers(&mut text, &picture.process_servers);
    HttpResponse::Ok().insert_header(("content-type", "text/plain; version=0.0.4; charset=utf-8")).body(text.0)
}

fn system(text: &mut Text, api: &Api, picture: &Picture) {
    let version = format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    text.gauge("build_info", "The program that answers.", [(version, 1)].into_iter());
    text.one("uptime_seconds", "How long the management interface has been up.", api.started.elapsed().as_secs());
    let states = [
        Protection::Unassigned,
        Protection::Preparing,
        Protection::Moving,
        Protection::Paused,
        Protection::AgentAway,
        Protection::InitialReplication,
        Protection::Comparing,
        Protection::CatchingUp,
        Protection::Protected,
        Protection::Interrupted,
    ];
    let count = |state| picture.machines.iter().filter(|machine| machine.protection == state).count();
    let by_state = states.into_iter().map(|state| (format!("{{state=\"{}\"}}", name_of(&state)), count(state)));
    text.gauge("machines", "Machines by state.", by_state);
    let healths = [Health::Normal, Health::Warning, Health::Critical];
    let count = |health| picture.machines.iter().filter(|machine| machine.health == health).count();
    let by_health = healths.into_iter().map(|health| (format!("{{health=\"{}\"}}", name_of(&health)), count(health)));
    text.gauge("machines_by_health", "Machines by health.", by_health);
    text.one("jobs_running", "Jobs that are not over.", picture.jobs_running.len());
    text.one("served_points", "Points that are served.", picture.served_points);
    text.one("served_near_bytes", "Bytes of their disks that have been brought near.", picture.near_bytes);
    text.one("event_streams", "Streams of live changes that are open.", api.board.feed.streams());
}

fn machines(text: &mut Text, machines: &[MachineView]) {
    let shown = || {
        machines
            .iter()
            .take(MACHINES_MAX)
            .map(|machine| (format!("{{machine=\"{}\",name=\"{}\"}}", machine.id, escaped(&machine.name)), machine))
    };
    let owned = || shown().filter_map(|(labels, machine)| machine.at_owner.as_ref().map(|report| (labels, report)));
    let told = || shown().filter_map(|(labels, machine)| machine.report.as_ref().map(|(_, report)| (labels, report)));
    let rpo = shown().filter_map(|(labels, machine)| machine.rpo.map(|rpo| (labels, rpo.as_secs_f64())));
    text.gauge("machine_rpo_seconds", "Age of the newest recovery point.", rpo);
    let health = shown().map(|(labels, machine)| (labels, level(machine.health)));
    text.gauge("machine_health", "0 normal, 1 warning, 2 critical.", health);
    let protected = shown().map(|(labels, machine)| (labels, u8::from(machine.protection == Protection::Protected)));
    text.gauge("machine_protected", "1 while every write goes to the log in order.", protected);
    let backlog = owned().map(|(labels, report)| (labels, report.backlog_bytes));
    text.gauge("machine_backlog_bytes", "Bytes at the process server that are in no vault yet.", backlog);
    let received = owned().map(|(labels, report)| (labels, report.received_bytes));
    text.counter("machine_received_bytes_total", "Bytes of writes that its process server received.", received);
    let uploaded = owned().map(|(labels, report)| (labels, report.uploaded_bytes));
    text.counter("machine_uploaded_bytes_total", "Bytes that its process server put into the vault.", uploaded);
    let failures = owned().map(|(labels, report)| (labels, report.upload_failures));
    text.counter("machine_upload_failures_total", "Calls of the vault for it that failed.", failures);
    let restarts = owned().map(|(labels, report)| (labels, report.actor_restarts));
    text.counter("machine_actor_restarts_total", "Actors of it that were started again after a failure.", restarts);
    merging(text, &owned);
    scrubbing(text, &owned);
    let written = told().map(|(labels, report)| (labels, report.written_bytes));
    text.counter("machine_written_bytes_total", "Bytes that applications wrote to its disks.", written);
    let memory = told().map(|(labels, report)| (labels, report.memory_bytes));
    text.gauge("machine_agent_memory_bytes", "Bytes of writes that its agent holds until they are committed.", memory);
    let rung = told().map(|(labels, report)| (labels, report.rung));
    text.gauge("machine_overload_rung", "Rung of the agent's overload ladder, 1 to 4.", rung);
    let hot = told().map(|(labels, report)| (labels, report.disks.iter().map(|disk| disk.hot_bytes).sum::<u64>()));
    text.gauge("machine_hot_bytes", "Bytes in regions that may differ from the replica.", hot);
}

/// Each machine's labels, and what its owner says of it.
trait Owned<'a>: Iterator<Item = (String, &'a MachineReport)> {}

impl<'a, T: Iterator<Item = (String, &'a MachineReport)>> Owned<'a> for T {}

fn merging<'a, I: Owned<'a>>(text: &mut Text, owned: &impl Fn() -> I) {
    let merging = || owned().filter_map(|(labels, report)| report.merging.as_ref().map(|merging| (labels, merging)));
    let live = merging().map(|(labels, merging)| (labels, merging.live_segments));
    text.gauge("machine_live_segments", "Log objects that no merged run stands for.", live);
    let runs = merging().map(|(labels, merging)| (labels, merging.runs));
    text.gauge("machine_runs", "Merged runs.", runs);
    let bytes = merging().map(|(labels, merging)| (labels, merging.live_bytes + merging.run_bytes));
    text.gauge("machine_vault_bytes", "Bytes of its log that readers need.", bytes);
    let read = merging().map(|(labels, merging)| (labels, merging.read_bytes));
    text.counter("machine_merge_read_bytes_total", "Bytes that merges read.", read);
    let written = merging().map(|(labels, merging)| (labels, merging.written_bytes));
    text.counter("machine_merge_written_bytes_total", "Bytes that merges wrote.", written);
    let deleted = merging().map(|(labels, merging)| (labels, merging.deleted_objects));
    text.counter(
        "machine_deleted_objects_total",
        "Objects that nothing needed any more and that were deleted.",
        deleted,
    );
    let renewed = merging().map(|(labels, merging)| (labels, merging.renewed_runs));
    text.counter(
        "machine_renewed_runs_total",
        "Damaged runs that were made again from what they were merged from.",
        renewed,
    );
    let failures = merging().map(|(labels, merging)| (labels, merging.failures));
    text.counter("machine_merge_failures_total", "Looks of merging that failed.", failures);
}

fn scrubbing<'a, I: Owned<'a>>(text: &mut Text, owned: &impl Fn() -> I) {
    let scrubs = || owned().filter_map(|(labels, report)| report.scrub.as_ref().map(|scrub| (labels, scrub)));
    let damaged = scrubs().map(|(labels, scrub)| (labels, scrub.damaged_objects));
    text.gauge("machine_damaged_objects", "Objects of its log that are not what was written.", damaged);
    let read = scrubs().map(|(labels, scrub)| (labels, scrub.bytes));
    text.counter("machine_scrubbed_bytes_total", "Bytes of its log that were read again.", read);
    let repaired = scrubs().map(|(labels, scrub)| (labels, scrub.repaired));
    text.counter("machine_repaired_objects_total", "Damaged objects that were put back.", repaired);
    let failures = scrubs().map(|(labels, scrub)| (labels, scrub.failures));
    text.counter("machine_scrub_failures_total", "Scrubs that failed as the vault did not answer.", failures);
}

fn process_servers(text: &mut Text, servers: &[ProcessServerView]) {
    let shown = || {
        servers
            .iter()
            .map(|server| (format!("{{process_server=\"{}\",name=\"{}\"}}", server.id, escaped(&server.name)), server))
    };
    let cached = || shown().filter_map(|(labels, server)| server.cache.map(|cache| (labels, cache)));
    let connected = shown().map(|(labels, server)| (labels, u8::from(server.reach == Reach::Connected)));
    text.gauge("process_server_connected", "1 while it has a session and sends heartbeats.", connected);
    let health = shown().map(|(labels, server)| (labels, level(server.health)));
    text.gauge("process_server_health", "0 normal, 1 warning, 2 critical.", health);
    let owned = shown().map(|(labels, server)| (labels, server.machines));
    text.gauge("process_server_machines", "Machines that it owns.", owned);
    let cpu = shown().filter_map(|(labels, server)| server.cpu.map(|cpu| (labels, cpu)));
    text.gauge("process_server_cpu_ratio", "Part of its CPUs that it uses.", cpu);
    let used = cached().map(|(labels, cache)| (labels, cache.used_bytes));
    text.gauge("process_server_cache_used_bytes", "Bytes of segments in its cache.", used);
    let most = cached().map(|(labels, cache)| (labels, cache.bytes_max));
    text.gauge("process_server_cache_limit_bytes", "Most bytes of segments in its cache.", most);
    let backlog = cached().map(|(labels, cache)| (labels, cache.backlog_bytes));
    text.gauge("process_server_cache_backlog_bytes", "Bytes in its cache that are in no vault yet.", backlog);
    let free = cached().map(|(labels, cache)| (labels, cache.disk_free_bytes));
    text.gauge("process_server_cache_disk_free_bytes", "Bytes free on its cache's disk.", free);
    let stores = || shown().filter_map(|(labels, server)| server.store.map(|store| (labels, store)));
    let calls = stores().flat_map(|(labels, store)| {
        let one = move |(kind, calls)| (format!("{},call=\"{kind}\"}}", labels.trim_end_matches('}')), calls);
        store.by_kind().map(one)
    });
    text.counter("process_server_store_calls_total", "Calls of the vault since it started, by kind.", calls);
    let sent = stores().map(|(labels, store)| (labels, store.sent_bytes));
    text.counter("process_server_store_sent_bytes_total", "Bytes that it sent to the vault.", sent);
    let received = stores().map(|(labels, store)| (labels, store.received_bytes));
    text.counter("process_server_store_received_bytes_total", "Bytes that it read from the vault.", received);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }
}
