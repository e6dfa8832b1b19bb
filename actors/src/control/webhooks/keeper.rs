//! The WebhookKeeper: sees changes of health, has them written down, and sends what waits.
//!
//! Parent: `ConfigServer`'s root. Bounds: one request to each webhook at a time; what waits is bounded in the ledger.
//!
//! ```text
//!   each second, once who is away had time to come back:
//!     what is so now ≠ what was told, [`STANDS_FOR`] looks in a row ─► TellHealth (durable)
//!     the oldest pending delivery of each webhook that is due ─► post ─► Tried (durable)
//! ```
//!
//! Crash story: a life begins with nothing; what was told and what waits are in the ledger. A request that was under way
//! is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use farshore_engine::control::messages::Issue;
use slog::{debug, error};

use super::body::{kind, render};
use super::{Parcel, Post};
use crate::control::control_room::ControlRoom;
use crate::control::health::{self, Health};
use crate::control::ledger::records::{Record as _, Subject};
use crate::control::ledger::webhooks::{Delivery, HealthChange, TellHealth, Told, Tried, Webhook, WebhookId, pending};
use crate::supervise::{Life, Ward, wall_clock};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row that must show a change before it is told. Chosen: what is over within a moment wakes nobody up.
const STANDS_FOR: u32 = 3;
/// Changes that are written down at once.
const CHANGES_AT_ONCE: usize = 200;

/// Longest cause and remedy, in characters: with everything else of its record below 4 KiB.
const TEXT_CHARS_MAX: usize = 300;

type Level = (Health, Option<String>);

/// See the module.
pub(crate) struct WebhookKeeper {
    room: Arc<ControlRoom>,
    life: Life,
    /// What differs from what was told, and for how many looks it has.
    standing: BTreeMap<String, (Level, u32)>,
    telling: bool,
    under_way: BTreeSet<WebhookId>,
}

impl Ward for WebhookKeeper {
    type Id = u8;
    type Spec = Arc<ControlRoom>;
    const KIND: &'static str = "webhook keeper";

    fn revive(room: Arc<ControlRoom>, life: Life, _: &mut Context<Self>) -> Self {
        Self { room, life, standing: BTreeMap::new(), telling: false, under_way: BTreeSet::new() }
    }
}

impl Actor for WebhookKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.life.pulse(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
    }
}

impl WebhookKeeper {
    fn look(&mut self, ctx: &mut Context<Self>) {
        self.life.progress();
        if self.room.ledger().webhooks.is_empty() {
            self.standing.clear();
            return;
        }
        if !self.telling {
            self.tell(ctx);
        }
        if let Some(post) = self.room.post() {
            self.send(&post, ctx);
        }
    }

    fn tell(&mut self, ctx: &mut Context<Self>) {
        let mut differing = differing(&self.room);
        let mut standing = BTreeMap::new();
        differing.retain(|change| {
            let key = Told::key_text(&change.subject);
            let level = (change.health, change.code.clone());
            let looks = match self.standing.get(&key) {
                Some((before, looks)) if *before == level => looks + 1,
                _ => 1,
            };
            standing.insert(key, (level, looks));
            looks >= STANDS_FOR
        });
        self.standing = standing;
        differing.truncate(CHANGES_AT_ONCE);
        if differing.is_empty() {
            return;
        }
        self.telling = true;
        let room = self.room.clone();
        let told = async move { room.decide(TellHealth(differing)).await };
        ctx.spawn(told.into_actor(self).map(|told, this, _| {
            this.telling = false;
            if let Err(fault) = told {
                debug!(this.room.log, "changes of health are not written down yet"; "fault" => %fault);
            }
        }));
    }

