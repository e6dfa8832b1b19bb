//! The way of a machine through the API: joined, owned, listed, served, moved, removed.

use serde_json::{Value, json};

use crate::rig::{MISSING, Site, point};

/// Waits until the machine's log has an active owner that reports it.
async fn owned(site: &Site, machine: &str) -> Value {
    let ready = |body: &Value| {
        let ready = body["assignment"]["stage"] == "active" && body["log"]["state"] == "replicating";
        ready.then(|| body.clone())
    };
    site.until(&format!("machines/{machine}"), ready).await
}

#[actix_web::test]
async fn a_machine_without_a_process_server_is_shown_critical_with_a_remedy() {
    let site = Site::start().await;
    let id = site.enrol("lonely").await.to_string();
    let shown = site.get("machines/lonely").await;
    assert_eq!((shown["id"].as_str(), shown["state"].as_str()), (Some(id.as_str()), Some("unassigned")), "{shown}");
    assert_eq!(shown["health"]["level"], "critical", "{shown}");
    assert_eq!(shown["health"]["code"], "machine_unassigned", "{shown}");
    assert!(shown["health"]["remedy"].is_string() && shown["health"]["cause"].is_string(), "{shown}");
    assert_eq!(shown["assignment"], Value::Null);
    assert_eq!(shown["disks"][0]["name"], "root");
    site.ask("GET", "machines/lonely/points", Value::Null).await.is_problem(409, "machine_unassigned");
    site.enrol("lonely").await;
    site.ask("GET", "machines/lonely", Value::Null).await.is_problem(409, "name_ambiguous");
    let health = site.get("health").await;
    assert_eq!(
        (&health["health"]["level"], &health["machines_by_state"]["unassigned"]),
        (&json!("critical"), &json!(2))
    );
    site.stop().await;
}

#[actix_web::test]
async fn points_are_listed_in_parts_and_served_and_ended() {
    let site = Site::start().await;
    let (server, _link) = site.join("one").await;
    let id = site.enrol("db").await.to_string();
    let shown = owned(&site, "db").await;
    assert_eq!(shown["assignment"]["process_server"], json!(server));
    assert!(shown["rpo_seconds"].is_number() && shown["assignment"]["epoch"].is_u64(), "{shown}");

    let first = site.get("machines/db/points?limit=2").await;
    let ids = |page: &Value| -> Vec<String> {
        let items = page["items"].as_array().expect("items");
        items.iter().map(|item| item["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(ids(&first), [point(3), point(2)].map(|point| point.mark.to_string()));
    assert_eq!(first["items"][0]["captured_at"], "1970-01-01T00:00:03Z");
    assert_eq!(first["items"][0]["disks"], json!([0]));
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let rest = site.get(&format!("machines/{id}/points?limit=2&cursor={cursor}")).await;
    assert_eq!(ids(&rest), [point(1).mark.to_string()]);
    assert_eq!(rest["next_cursor"], Value::Null);

    let body = json!({ "machine": "db", "point": "latest", "read_only": true });
    let served = site.ask("POST", "served-points", body).await;
    assert_eq!(served.status, 201, "{served:?}");
    let at = served.header("location").strip_prefix("/api/v1/").expect("an address of the API").to_owned();
    let export = &served.body["exports"][0];
    assert_eq!((&export["name"], &export["read_only"]), (&json!("root"), &json!(true)));
    assert!(export["uri"].as_str().is_some_and(|uri| uri.starts_with("nbd+unix:///root?socket=")), "{export}");
    let near = json!({ "reached_bytes": 1 << 20, "total_bytes": 4 << 20, "ended": false });
    let seen = site.until(&at, |body| (body["near"] == near).then(|| body.clone())).await;
    assert_eq!(seen["exports"], served.body["exports"], "and how far it is near");
    assert_eq!(site.get("served-points").await["items"], json!([seen]));
    let ended = site.ask("DELETE", &at, Value::Null).await;
    assert_eq!((ended.status, ended.body), (204, Value::Null));
    site.ask("GET", &at, Value::Null).await.is_problem(404, "served_point_unknown");
    site.stop().await;
}

#[actix_web::test]
async fn a_point_that_is_not_there_is_not_served_and_leaves_nothing_behind() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    owned(&site, "db").await;
    let ask = |point: String| json!({ "machine": "db", "point": point });
    let answer = site.ask("POST", "served-points", ask(MISSING.to_string())).await;
    answer.is_problem(404, "point_unknown");
    site.ask("POST", "served-points", ask("tomorrow".into())).await.is_problem(422, "invalid_value");
    assert_eq!(site.get("served-points").await["items"], json!([]));
    let jobs = site.get("jobs?machine=db").await;
    assert_eq!((&jobs["items"][0]["kind"], &jobs["items"][0]["state"]), (&json!("serve"), &json!("failed")));
    site.stop().await;
}

#[actix_web::test]
async fn a_machine_is_moved_marked_and_removed() {
    let site = Site::start().await;
    let (one, _one) = site.join("one").await;
    site.enrol("db").await;
    let before = owned(&site, "db").await["assignment"]["epoch"].as_u64().expect("an epoch");
    let (two, _two) = site.join("two").await;

    site.ask("POST", "machines/db/move", json!({ "to": one })).await.is_problem(409, "already_there");
    site.ask("POST", "machines/db/move", json!({ "to": "nobody" })).await.is_problem(404, "process_server_unknown");
    let moving = site.ask("POST", "machines/db/move", json!({ "to": two })).await;
    assert_eq!((moving.status, &moving.body["kind"]), (202, &json!("move")), "{moving:?}");
    let job = moving.header("location").strip_prefix("/api/v1/").expect("an address of the API").to_owned();
    let done = site.until(&job, |job| (job["state"] != "running").then(|| job.clone())).await;
    assert_eq!((&done["state"], &done["target"]), (&json!("done"), &json!(two)), "{done}");
    let after = owned(&site, "db").await;
    assert_eq!(after["assignment"]["process_server"], json!(two));
    assert!(after["assignment"]["epoch"].as_u64().expect("an epoch") > before);

    let mark = site.ask("POST", "machines/db/marks", json!({ "label": "before the upgrade" })).await;
    assert_eq!((mark.status, mark.body["id"].as_str().map(str::len)), (202, Some(32)), "{mark:?}");
    let events = site.get("events?machine=db&limit=2").await;
    assert_eq!(events["items"].as_array().map(Vec::len), Some(2));
    let cursor = events["next_cursor"].as_str().expect("more happened");
    let older = site.get(&format!("events?machine=db&limit=500&cursor={cursor}")).await;
    let codes: Vec<&str> =
        older["items"].as_array().into_iter().flatten().filter_map(|event| event["code"].as_str()).collect();
    assert!(codes.contains(&"move_requested"), "{codes:?}");

    assert_eq!(site.ask("DELETE", "machines/db", Value::Null).await.status, 204);
    assert_eq!(site.get("machines").await["items"], json!([]));
    site.stop().await;
}
