//! Webhooks against a receiver of this test's own, which says no before it says yes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{Site, WITHIN};

/// A request that came.
#[derive(Debug, Clone)]
struct Heard {
    headers: BTreeMap<String, String>,
    body: String,
}

impl Heard {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// As a receiver checks it.
    fn is_signed_with(&self, secret: &str) -> bool {
        let signature = &self.headers["farshore-signature"];
        let (time, signed) = signature.split_once(",v1=").expect("two parts");
        let time = time.strip_prefix("t=").expect("a time");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        assert!(time.parse::<u64>().expect("seconds").abs_diff(now) < 300, "{signature}");
        let mut hmac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
        hmac.update(format!("{time}.{}", self.body).as_bytes());
        let expected: String = hmac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        expected == signed
    }
}

/// Takes requests; the first few are refused.
#[derive(Clone)]
struct Receiver {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Receiver {
    async fn start(address: SocketAddr, refuse: usize) -> Self {
        let listener = TcpListener::bind(address).await.expect("the port");
        let address = listener.local_addr().expect("bound");
        let heard = Arc::new(Mutex::new(Vec::new()));
        let notes = heard.clone();
        actix_web::rt::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let refused = notes.lock().expect("not poisoned").len() < refuse;
                if let Some(request) = take(stream, refused).await {
                    notes.lock().expect("not poisoned").push(request);
                }
            }
        });
        Self { address, heard }
    }

    fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    fn heard(&self) -> Vec<Heard> {
        self.heard.lock().expect("not poisoned").clone()
    }

    async fn until(&self, what: &str, wanted: impl Fn(&[Heard]) -> bool) -> Vec<Heard> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < WITHIN {
            let heard = self.heard();
            if wanted(&heard) {
                return heard;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        panic!("waited in vain for {what}: {:?}", self.heard());
    }
}

async fn take(stream: TcpStream, refuse: bool) -> Option<Heard> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).await.ok()?;
    assert!(first.starts_with("POST /hook "), "{first}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).await.ok()?;
    let status = if refuse { "503 Service Unavailable" } else { "204 No Content" };
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    reader.get_mut().write_all(answer.as_bytes()).await.ok()?;
    Some(Heard { headers, body: String::from_utf8(body).ok()? })
}

fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

