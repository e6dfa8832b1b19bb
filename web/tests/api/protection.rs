//! Policies, pause and resume, removal with and without points, jobs called off and done again, test failovers, restores.

use serde_json::{Value, json};

use crate::rig::{MISSING, Site, point};

async fn owned(site: &Site, machine: &str) -> Value {
    let ready = |body: &Value| {
        let ready = body["assignment"]["stage"] == "active" && body["log"]["state"] == "replicating";
        ready.then(|| body.clone())
    };
    site.until(&format!("machines/{machine}"), ready).await
}

fn may(item: &Value, operation: &str) -> bool {
    item["allowed_operations"].as_array().is_some_and(|all| all.iter().any(|one| one == operation))
}

async fn done(site: &Site, job: &Value) -> Value {
    let path = format!("jobs/{}", job["id"].as_str().expect("an id"));
    site.until(&path, |body| (body["state"] != "running").then(|| body.clone())).await
}

#[actix_web::test]
async fn an_edit_names_the_version_that_it_is_of_and_changes_when_a_machine_is_in_warning() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    let shown = owned(&site, "db").await;
    assert_eq!((&shown["policy"]["own"], &shown["policy"]["rpo_warning_seconds"]), (&json!(false), &json!(30)));
    let etag = shown["etag"].as_str().expect("an etag").to_owned();
    let edit = |etag: Option<String>, body: Value| {
        let request = site.bare("PATCH", "/api/v1/machines/db").bearer_auth(&site.admin).json(&body);
        site.send(match etag {
            Some(etag) => request.header("if-match", etag),
            None => request,
        })
    };
    let wanted = json!({ "policy": { "rpo_warning_seconds": 10, "rpo_critical_seconds": 20 } });
    edit(None, wanted.clone()).await.is_problem(428, "if_match_missing");
    edit(Some("\"99\"".into()), wanted.clone()).await.is_problem(412, "changed_meanwhile");
    edit(Some("nonsense".into()), wanted.clone()).await.is_problem(412, "changed_meanwhile");
    let answer = edit(Some(etag.clone()), wanted.clone()).await;
    assert_eq!((answer.status, &answer.body["policy"]["rpo_warning_seconds"]), (200, &json!(10)), "{answer:?}");
    assert_ne!(answer.header("etag"), etag);
    let newer = answer.header("etag").to_owned();
    edit(Some(etag), wanted).await.is_problem(412, "changed_meanwhile");
    for bad in [json!({ "rpo_warning_seconds": 0 }), json!({ "rpo_warning_seconds": 9, "rpo_critical_seconds": 8 })] {
        edit(Some(newer.clone()), json!({ "policy": bad })).await.is_problem(422, "invalid_value");
    }
    edit(Some(newer.clone()), json!({ "policy": { "codec": "zstd:20" } })).await.is_problem(422, "invalid_value");
    edit(Some(newer.clone()), json!({ "name": "" })).await.is_problem(422, "invalid_value");
    let named = edit(Some(newer), json!({ "name": "db" })).await;
    assert_eq!((&named.body["policy"]["own"], &named.body["policy"]["codec"]), (&json!(true), &json!("snappy")));
    let packed = edit(Some(named.header("etag").to_owned()), json!({ "policy": { "codec": "zstd" } })).await;
    assert_eq!((packed.status, &packed.body["policy"]["wanted"]["codec"]), (200, &json!("zstd:3")), "{packed:?}");
    assert_eq!(packed.body["policy"]["rpo_warning_seconds"], 30, "an edit's policy is the whole policy");
    site.stop().await;
}

