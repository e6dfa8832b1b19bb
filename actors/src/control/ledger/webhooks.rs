//! Webhooks: who is told of changes of health, and what they are told, kept until it has arrived.
//!
//! ```text
//!   health changed ─► one Delivery for each Webhook, pending
//!                        │ tried: the oldest pending one of a webhook, one at a time
//!                        ├─ answered 2xx ─► delivered
//!                        ├─ anything else ─► pending, later: 1 s, 2 s, 4 s … 5 min, each with a quarter of chance
//!                        └─ a day old ─► failed, and an event says so
//! ```
//!
//! Invariants: a webhook is told in the order in which things happened; at most [`PENDING_MAX`] deliveries wait for it
//! (the oldest goes, and is counted); a secret is not among what is remembered, only a salt and a hash of it.
//!
//! Crash story: what was queued is there after a restart; what was being sent then is sent again, under the same number.

use std::time::Duration;

use farshore_engine::control::messages::Severity;
use farshore_engine::ids::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::records::{Record, Subject, number, record};
use super::tokens::hex;
use super::{Decision, Draft, Ledger, check_label};
use crate::control::fault::{Fault, FaultCode};
use crate::control::health::Health;
use crate::control::webhooks::secret::WebhookKey;

/// Most webhooks. Chosen: one for each tool that a site uses; each sends at most one request at a time.
pub const WEBHOOKS_MAX: usize = 16;
/// Most deliveries that wait for one webhook. Chosen: a thousand machines that all lose their process server fit.
pub const PENDING_MAX: usize = 2000;
/// Deliveries that are over and still shown, of each webhook.
pub const OVER_KEPT: usize = 50;
/// A delivery that has not arrived by then has failed.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Wait after the first attempt that failed.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Longest reason of a failed attempt, in characters: with everything else of its record below 4 KiB.
const TROUBLE_CHARS_MAX: usize = 200;
/// Attempts of one delivery after which an event says that a webhook does not answer.
const SAID_AFTER: u32 = 3;

number! {
    /// One webhook.
    WebhookId
}
number! {
    /// One delivery; a later one has a higher number.
    DeliveryId
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its number.
    pub id: WebhookId,
    /// What the operator calls it.
    pub label: String,
    /// Where it is told.
    pub url: String,
    /// Plain HTTP to another host is allowed.
    pub allow_plain_http: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its secret is made from this and the installation's webhook key; hex.
    pub salt: String,
    /// SHA-256 of its secret, hex: shows that the key is still the one that it was made with.
    pub secret_sha256: String,
    /// Deliveries that had to make room for later ones.
    pub dropped: u64,
}
record!(Webhook, "webhook", WebhookId, this => this.id, key => format!("{:016x}", key.0));

/// What a webhook is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "news", rename_all = "snake_case")]
pub enum News {
    /// Nothing: somebody tries whether it arrives.
    Test {
        /// Who.
        by: String,
    },
    /// Something is not as well, or as bad, as it was.
    HealthChanged(HealthChange),
}

/// A change of health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthChange {
    /// Of what.
    pub subject: Subject,
    /// Its label; empty for the installation.
    pub name: String,
    /// How it was, as far as the webhooks were told.
    pub before: Health,
    /// How it is.
    pub health: Health,
    /// Code of the worst issue.
    pub code: Option<String>,
    /// What happened and why.
    pub cause: Option<String>,
    /// What to do.
    pub remedy: Option<String>,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It waits for its next attempt.
    Pending,
    /// It was answered with a status of success.
    Delivered,
    /// It was given up.
    Failed,
}

/// Something that a webhook is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its number.
    pub id: DeliveryId,
    /// Who is told.
    pub webhook: WebhookId,
    /// When it happened.
    pub at: Timestamp,
    /// What.
    pub news: News,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next, or when it was over.
    pub next_at: Timestamp,
    /// HTTP status of the last answer.
    pub status: Option<u16>,
    /// Why the last attempt failed.
    pub trouble: Option<String>,
}
record!(Delivery, "delivery", (WebhookId, DeliveryId), this => (this.webhook, this.id),
    key => format!("{:016x}-{:016x}", key.0.0, key.1.0));

/// Something that the webhooks were told is not normal. What is normal has no such record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// What.
    pub subject: Subject,
    /// Its label.
    pub name: String,
    /// How it was.
    pub health: Health,
    /// Code of the worst issue.
    pub code: Option<String>,
}
record!(Told, "told", Subject, this => this.subject, key => match key {
    Subject::Installation => "installation".to_owned(),
    Subject::Machine(id) => format!("machine-{id}"),
    Subject::ProcessServer(id) => format!("process-server-{id}"),
});

