//! Telling others of changes of health: signed requests that are tried until they arrive.
//!
//! ```text
//!   live picture + ledger ─► WebhookKeeper ── TellHealth ──► ledger (a delivery for each webhook, durable)
//!                                 │ the oldest that is due, one for each webhook at a time
//!                                 ▼
//!                               Post (port; HTTP lives in `web`) ── Tried ──► ledger
//! ```
//!
//! A receiver checks `Farshore-Signature: t=<seconds>,v1=<hex>` against HMAC-SHA256 of `<t>.<body>` under the secret that
//! was shown when the webhook was made, refuses old times, and takes each `Farshore-Delivery` once: what was not answered
//! in time is sent again with the same number and body.

pub mod body;
pub mod keeper;
pub mod secret;

use async_trait::async_trait;

/// A request to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Where to.
    pub url: String,
    /// Headers besides the content's type, which is JSON.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// Sends requests to webhooks.
#[async_trait]
pub trait Post: Send + Sync {
    /// Sends it, follows nothing, and gives the status of the answer; an error says why there is none. Takes some
    /// seconds at most.
    async fn post(&self, parcel: Parcel) -> Result<u16, String>;
}
