//! Tokens through the shell: to join, and to call the API.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::Client;
use crate::exit::Failure;

/// What is done to tokens.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// List tokens, without their texts.
    List {
        /// Join tokens instead of API tokens.
        #[arg(long)]
        join: bool,
    },
    /// End a token.
    Revoke {
        /// Its id.
        id: String,
        /// It is a join token.
        #[arg(long)]
        join: bool,
    },
    /// Make a token. Its text is shown once.
    Create {
        /// Who joins with it, or what its bearer may.
        #[arg(long, value_enum)]
        role: TokenRole,
        /// What to call it.
        #[arg(long)]
        label: Option<String>,
        /// How long it is valid, in seconds.
        #[arg(long)]
        valid_for_seconds: Option<u64>,
        /// How often a join token may be used.
        #[arg(long)]
        uses: Option<u32>,
        /// What the join command calls the member.
        #[arg(long)]
        name: Option<String>,
        /// Disks that the join command protects, each NAME=PATH.
        #[arg(long = "disk", value_name = "NAME=PATH")]
        disks: Vec<String>,
    },
}

/// Who a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TokenRole {
    Machine,
    ProcessServer,
    Viewer,
    Operator,
    Admin,
}

/// Makes a token; its text is in the answer.
pub(super) async fn create_token(client: &Client, command: &TokenCommand) -> Result<Value, Failure> {
    let TokenCommand::Create { role, label, valid_for_seconds, uses, name: member, disks } = command else {
        return Err(Failure::usage("only `token create` makes a token"));
    };
    let joins = matches!(role, TokenRole::Machine | TokenRole::ProcessServer);
    if !joins && (member.is_some() || !disks.is_empty()) {
        return Err(Failure::usage("--name and --disk are for join tokens: they stand in the command that joins"));
    }
    if uses.is_some() && !joins {
        return Err(Failure::usage("--uses is for join tokens: API tokens are used as often as one likes"));
    }
    let name = role.to_possible_value().map(|value| value.get_name().to_owned());
    let mut body = json!({ "role": name });
    if let Some(label) = label {
        body["label"] = json!(label);
    } else if !joins {
        body["label"] = json!(format!("made with ctl ({})", name.unwrap_or_default()));
    }
    if let Some(seconds) = valid_for_seconds {
        body["valid_for_seconds"] = json!(seconds);
    }
    if let Some(uses) = uses {
        body["uses"] = json!(uses);
    }
    if let Some(member) = member {
        body["name"] = json!(member);
    }
    if !disks.is_empty() {
        body["disks"] = json!(disks);
    }
    client.post(if joins { "join-tokens" } else { "api-tokens" }, &body).await
}