#[actix_web::test]
async fn a_paused_machine_is_let_go_of_and_a_resumed_one_has_an_owner_under_a_higher_epoch() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    let before = owned(&site, "db").await;
    site.ask("POST", "machines/db/resume", Value::Null).await.is_problem(409, "machine_not_paused");
    let paused = site.ask("POST", "machines/db/pause", Value::Null).await;
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")), "{paused:?}");
    assert_eq!(paused.body["health"]["code"], "machine_paused");
    assert!(may(&paused.body, "resume") && !may(&paused.body, "pause") && !may(&paused.body, "move"));
    assert_eq!(site.ask("POST", "machines/db/pause", Value::Null).await.status, 200, "twice is once");
    let away = |body: &Value| body["log"].is_null().then_some(());
    site.until("machines/db", away).await;
    let resumed = site.ask("POST", "machines/db/resume", Value::Null).await;
    assert_eq!((resumed.status, &resumed.body["kind"]), (202, &json!("protect")), "{resumed:?}");
    assert_eq!(resumed.body["steps"], json!(["prepare", "assign", "adopt", "redirect"]));
    assert_eq!(done(&site, &resumed.body).await["state"], "done");
    let after = owned(&site, "db").await;
    assert!(after["assignment"]["epoch"].as_u64() > before["assignment"]["epoch"].as_u64(), "{after}");
    site.stop().await;
}

#[actix_web::test]
async fn a_machine_is_removed_with_its_points_once_nobody_owns_it() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    let id = site.enrol("db").await.to_string();
    owned(&site, "db").await;
    let objects = site.dir.path().join("vault/machines").join(&id);
    assert!(objects.exists(), "the machine is in the vault");
    let begun = site.ask("DELETE", "machines/db?points=delete", Value::Null).await;
    assert_eq!((begun.status, &begun.body["kind"]), (202, &json!("delete_points")), "{begun:?}");
    let job = done(&site, &begun.body).await;
    assert_eq!(job["state"], "done", "{job}");
    let left = std::fs::read_dir(&objects).map(|entries| {
        entries.flatten().filter(|entry| entry.path().read_dir().is_ok_and(|mut files| files.next().is_some())).count()
    });
    assert_eq!(left.unwrap_or(0), 0, "nothing of it is left");
    let serve = json!({ "machine": id, "point": "latest" });
    site.ask("POST", "served-points", serve).await.is_problem(404, "point_unknown");
    site.ask("DELETE", &format!("machines/{id}?points=delete"), Value::Null).await.is_problem(404, "point_unknown");
    site.ask("DELETE", "machines/db?points=burn", Value::Null).await.is_problem(400, "malformed_request");
    site.stop().await;
}

#[actix_web::test]
async fn a_test_failover_works_while_the_agent_is_away_and_its_notes_are_kept() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    let shown = owned(&site, "db").await;
    assert_eq!(shown["agent"]["connected"], false, "no agent was ever there");
    let begun = site.ask("POST", "test-failovers", json!({ "machine": "db", "point": "latest" })).await;
    assert_eq!((begun.status, &begun.body["test_failover"]), (201, &json!(true)), "{begun:?}");
    let id = begun.body["id"].as_str().expect("an id").to_owned();
    assert_eq!(begun.header("location"), format!("/api/v1/test-failovers/{id}"));
    assert!(begun.body["exports"][0]["uri"].as_str().is_some_and(|uri| uri.starts_with("nbd+unix:")), "{begun:?}");
    assert!(may(&begun.body, "clean_up"));
    assert_eq!(site.get("test-failovers").await["items"][0]["id"], id);
    let path = format!("test-failovers/{id}/clean-up");
    let long = json!({ "notes": "x".repeat(501) });
    site.ask("POST", &path, long).await.is_problem(422, "invalid_value");
    let cleaned = site.ask("POST", &path, json!({ "notes": "fsck was clean" })).await;
    assert_eq!(cleaned.status, 204, "{cleaned:?}");
    let noted = |body: &Value| {
        let mut events = body["items"].as_array().expect("items").iter();
        events.find(|event| event["code"] == "test_failover_cleaned_up").map(|event| event["text"].clone())
    };
    let text = site.until("events", noted).await;
    assert!(text.as_str().is_some_and(|text| text.ends_with("fsck was clean")), "{text}");
    let plain = site.ask("POST", "served-points", json!({ "machine": "db", "point": "latest" })).await.body;
    let path = format!("test-failovers/{}", plain["id"].as_str().expect("an id"));
    site.ask("GET", &path, Value::Null).await.is_problem(404, "served_point_unknown");
    let missing = json!({ "machine": "db", "point": MISSING.to_string() });
    site.ask("POST", "test-failovers", missing).await.is_problem(404, "point_unknown");
    site.stop().await;
}