/// The webhook of this number.
pub fn webhook(ledger: &Ledger, id: WebhookId) -> Result<&Webhook, Fault> {
    ledger.webhooks.get(&id).ok_or_else(|| Fault::new(FaultCode::WebhookUnknown, format!("webhook {id}")))
}

/// Makes a webhook. Its address was looked at.
pub struct CreateWebhook {
    /// What to call it.
    pub label: String,
    /// Where it is told.
    pub url: String,
    /// Plain HTTP to another host is allowed.
    pub allow_plain_http: bool,
    /// What its secret is made from.
    pub key: WebhookKey,
    /// Who asks.
    pub by: String,
}

impl Decision for CreateWebhook {
    type Outcome = (Webhook, Zeroizing<String>);

    fn decide(self, draft: &mut Draft<'_>) -> Result<Self::Outcome, Fault> {
        check_label(&self.label, "a webhook's label")?;
        if draft.ledger.webhooks.len() >= WEBHOOKS_MAX {
            let detail = format!("there are {WEBHOOKS_MAX} webhooks, and no more are kept: delete one first");
            return Err(Fault::new(FaultCode::InvalidValue, detail));
        }
        let mut salt = [0; 16];
        draft.chance.fill(&mut salt);
        let salt = hex(&salt);
        let secret = self.key.secret(&salt);
        draft.counters.webhook += 1;
        let webhook = Webhook {
            id: WebhookId(draft.counters.webhook),
            label: self.label,
            url: self.url,
            allow_plain_http: self.allow_plain_http,
            created_at: draft.now,
            salt,
            secret_sha256: secret.sha256(),
            dropped: 0,
        };
        draft.put(&webhook);
        let text = format!("{} made the webhook '{}'.", self.by, webhook.label);
        draft.event(Severity::Info, "webhook_created", Subject::Installation, text);
        Ok((webhook, secret.text()))
    }
}

/// Ends a webhook. What it was not told yet is forgotten.
pub struct DeleteWebhook {
    /// Which.
    pub id: WebhookId,
    /// Who asks.
    pub by: String,
}

impl Decision for DeleteWebhook {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let ledger = draft.ledger;
        let gone = webhook(ledger, self.id)?;
        draft.delete::<Webhook>(&self.id);
        ledger.deliveries_of(self.id).for_each(|delivery| draft.delete::<Delivery>(&delivery.key()));
        if ledger.webhooks.len() == 1 {
            // Nobody was told of anything any more: the next webhook begins anew.
            ledger.told.iter().for_each(|told| draft.delete::<Told>(&told.subject));
        }
        let text = format!("{} deleted the webhook '{}'.", self.by, gone.label);
        draft.event(Severity::Info, "webhook_deleted", Subject::Installation, text);
        Ok(())
    }
}

/// Tells a webhook nothing, to see whether it arrives.
pub struct TestWebhook {
    /// Which.
    pub id: WebhookId,
    /// Who asks.
    pub by: String,
}

impl Decision for TestWebhook {
    type Outcome = Delivery;

    fn decide(self, draft: &mut Draft<'_>) -> Result<Delivery, Fault> {
        let webhook = webhook(draft.ledger, self.id)?.clone();
        let queued = queue(draft, webhook, vec![News::Test { by: self.by }]);
        Ok(queued.into_iter().next().expect("one was queued"))
    }
}

/// Tells every webhook how health has changed.
pub struct TellHealth(pub Vec<HealthChange>);

impl Decision for TellHealth {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        for change in &self.0 {
            let HealthChange { subject, name, health, code, .. } = change;
            match health {
                Health::Normal => draft.delete::<Told>(subject),
                Health::Warning | Health::Critical => {
                    draft.put(&Told { subject: *subject, name: name.clone(), health: *health, code: code.clone() })
                }
            }
        }
        let webhooks: Vec<Webhook> = draft.ledger.webhooks.iter().cloned().collect();
        for webhook in webhooks {
            queue(draft, webhook, self.0.iter().cloned().map(News::HealthChanged).collect());
        }
        Ok(())
    }
}

