//! Retention and holds through the shell.

use clap::Subcommand;
use serde_json::{Value, json};

use super::client::Client;
use super::table::{self, Column};
use crate::exit::Failure;

/// What is done about points that stay.
#[derive(Debug, Subcommand)]
pub(super) enum HoldVerb {
    /// List what keeps points of a machine, whatever its retention says.
    List {
        /// Name or id.
        machine: String,
    },
    /// Keep a point.
    Add {
        /// Name or id.
        machine: String,
        /// `latest`, a point's id, or an RFC 3339 time.
        point: String,
        /// Why.
        #[arg(long)]
        reason: String,
        /// When it ends by itself, RFC 3339.
        #[arg(long, value_name = "TIME")]
        until: Option<String>,
    },
    /// End a hold: its point goes when retention no longer wants it.
    Release {
        /// Name or id.
        machine: String,
        /// The hold's id.
        hold: String,
    },
}

impl HoldVerb {
    /// Whether it changes nothing.
    pub(super) fn looks(&self) -> bool {
        matches!(self, Self::List { .. })
    }

    /// How its answer is shown.
    pub(super) fn columns(&self) -> &'static [Column] {
        if self.looks() { table::HOLDS } else { &[] }
    }
}

/// Asks the API.
pub(super) async fn perform(client: &Client, verb: &HoldVerb) -> Result<Value, Failure> {
    match verb {
        HoldVerb::List { machine } => {
            let mut plan = plan(client, machine, None).await?;
            Ok(json!({ "items": plan["holds"].take() }))
        }
        HoldVerb::Add { machine, point, reason, until } => {
            let id = client.machine_id(machine).await?;
            let mut body = json!({ "point": point, "reason": reason });
            if let Some(until) = until {
                body["expires_at"] = json!(until);
            }
            client.post(&format!("machines/{id}/holds"), &body).await
        }
        HoldVerb::Release { machine, hold } => {
            let id = client.machine_id(machine).await?;
            client.delete(&format!("machines/{id}/holds/{hold}")).await
        }
    }
}

/// What retention would do, by the machine's ladder or by another.
pub(super) async fn plan(client: &Client, machine: &str, ladder: Option<&str>) -> Result<Value, Failure> {
    let id = client.machine_id(machine).await?;
    let query = ladder.map_or_else(String::new, |ladder| format!("?ladder={ladder}"));
    client.get(&format!("machines/{id}/retention{query}")).await
}