#[actix_web::test]
async fn a_point_is_served_by_another_process_server_while_the_owner_is_away() {
    let site = Site::start().await;
    let (owner, link) = site.join("one").await;
    site.enrol("db").await;
    owned(&site, "db").await;
    let (other, _link) = site.join("two").await;
    drop(link);
    let away = |body: &Value| (body["state"] == "away").then_some(());
    site.until(&format!("process-servers/{owner}"), away).await;
    let begun = site.ask("POST", "test-failovers", json!({ "machine": "db", "point": "latest" })).await;
    assert_eq!((begun.status, &begun.body["process_server"]), (201, &json!(other)), "{begun:?}");
    site.stop().await;
}

#[actix_web::test]
async fn a_restore_is_a_job_that_says_where_the_images_are_and_jobs_are_retried_only_when_they_failed() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    owned(&site, "db").await;
    let odd = json!({ "machine": "db", "point": "latest", "format": "vmdk" });
    site.ask("POST", "restores", odd).await.is_problem(400, "malformed_request");
    let wanted = json!({ "machine": "db", "point": point(2).mark.to_string(), "format": "qcow2" });
    let begun = site.ask("POST", "restores", wanted).await;
    assert_eq!((begun.status, &begun.body["kind"]), (202, &json!("restore")), "{begun:?}");
    let job = done(&site, &begun.body).await;
    assert_eq!((&job["state"], &job["result"]), (&json!("done"), &json!("/var/lib/farshore/restored/1")), "{job}");
    assert_eq!(job["progress"], json!({ "done_bytes": 1 << 20, "total_bytes": 1 << 20 }));
    let path = format!("jobs/{}", job["id"].as_str().expect("an id"));
    site.ask("POST", &format!("{path}/cancel"), Value::Null).await.is_problem(409, "job_not_cancellable");
    site.ask("POST", &format!("{path}/retry"), Value::Null).await.is_problem(409, "job_not_retryable");
    site.stop().await;
}

#[actix_web::test]
async fn a_job_that_waits_is_called_off_and_done_again_when_it_can_be() {
    let site = Site::start().await;
    let (owner, link) = site.join("one").await;
    site.enrol("db").await;
    owned(&site, "db").await;
    drop(link);
    let away = |body: &Value| (body["state"] == "away").then_some(());
    site.until(&format!("process-servers/{owner}"), away).await;
    let begun = site.ask("POST", "restores", json!({ "machine": "db", "point": "latest" })).await;
    assert!(may(&begun.body, "cancel"), "{begun:?}");
    let path = format!("jobs/{}", begun.body["id"].as_str().expect("an id"));
    let cancelled = site.ask("POST", &format!("{path}/cancel"), Value::Null).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (200, &json!("cancelled")), "{cancelled:?}");
    let (_, _link) = site.join("two").await;
    let again = site.ask("POST", &format!("{path}/retry"), Value::Null).await;
    assert_eq!(again.status, 202, "{again:?}");
    assert_ne!(again.body["id"], begun.body["id"]);
    site.stop().await;
}

