//! What stands in a request to a webhook: the same bytes at each attempt.

use farshore_engine::ids::Timestamp;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::control::ledger::records::Subject;
use crate::control::ledger::webhooks::{Delivery, HealthChange, News};

/// The name of what is told.
pub(crate) fn kind(news: &News) -> &'static str {
    match news {
        News::Test { .. } => "test",
        News::HealthChanged(_) => "health_changed",
    }
}

/// A delivery as JSON.
pub(crate) fn render(delivery: &Delivery) -> String {
    let mut body = json!({
        "delivery": delivery.id.to_string(),
        "webhook": delivery.webhook.to_string(),
        "event": kind(&delivery.news),
        "at": time(delivery.at),
    });
    match &delivery.news {
        News::Test { by } => body["by"] = json!(by),
        News::HealthChanged(change) => {
            let HealthChange { subject, name, before, health, code, cause, remedy } = change;
            body["subject"] = subject_of(*subject, name);
            body["health"] =
                json!({ "before": before, "level": health, "code": code, "cause": cause, "remedy": remedy });
        }
    }
    body.to_string()
}

fn subject_of(subject: Subject, name: &str) -> Value {
    match subject {
        Subject::Installation => json!({ "kind": "installation" }),
        Subject::Machine(id) => {
            json!({ "kind": "machine", "id": id.to_string(), "name": name, "link": format!("/api/v1/machines/{id}") })
        }
        Subject::ProcessServer(id) => {
            let link = format!("/api/v1/process-servers/{id}");
            json!({ "kind": "process_server", "id": id.to_string(), "name": name, "link": link })
        }
    }
}

fn time(at: Timestamp) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.0) * 1000).ok();
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use farshore_engine::ids::MachineId;

    use super::*;
    use crate::control::health::Health;
    use crate::control::ledger::webhooks::{DeliveryId, DeliveryState, WebhookId};

    #[test]
    fn a_change_of_health_says_of_what_how_it_was_how_it_is_and_what_to_do() {
        let change = HealthChange {
            subject: Subject::Machine(MachineId([1; 16])),
            name: "mail".into(),
            before: Health::Normal,
            health: Health::Critical,
            code: Some("agent_away".into()),
            cause: Some("gone".into()),
            remedy: Some("start it".into()),
        };
        let delivery = Delivery {
            id: DeliveryId(7),
            webhook: WebhookId(1),
            at: Timestamp(1_000_001),
            news: News::HealthChanged(change),
            state: DeliveryState::Pending,
            attempts: 0,
            next_at: Timestamp(0),
            status: None,
            trouble: None,
        };
        let body: Value = serde_json::from_str(&render(&delivery)).expect("JSON");
        assert_eq!(body["event"], "health_changed");
        assert_eq!(body["at"], "1970-01-01T00:00:01.000001Z");
        assert_eq!(body["subject"]["name"], "mail");
        assert_eq!((&body["health"]["before"], &body["health"]["level"]), (&json!("normal"), &json!("critical")));
        assert_eq!(body["health"]["remedy"], "start it");
    }
}
