//! Looks at the control plane once a second, and at jobs and events when they change; publishes what is new.
//!
//! A machine's item goes out at once when its state, health, owner or connections change; when only its numbers do, as
//! often as [`SOFT_PER_SECOND`] items a second for all machines allow, and not while nobody reads.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::web;
use farshore_actors::control::ledger::records::{EventId, JobId, JobState};
use farshore_actors::control::plane::ControlPlane;
use farshore_actors::control::view::{EventFilter, Picture};
use farshore_engine::ids::{MachineId, Timestamp};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::Board;
use crate::routes::events::EventBody;
use crate::routes::jobs::JobBody;
use crate::routes::machines::MachineBody;
use crate::routes::overview::OverviewBody;
use crate::routes::process_servers::ProcessServerBody;
use crate::server::Api;

/// Time between looks at everything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Time between two looks at jobs and events, however fast they come.
const NEWS_APART: Duration = Duration::from_millis(100);
/// Machines whose numbers alone go out in a second. Chosen: some 100 KiB a second for each stream.
const SOFT_PER_SECOND: u32 = 50;
/// Time between two items of a process server, or of the overview.
const SLOW: Duration = Duration::from_secs(2);
/// Jobs and events that are looked at for news; more at once are found by whoever lists them.
const NEWS_MAX: usize = 200;

/// What was published last of an item.
#[derive(Debug, Clone, Copy)]
struct Sent {
    hard: u64,
    whole: u64,
    at: Instant,
}

/// Remembers what was published.
pub(crate) struct Watcher {
    api: web::Data<Api>,
    machines: BTreeMap<MachineId, Sent>,
    slow: BTreeMap<String, Sent>,
    jobs: BTreeMap<JobId, (Timestamp, JobState)>,
    event: Option<EventId>,
}

/// Looks until the feed's server ends.
pub(crate) async fn watch(api: web::Data<Api>) {
    let mut changes = api.plane.changes();
    let mut watcher = Watcher::new(api);
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => watcher.look(Instant::now()),
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                watcher.news();
                sleep(NEWS_APART).await;
            }
        }
    }
}

impl Watcher {
    fn new(api: web::Data<Api>) -> Self {
        let newest = api.plane.events(None, 1, &EventFilter::default()).items.pop();
        let event = newest.map(|event| event.id);
        let jobs = jobs(&api.plane).into_iter().map(|job| (job.id, (job.updated_at, job.state))).collect();
        Self { api, machines: BTreeMap::new(), slow: BTreeMap::new(), jobs, event }
    }

    fn board(&self) -> &Arc<Board> {
        &self.api.board
    }

    /// Samples everything, and publishes what changed.
    fn look(&mut self, now: Instant) {
        let picture = self.api.plane.picture();
        self.board().history.write().look(&picture);
        if !self.board().feed.is_read(now) {
            self.machines.clear();
            self.slow.clear();
            return;
        }
        self.machines_changed(&picture, now);
        for server in &picture.process_servers {
            let body = ProcessServerBody::from(server.clone());
            self.slowly(&format!("process_server/{}", body.id), "process_server", &body, now);
        }
        let overview = OverviewBody::of(&self.api, &picture);
        self.slowly("overview", "overview", &overview, now);
    }

    fn machines_changed(&mut self, picture: &Picture, now: Instant) {
        let every = picture.machines.len() as u32 / SOFT_PER_SECOND;
        let apart = Duration::from_secs(every.into());
        for view in &picture.machines {
            let id = view.id;
            let body = MachineBody::of(view.clone(), &self.api.board);
            let hard = hard(&body);
            let before = self.machines.get(&id);
            if before.is_some_and(|sent| sent.hard == hard && now.duration_since(sent.at) < apart) {
                continue;
            }
            let whole = whole(&body);
            if before.is_none_or(|sent| sent.whole != whole) {
                self.board().feed.publish("machine", &body);
                self.machines.insert(id, Sent { hard, whole, at: now });
            }
        }
        let gone: Vec<MachineId> = self.machines.keys().copied().filter(|id| !there(picture, *id)).collect();
        for id in gone {
            self.machines.remove(&id);
            if let Ok(view) = self.api.plane.machine(id) {
                self.board().feed.publish("machine", &MachineBody::of(view, &self.api.board));
            }
        }
    }

    fn slowly<T: Serialize>(&mut self, key: &str, kind: &str, body: &T, now: Instant) {
        let before = self.slow.get(key);
        if before.is_some_and(|sent| now.duration_since(sent.at) < SLOW) {
            return;
        }
        let whole = whole(body);
        if before.is_none_or(|sent| sent.whole != whole) {
            self.board().feed.publish(kind, body);
            self.slow.insert(key.to_owned(), Sent { hard: 0, whole, at: now });
        }
    }

    /// Publishes jobs that went on, and events that came.
    fn news(&mut self) {
        let jobs = jobs(&self.api.plane);
        for job in jobs.iter().rev() {
            let now = (job.updated_at, job.state);
            if self.jobs.insert(job.id, now) != Some(now) {
                self.board().feed.publish("job", &JobBody::from(job.clone()));
            }
        }
        if let Some(oldest) = jobs.last() {
            self.jobs.retain(|id, (_, state)| *id >= oldest.id || *state == JobState::Running);
        }
        let recent = self.api.plane.events(None, NEWS_MAX, &EventFilter::default()).items;
        let seen = self.event;
        for event in recent.iter().rev().filter(|event| seen.is_none_or(|seen| event.id > seen)) {
            self.board().feed.publish("event", &EventBody::from(event.clone()));
        }
        self.event = recent.first().map(|event| event.id).or(seen);
    }
}

fn jobs(plane: &ControlPlane) -> Vec<farshore_actors::control::ledger::records::JobRecord> {
    plane.jobs(None, NEWS_MAX, None).items
}

fn there(picture: &Picture, id: MachineId) -> bool {
    picture.machines.binary_search_by_key(&id, |machine| machine.id).is_ok()
}

/// What an operator must see at once.
fn hard(body: &MachineBody) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&body.name, &body.state, &body.health.level, body.agent.connected, &body.allowed_operations).hash(&mut hasher);
    body.health.issues.iter().for_each(|issue| (&issue.code, &issue.severity).hash(&mut hasher));
    body.assignment.iter().for_each(|now| (&now.process_server, now.epoch, &now.stage).hash(&mut hasher));
    body.disks.iter().for_each(|disk| (disk.disk, &disk.name, &disk.state, &disk.gap).hash(&mut hasher));
    hasher.finish()
}

fn whole<T: Serialize>(body: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    serde_json::to_vec(body).unwrap_or_default().hash(&mut hasher);
    hasher.finish()
}
