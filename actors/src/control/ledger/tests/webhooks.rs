//! Webhooks: what is queued for whom, when it is tried again, and when no more.

use super::*;
use crate::control::health::Health;
use crate::control::ledger::records::Subject;
use crate::control::ledger::webhooks::*;
use crate::control::webhooks::secret::WebhookKey;

fn key() -> WebhookKey {
    let dir = tempfile::tempdir().expect("temp dir");
    WebhookKey::open(&dir.path().join("key")).expect("made")
}

fn made(house: &mut House) -> WebhookId {
    let (label, url) = ("pager".to_owned(), "https://pager.example/x".to_owned());
    let make = CreateWebhook { label, url, allow_plain_http: false, key: key(), by: "test".into() };
    house.decide(make).expect("made").0.id
}

fn change(n: u8, health: Health) -> HealthChange {
    HealthChange {
        subject: Subject::Machine(MachineId([n; 16])),
        name: "x".repeat(255),
        before: Health::Normal,
        health,
        code: Some("agent_away".into()),
        cause: Some("ü".repeat(300)),
        remedy: Some("ü".repeat(300)),
    }
}

fn tried(house: &mut House, webhook: WebhookId, trouble: Option<String>) -> Delivery {
    let delivery = pending(&house.ledger, webhook).next().expect("one waits").id;
    house.decide(Tried { webhook, delivery, status: Some(500), trouble }).expect("noted");
    house.ledger.deliveries.get(&(webhook, delivery)).expect("there").clone()
}

#[test]
fn a_secret_is_told_once_and_is_not_among_what_is_remembered() {
    let mut house = House::new();
    let (label, url) = ("pager".to_owned(), "https://pager.example/x".to_owned());
    let make = CreateWebhook { label, url, allow_plain_http: false, key: key(), by: "test".into() };
    let (_, secret) = house.decide(make).expect("made");
    let kept = house.contents.values().map(|value| String::from_utf8_lossy(value).into_owned()).collect::<String>();
    assert!(kept.contains("pager.example") && !kept.contains(secret.as_str()), "{kept}");
}

#[test]
fn every_webhook_is_told_in_order_and_what_is_normal_again_is_forgotten() {
    let mut house = House::new();
    let (one, other) = (made(&mut house), made(&mut house));
    house.decide(TellHealth(vec![change(1, Health::Critical), change(2, Health::Warning)])).expect("told");
    assert_eq!(house.ledger.told.len(), 2);
    house.decide(TellHealth(vec![change(1, Health::Normal)])).expect("told");
    assert_eq!(house.ledger.told.len(), 1);
    for webhook in [one, other] {
        let ids: Vec<u64> = pending(&house.ledger, webhook).map(|delivery| delivery.id.0).collect();
        assert!(ids.len() == 3 && ids.is_sorted(), "{ids:?}");
    }
    house.decide(DeleteWebhook { id: one, by: "test".into() }).expect("deleted");
    assert_eq!((house.ledger.deliveries.len(), house.ledger.told.len()), (3, 1), "the other is still told");
    house.decide(DeleteWebhook { id: other, by: "test".into() }).expect("deleted");
    assert!(house.ledger.deliveries.is_empty() && house.ledger.told.is_empty());
}

#[test]
fn a_delivery_that_fails_is_tried_later_and_later_and_given_up_after_a_day() {
    let mut house = House::new();
    let webhook = made(&mut house);
    house.decide(TestWebhook { id: webhook, by: "test".into() }).expect("queued");
    let mut waits = Vec::new();
    for _ in 0..12 {
        let now = tried(&mut house, webhook, Some("no".repeat(1000)));
        assert_eq!(now.state, DeliveryState::Pending);
        waits.push(now.next_at.micros_since(house.now) / 1000);
        house.now = now.next_at;
    }
    assert!((750..=1000).contains(&waits[0]) && (1500..=2000).contains(&waits[1]), "{waits:?}");
    assert!(waits[11] <= 300_000 && waits[11] >= 225_000, "{waits:?}");
    let codes = |house: &House, code: &str| house.ledger.events.iter().filter(|event| event.code == code).count();
    assert_eq!((codes(&house, "webhook_failing"), codes(&house, "webhook_gave_up")), (1, 0));
    house.now = Timestamp(house.now.0 + 24 * 3600 * 1_000_000);
    assert_eq!(tried(&mut house, webhook, Some("no".into())).state, DeliveryState::Failed);
    assert_eq!(codes(&house, "webhook_gave_up"), 1);
    assert!(pending(&house.ledger, webhook).next().is_none());
}

#[test]
fn what_waits_and_what_is_over_is_bounded_and_what_made_room_is_counted() {
    let mut house = House::new();
    let webhook = made(&mut house);
    for _ in 0..PENDING_MAX / 100 + 1 {
        house.decide(TellHealth((0..100).map(|n| change(n, Health::Critical)).collect())).expect("told");
    }
    assert_eq!(pending(&house.ledger, webhook).count(), PENDING_MAX);
    assert_eq!(house.ledger.webhooks.get(&webhook).expect("there").dropped, 100);
    for _ in 0..OVER_KEPT + 10 {
        assert_eq!(tried(&mut house, webhook, None).state, DeliveryState::Delivered);
    }
    let over = house.ledger.deliveries_of(webhook).filter(|delivery| delivery.state != DeliveryState::Pending);
    assert_eq!(over.count(), OVER_KEPT);
}
