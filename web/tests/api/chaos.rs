//! Faults on purpose: refused where nobody allowed them, and to everyone but an admin.

use serde_json::{Value, json};

use crate::rig::Site;

#[actix_web::test]
async fn faults_are_refused_where_no_process_was_started_to_allow_them() {
    let site = Site::start().await;
    let (server, link) = site.join("west").await;
    site.ask("GET", "chaos/faults", Value::Null).await.is_problem(409, "chaos_disabled");
    let fault = json!({ "fault": "panic", "actor": "disk" });
    for process in ["config-server", "west", &server] {
        let body = json!({ "process": process, "fault": fault });
        site.ask("POST", "chaos/faults", body).await.is_problem(409, "chaos_disabled");
    }
    let nowhere = json!({ "process": "east", "fault": fault });
    site.ask("POST", "chaos/faults", nowhere).await.is_problem(404, "not_found");
    for wrong in [
        json!({ "fault": "explode" }),
        json!({ "fault": "vault_fail" }),
        json!({ "fault": "vault_fail", "for_ms": 0 }),
        json!({ "fault": "vault_fail", "for_ms": 1, "loud": true }),
        json!({ "fault": "panic", "actor": "disk", "times": 0 }),
        json!({ "fault": "panic", "actor": "nobody" }),
    ] {
        let answer = site.ask("POST", "chaos/faults", json!({ "process": "config-server", "fault": wrong })).await;
        assert_eq!(answer.status, 400, "{wrong}: {answer:?}");
    }
    site.ask("DELETE", "chaos/faults/config-server:1", Value::Null).await.is_problem(409, "chaos_disabled");
    site.ask("DELETE", "chaos/faults/1", Value::Null).await.is_problem(404, "not_found");
    drop(link);
    site.stop().await;
}

#[actix_web::test]
async fn only_an_admin_may_break_things() {
    let site = Site::start().await;
    let made = site.ask("POST", "api-tokens", json!({ "role": "operator", "label": "night shift" })).await;
    let token = made.body["token"].as_str().expect("a token");
    site.ask_as(token, "GET", "chaos/faults", Value::Null).await.is_problem(403, "forbidden");
    site.stop().await;
}