fn queue(draft: &mut Draft<'_>, webhook: Webhook, news: Vec<News>) -> Vec<Delivery> {
    let (ledger, id) = (draft.ledger, webhook.id);
    let waiting: Vec<DeliveryId> = pending(ledger, id).map(|delivery| delivery.id).collect();
    let surplus = (waiting.len() + news.len()).saturating_sub(PENDING_MAX);
    waiting.iter().take(surplus).for_each(|oldest| draft.delete::<Delivery>(&(id, *oldest)));
    if surplus > 0 {
        draft.put(&Webhook { dropped: webhook.dropped + surplus as u64, ..webhook });
    }
    let mut queued = Vec::new();
    for news in news {
        draft.counters.delivery += 1;
        let delivery = Delivery {
            id: DeliveryId(draft.counters.delivery),
            webhook: id,
            at: draft.now,
            news,
            state: DeliveryState::Pending,
            attempts: 0,
            next_at: draft.now,
            status: None,
            trouble: None,
        };
        draft.put(&delivery);
        queued.push(delivery);
    }
    queued
}

/// What a webhook is still to be told, the oldest first.
pub fn pending(ledger: &Ledger, webhook: WebhookId) -> impl Iterator<Item = &Delivery> {
    ledger.deliveries_of(webhook).filter(|delivery| delivery.state == DeliveryState::Pending)
}

/// A delivery was tried.
pub struct Tried {
    /// Which webhook.
    pub webhook: WebhookId,
    /// Which delivery.
    pub delivery: DeliveryId,
    /// HTTP status of the answer, if there was one.
    pub status: Option<u16>,
    /// Why it failed; `None`: it has arrived.
    pub trouble: Option<String>,
}

impl Decision for Tried {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let ledger = draft.ledger;
        let Some(tried) = ledger.deliveries.get(&(self.webhook, self.delivery)) else {
            // Its webhook was deleted meanwhile, or it had to make room.
            return Ok(());
        };
        let (now, attempts) = (draft.now, tried.attempts + 1);
        let late = now.micros_since(tried.at) >= GIVE_UP_AFTER.as_micros() as u64;
        let (state, next_at) = match (&self.trouble, late) {
            (None, _) => (DeliveryState::Delivered, now),
            (Some(_), true) => (DeliveryState::Failed, now),
            (Some(_), false) => (DeliveryState::Pending, later(now, retry_in(attempts, draft))),
        };
        let trouble =
            self.trouble.map(|trouble| draft.text(trouble).chars().take(TROUBLE_CHARS_MAX).collect::<String>());
        tell_operator(draft, self.webhook, attempts, state, trouble.as_deref());
        draft.put(&Delivery { state, attempts, next_at, status: self.status, trouble, ..tried.clone() });
        if state != DeliveryState::Pending {
            let over: Vec<DeliveryId> = ledger
                .deliveries_of(self.webhook)
                .filter(|delivery| delivery.state != DeliveryState::Pending)
                .map(|delivery| delivery.id)
                .collect();
            let surplus = (over.len() + 1).saturating_sub(OVER_KEPT);
            over.iter().take(surplus).for_each(|oldest| draft.delete::<Delivery>(&(self.webhook, *oldest)));
        }
        Ok(())
    }
}

fn tell_operator(draft: &mut Draft<'_>, id: WebhookId, attempts: u32, state: DeliveryState, trouble: Option<&str>) {
    let label = draft.ledger.webhooks.get(&id).map_or("?", |webhook| webhook.label.as_str());
    let why = trouble.unwrap_or("it did not say why");
    match state {
        DeliveryState::Failed => {
            let text =
                format!("The webhook '{label}' was not told of something for a day, and is not any more: {why}.");
            draft.event(Severity::Warning, "webhook_gave_up", Subject::Installation, text);
        }
        DeliveryState::Pending if attempts == SAID_AFTER => {
            let text = format!("The webhook '{label}' cannot be told ({why}); it is tried again for a day.");
            draft.event(Severity::Warning, "webhook_failing", Subject::Installation, text);
        }
        DeliveryState::Pending | DeliveryState::Delivered => {}
    }
}

fn later(now: Timestamp, wait: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(wait.as_micros()).unwrap_or(i64::MAX)))
}

/// Doubles with each attempt; up to a quarter is left to chance, so that many do not come back at once.
fn retry_in(attempts: u32, draft: &mut Draft<'_>) -> Duration {
    let full = RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_MAX);
    let mut roll = [0; 1];
    draft.chance.fill(&mut roll);
    full - full.mul_f64(f64::from(roll[0]) / 1024.0)
}
