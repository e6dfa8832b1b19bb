//! Webhooks through the shell.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{self, Column};
use crate::exit::Failure;

/// What is done to webhooks.
#[derive(Debug, Subcommand)]
pub(super) enum WebhookVerb {
    /// List webhooks, without their secrets.
    List,
    /// Show one webhook.
    Show {
        /// Its id.
        id: u64,
    },
    /// Make a webhook. Its secret is shown once.
    Create {
        /// Where it is told: https, or plain http on the configuration server's own host.
        url: String,
        /// What to call it.
        #[arg(long)]
        label: String,
        /// Take plain http to another host: everybody on the way sees what is told.
        #[arg(long)]
        allow_plain_http: bool,
    },
    /// End a webhook. What it was not told yet is forgotten.
    Delete {
        /// Its id.
        id: u64,
    },
    /// Tell it nothing, to see whether it arrives.
    Test {
        /// Its id.
        id: u64,
    },
    /// What it was told and will be, newest first.
    Deliveries {
        /// Its id.
        id: u64,
        /// Most of them.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

impl WebhookVerb {
    /// Whether it changes nothing.
    pub(super) fn looks(&self) -> bool {
        matches!(self, Self::List | Self::Show { .. } | Self::Deliveries { .. })
    }

    /// How its answer is shown.
    pub(super) fn columns(&self) -> &'static [Column] {
        match self {
            Self::List => table::WEBHOOKS,
            Self::Deliveries { .. } => table::DELIVERIES,
            _ => &[],
        }
    }
}

/// Asks the API.
pub(super) async fn perform(client: &Client, verb: &WebhookVerb) -> Result<Value, Failure> {
    match verb {
        WebhookVerb::List => client.list("webhooks", usize::MAX).await,
        WebhookVerb::Show { id } => client.get(&format!("webhooks/{id}")).await,
        WebhookVerb::Create { url, label, allow_plain_http } => {
            let body = json!({ "url": url, "label": label, "allow_plain_http": allow_plain_http });
            client.post("webhooks", &body).await
        }
        WebhookVerb::Delete { id } => client.delete(&format!("webhooks/{id}")).await,
        WebhookVerb::Test { id } => client.post(&format!("webhooks/{id}/test"), &json!({})).await,
        WebhookVerb::Deliveries { id, limit } => client.list(&format!("webhooks/{id}/deliveries"), *limit).await,
    }
}