#[actix_web::test]
async fn retention_is_a_policy_whose_plan_is_shown_before_and_points_are_held_by_operators() {
    let site = Site::start().await;
    let (_, _link) = site.join("one").await;
    site.enrol("db").await;
    let shown = owned(&site, "db").await;
    assert_eq!(shown["policy"]["retention"], "all:2h,1h:1d,2h:7d,4h:15d");
    let plan_by = |ladder: &str| {
        let path = format!("/api/v1/machines/db/retention?ladder={ladder}");
        site.send(site.bare("GET", &path).bearer_auth(&site.admin))
    };
    let plan = plan_by("all:1h,1d:2y").await;
    assert_eq!((plan.status, &plan.body["ladder"]), (200, &json!("all:1h,1d:730d")), "{plan:?}");
    assert_eq!((&plan.body["dropped"], &plan.body["kept"][0]["points"]), (&json!(1), &json!(4)));
    plan_by("often").await.is_problem(422, "invalid_value");
    let edit = |etag: &str, retention: &str| {
        let body = json!({ "policy": { "retention": retention } });
        let request = site.bare("PATCH", "/api/v1/machines/db").bearer_auth(&site.admin).json(&body);
        site.send(request.header("if-match", etag.to_owned()))
    };
    let etag = shown["etag"].as_str().expect("an etag");
    edit(etag, "1h:1d,all:2h").await.is_problem(422, "invalid_value");
    let edited = edit(etag, "all:1h,1d:1y").await;
    assert_eq!((edited.status, &edited.body["policy"]["retention"]), (200, &json!("all:1h,1d:365d")), "{edited:?}");

    let hold =
        |body: Value| site.send(site.bare("POST", "/api/v1/machines/db/holds").bearer_auth(&site.admin).json(&body));
    let held =
        hold(json!({ "point": "latest", "reason": "before the upgrade", "expires_at": "2999-01-01T00:00:00Z" })).await;
    assert_eq!((held.status, &held.body["kind"]), (201, &json!("hold")), "{held:?}");
    assert_eq!(held.body["expires_at"], "2999-01-01T00:00:00Z");
    hold(json!({ "point": "latest", "reason": "late", "expires_at": "1999-01-01T00:00:00Z" }))
        .await
        .is_problem(422, "invalid_value");
    hold(json!({ "point": "latest", "reason": "" })).await.is_problem(422, "invalid_value");
    let release = |id: &str| {
        let path = format!("/api/v1/machines/db/holds/{id}");
        site.send(site.bare("DELETE", &path).bearer_auth(&site.admin))
    };
    assert_eq!(release(held.body["id"].as_str().expect("an id")).await.status, 204);
    release("reader-1").await.is_problem(404, "hold_unknown");
    site.stop().await;
}

#[actix_web::test]
async fn what_scrubbing_found_is_told_and_a_log_is_read_again_on_demand() {
    let site = Site::start().await;
    site.enrol("db").await;
    let path = "machines/db/scrub";
    let ask = || site.ask("GET", path, Value::Null);
    ask().await.is_problem(409, "machine_unassigned");
    let (_, _link) = site.join("one").await;
    owned(&site, "db").await;
    let told = ask().await;
    assert_eq!((told.status, &told.body["damaged_objects"], &told.body["ended_at"]), (200, &json!(1), &Value::Null));
    assert_eq!(told.body["damaged"][0]["stays"], "there is no copy of it");
    assert_eq!(site.ask("POST", path, Value::Null).await.status, 202);
    assert_eq!(site.ask("POST", "machines/db/resync", Value::Null).await.status, 202);
    site.ask("POST", "machines/none/resync", Value::Null).await.is_problem(404, "machine_unknown");
    let events = site.ask("GET", "events", Value::Null).await;
    assert!(events.body.to_string().contains("resync_asked"), "{}", events.body);
    let metrics = site.bare("GET", "/metrics").bearer_auth(&site.admin).send().await.expect("an answer");
    let text = metrics.text().await.expect("text");
    assert!(
        text.contains("farshore_machine_damaged_objects{") && text.contains("farshore_machine_live_segments{"),
        "{text}"
    );
    site.stop().await;
}

#[actix_web::test]
async fn who_may_open_the_vault_is_an_admins_to_see() {
    let site = Site::start().await;
    let keys = site.get("vault-keys").await;
    assert_eq!((&keys["generation"], &keys["slots"]), (&json!(1), &json!(["recovery"])), "{keys}");
    let made = site.ask("POST", "api-tokens", json!({ "role": "operator", "label": "night shift" })).await;
    let token = made.body["token"].as_str().expect("a token");
    site.ask_as(token, "GET", "vault-keys", Value::Null).await.is_problem(403, "forbidden");
    site.stop().await;
}