    fn send(&mut self, post: &Arc<dyn Post>, ctx: &mut Context<Self>) {
        let now = wall_clock();
        let due: Vec<(Webhook, Delivery)> = {
            let ledger = self.room.ledger();
            let idle = ledger.webhooks.iter().filter(|webhook| !self.under_way.contains(&webhook.id));
            let oldest = idle.filter_map(|webhook| Some((webhook, pending(&ledger, webhook.id).next()?)));
            let due = oldest.filter(|(_, delivery)| delivery.next_at <= now);
            due.map(|(webhook, delivery)| (webhook.clone(), delivery.clone())).collect()
        };
        for (webhook, delivery) in due {
            self.under_way.insert(webhook.id);
            let (room, post, id) = (self.room.clone(), post.clone(), webhook.id);
            let sent = async move {
                let tried = attempt(&room, &*post, &webhook, &delivery).await;
                room.decide(tried).await
            };
            ctx.spawn(sent.into_actor(self).map(move |noted, this, ctx| {
                this.under_way.remove(&id);
                match (noted, this.room.post()) {
                    // What waits behind it goes at once.
                    (Ok(()), Some(post)) => this.send(&post, ctx),
                    (Ok(()), None) => {}
                    (Err(fault), _) => {
                        error!(this.room.log, "what became of a delivery to a webhook could not be written down";
                            "webhook" => id.0, "fault" => %fault);
                    }
                }
            }));
        }
    }
}

async fn attempt(room: &ControlRoom, post: &dyn Post, webhook: &Webhook, delivery: &Delivery) -> Tried {
    let tried = |status, trouble| Tried { webhook: webhook.id, delivery: delivery.id, status, trouble };
    let Some(secret) = room.webhook_key.secret_of(webhook) else {
        let lost = "its secret cannot be made any more, because webhook.key of the state directory is another one: delete \
                    the webhook and make it anew";
        return tried(None, Some(lost.into()));
    };
    let body = render(delivery);
    let headers = vec![
        ("Farshore-Event", kind(&delivery.news).to_owned()),
        ("Farshore-Delivery", delivery.id.to_string()),
        ("Farshore-Signature", secret.signature(wall_clock().0.div_euclid(1_000_000), &body)),
    ];
    match post.post(Parcel { url: webhook.url.clone(), headers, body }).await {
        Ok(status) if (200..300).contains(&status) => tried(Some(status), None),
        Ok(status) => tried(Some(status), Some(format!("it answered {status}"))),
        Err(why) => tried(None, Some(why)),
    }
}

/// What is not as the webhooks were told.
fn differing(room: &ControlRoom) -> Vec<HealthChange> {
    let (ledger, live, now) = (room.ledger(), room.live(), wall_clock());
    if !live.settled(now) {
        return Vec::new();
    }
    let mut found: Vec<(Subject, String, Vec<Issue>)> =
        vec![(Subject::Installation, String::new(), health::of_installation(&ledger))];
    for machine in ledger.machines.iter().filter(|machine| !machine.removed) {
        let issues = health::of_machine(&ledger, &live, machine, room.policy.rpo_limits(machine), now);
        found.push((Subject::Machine(machine.id), machine.name.clone(), issues));
    }
    for server in ledger.process_servers.iter().filter(|server| !server.removed) {
        let issues = health::of_process_server(&ledger, &live, server.id, now);
        found.push((Subject::ProcessServer(server.id), server.name.clone(), issues));
    }
    let there: BTreeSet<String> = found.iter().map(|(subject, ..)| Told::key_text(subject)).collect();
    // What was removed is nobody's trouble any more.
    let gone = ledger.told.iter().filter(|told| !there.contains(&Told::key_text(&told.subject)));
    found.extend(gone.map(|told| (told.subject, told.name.clone(), Vec::new())));
    let change = |(subject, name, issues): (Subject, String, Vec<Issue>)| {
        let told = ledger.told.get(&subject);
        let before = told.map_or(Health::Normal, |told| told.health);
        let health = Health::of(&issues);
        let worst = issues.into_iter().next().filter(|_| health != Health::Normal);
        let code = worst.as_ref().map(|issue| issue.code.clone());
        let same = before == health && told.and_then(|told| told.code.clone()) == code;
        let short = |text: String| text.chars().take(TEXT_CHARS_MAX).collect::<String>();
        (!same).then(|| HealthChange {
            subject,
            name,
            before,
            health,
            code,
            cause: worst.as_ref().map(|issue| short(issue.text.clone())),
            remedy: worst.map(|issue| short(issue.remedy)),
        })
    };
    found.into_iter().filter_map(change).collect()
}