async fn made(site: &Site, url: &str) -> (String, String) {
    let made = site.ask("POST", "webhooks", json!({ "label": "pager", "url": url })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let text = |field: &str| made.body[field].as_str().expect("a text").to_owned();
    assert_eq!(made.header("location"), format!("/api/v1/webhooks/{}", text("id")));
    (text("id"), text("secret"))
}

#[actix_web::test]
async fn a_webhook_is_told_signed_and_again_until_it_says_yes_and_shows_how_far_it_is() {
    let site = Site::start().await;
    let receiver = Receiver::start(anywhere(), 2).await;
    let (id, secret) = made(&site, &receiver.url()).await;
    assert!(!site.get("webhooks").await.to_string().contains(&secret), "a secret is shown once");
    assert!(!site.get(&format!("webhooks/{id}")).await.to_string().contains(&secret));

    let queued = site.ask("POST", &format!("webhooks/{id}/test"), json!({})).await;
    assert_eq!((queued.status, &queued.body["event"]), (202, &json!("test")));
    let heard = receiver.until("the third attempt", |heard| heard.len() >= 3).await;
    let (first, third) = (&heard[0], &heard[2]);
    assert_eq!(first.body, third.body, "each attempt says the same");
    assert_eq!(first.headers["farshore-delivery"], third.headers["farshore-delivery"]);
    assert_eq!(third.headers["farshore-delivery"], queued.body["id"]);
    assert!(third.is_signed_with(&secret) && !third.is_signed_with("another secret"));
    assert_eq!(third.json()["event"], "test");

    let path = format!("webhooks/{id}/deliveries");
    let delivered = |list: &Value| (list["items"][0]["state"] == "delivered").then(|| list["items"][0].clone());
    let delivery = site.until(&path, delivered).await;
    assert_eq!((&delivery["attempts"], &delivery["status"]), (&json!(3), &json!(204)));
    assert_eq!(site.get(&format!("webhooks/{id}")).await["state"], "delivered");
    assert_eq!(site.ask("DELETE", &format!("webhooks/{id}"), Value::Null).await.status, 204);
    site.ask("GET", &format!("webhooks/{id}"), Value::Null).await.is_problem(404, "webhook_unknown");
    site.stop().await;
}

#[actix_web::test]
async fn a_change_of_health_is_told_once_with_its_cause_and_again_when_it_is_over() {
    let site = Site::start().await;
    let receiver = Receiver::start(anywhere(), 0).await;
    let (_, secret) = made(&site, &receiver.url()).await;
    let heard = receiver.until("what is not normal", |heard| !heard.is_empty()).await;
    let told = heard[0].json();
    assert!(heard[0].is_signed_with(&secret));
    assert_eq!((&told["event"], &told["subject"]["kind"]), (&json!("health_changed"), &json!("installation")));
    assert_eq!((&told["health"]["before"], &told["health"]["level"]), (&json!("normal"), &json!("warning")));
    assert_eq!(told["health"]["code"], "no_process_server");
    let (_, _link) = site.join("far").await;
    let over = |heard: &[Heard]| {
        heard.iter().any(|heard| {
            let told = heard.json();
            told["subject"]["kind"] == "installation" && told["health"]["level"] == "normal"
        })
    };
    let heard = receiver.until("its end", over).await;
    let of = |heard: &&Heard| heard.json()["subject"]["kind"] == "installation";
    assert_eq!(heard.iter().filter(of).count(), 2, "told once, and once that it is over: {heard:?}");
    site.stop().await;
}

#[actix_web::test]
async fn what_a_webhook_was_not_told_yet_survives_a_restart() {
    let site = Site::start().await;
    // Nobody listens there for now.
    let address = TcpListener::bind(anywhere()).await.expect("a port").local_addr().expect("bound");
    let (id, secret) = made(&site, &format!("http://{address}/hook")).await;
    let queued = site.ask("POST", &format!("webhooks/{id}/test"), json!({})).await;
    let failed = |list: &Value| {
        let items = list["items"].as_array().expect("items");
        items.iter().any(|item| item["trouble"].is_string() && item["state"] == "pending").then_some(())
    };
    site.until(&format!("webhooks/{id}/deliveries"), failed).await;
    assert_eq!(site.get(&format!("webhooks/{id}")).await["state"], "retrying");

    let site = site.start_again().await;
    let receiver = Receiver::start(address, 0).await;
    let wanted = |heard: &[Heard]| heard.iter().any(|heard| heard.headers["farshore-delivery"] == queued.body["id"]);
    let heard = receiver.until("what was queued before the restart", wanted).await;
    assert!(heard.iter().all(|heard| heard.is_signed_with(&secret)), "the secret is still the same");
    site.stop().await;
}

#[actix_web::test]
async fn webhooks_are_an_admins_and_their_addresses_are_looked_at() {
    let site = Site::start().await;
    let token = site.ask("POST", "api-tokens", json!({ "role": "operator", "label": "o" })).await;
    let token = token.body["token"].as_str().expect("a token");
    for (method, path) in [("GET", "webhooks"), ("POST", "webhooks"), ("GET", "webhooks/1"), ("DELETE", "webhooks/1")] {
        site.ask_as(token, method, path, json!({ "label": "a", "url": "https://x.example" }))
            .await
            .is_problem(403, "forbidden");
    }
    let ask = |url: &str, more: bool| {
        site.ask("POST", "webhooks", json!({ "label": "a", "url": url, "allow_plain_http": more }))
    };
    for bad in ["http://pager.example/", "gopher://127.0.0.1/", "https://user:secret@pager.example/", "pager"] {
        ask(bad, false).await.is_problem(422, "invalid_value");
    }
    assert_eq!(ask("http://pager.example/", true).await.status, 201);
    site.ask("POST", "webhooks/4711/test", json!({})).await.is_problem(404, "webhook_unknown");
    site.ask("GET", "webhooks/4711/deliveries", Value::Null).await.is_problem(404, "webhook_unknown");
    site.stop().await;
}
