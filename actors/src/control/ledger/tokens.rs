//! Join tokens and API tokens: 256 random bits, of which only the SHA-256 is kept.
//!
//! ```text
//!   farshore-join-<id, 16 hex>-<secret, 64 hex>        farshore-api-<id, 16 hex>-<secret, 64 hex>
//! ```

use std::time::Duration;

use farshore_engine::control::messages::{MemberRole, Severity};
use farshore_engine::ids::{Chance, Timestamp};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::records::{ApiRole, ApiToken, JoinToken, Subject, TokenId};
use super::{Decision, Draft, Ledger, check_label};
use crate::control::fault::{Fault, FaultCode};

const JOIN: &str = "farshore-join";
const API: &str = "farshore-api";
/// Longest life of a join token.
pub const JOIN_TOKEN_VALID_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most uses of a join token.
pub const JOIN_TOKEN_USES_MAX: u32 = 10_000;

/// Makes a join token.
pub struct CreateJoinToken {
    /// Who may join with it.
    pub role: MemberRole,
    /// What the operator calls it; may be empty.
    pub label: String,
    /// How long it is valid.
    pub valid_for: Duration,
    /// How often it may be used.
    pub uses_max: u32,
    /// Who asks.
    pub by: String,
}

impl Decision for CreateJoinToken {
    type Outcome = (JoinToken, Zeroizing<String>);

    fn decide(self, draft: &mut Draft<'_>) -> Result<Self::Outcome, Fault> {
        let invalid = |detail: String| Err(Fault::new(FaultCode::InvalidValue, detail));
        if !self.label.is_empty() {
            check_label(&self.label, "a token's label")?;
        }
        if self.valid_for.is_zero() || self.valid_for > JOIN_TOKEN_VALID_MAX {
            return invalid(format!(
                "a join token is valid for 1 second to {} days",
                JOIN_TOKEN_VALID_MAX.as_secs() / 86_400
            ));
        }
        if !(1..=JOIN_TOKEN_USES_MAX).contains(&self.uses_max) {
            return invalid(format!("a join token may be used 1 to {JOIN_TOKEN_USES_MAX} times"));
        }
        let (id, sha256, text) = draw(JOIN, draft.chance);
        let expires_at = after(draft.now, self.valid_for);
        let token = JoinToken {
            id,
            sha256,
            role: self.role,
            label: self.label,
            created_at: draft.now,
            expires_at,
            uses_max: self.uses_max,
            uses: 0,
        };
        forget_expired(draft);
        draft.put(&token);
        let text_of_event = format!("{} made a join token for a {}.", self.by, self.role.name());
        draft.event(Severity::Info, "join_token_created", Subject::Installation, text_of_event);
        Ok((token, text))
    }
}

fn after(now: Timestamp, time: Duration) -> Timestamp {
    Timestamp(now.0.saturating_add(i64::try_from(time.as_micros()).unwrap_or(i64::MAX)))
}

/// Tokens that ended a day ago are of no more use, not even to say that they ended.
fn forget_expired(draft: &mut Draft<'_>) {
    let before = draft.now.0.saturating_sub(24 * 3600 * 1_000_000);
    let old: Vec<TokenId> =
        draft.ledger.join_tokens.iter().filter(|token| token.expires_at.0 < before).map(|token| token.id).collect();
    old.iter().for_each(|id| draft.delete::<JoinToken>(id));
}

/// Ends a join token.
pub struct RevokeJoinToken {
    /// Which.
    pub id: TokenId,
    /// Who asks.
    pub by: String,
}

impl Decision for RevokeJoinToken {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        if draft.ledger.join_tokens.get(&self.id).is_none() {
            return Err(Fault::new(FaultCode::TokenUnknown, format!("join token {:016x}", self.id.0)));
        }
        draft.delete::<JoinToken>(&self.id);
        let text = format!("{} revoked a join token.", self.by);
        draft.event(Severity::Info, "join_token_revoked", Subject::Installation, text);
        Ok(())
    }
}

/// Makes a bearer token.
pub struct CreateApiToken {
    /// What it allows.
    pub role: ApiRole,
    /// Whose it is.
    pub label: String,
    /// How long it is valid; `None`: until it is revoked.
    pub valid_for: Option<Duration>,
    /// Who asks.
    pub by: String,
}

impl Decision for CreateApiToken {
    type Outcome = (ApiToken, Zeroizing<String>);

    fn decide(self, draft: &mut Draft<'_>) -> Result<Self::Outcome, Fault> {
        check_label(&self.label, "a token's label")?;
        let (id, sha256, text) = draw(API, draft.chance);
        let now = draft.now;
        let expires_at = self.valid_for.map(|valid| after(now, valid));
        let token = ApiToken { id, sha256, role: self.role, label: self.label, created_at: now, expires_at };
        draft.put(&token);
        let text_of_event = format!("{} made an API token for '{}'.", self.by, token.label);
        draft.event(Severity::Info, "api_token_created", Subject::Installation, text_of_event);
        Ok((token, text))
    }
}

/// Ends a bearer token.
pub struct RevokeApiToken {
    /// Which.
    pub id: TokenId,
    /// Who asks.
    pub by: String,
}

impl Decision for RevokeApiToken {
    type Outcome = ();

    fn decide(self, draft: &mut Draft<'_>) -> Result<(), Fault> {
        let Some(token) = draft.ledger.api_tokens.get(&self.id) else {
            return Err(Fault::new(FaultCode::TokenUnknown, format!("API token {:016x}", self.id.0)));
        };
        let admins = draft.ledger.api_tokens.iter().filter(|other| other.role == ApiRole::Admin).count();
        if token.role == ApiRole::Admin && admins == 1 {
            let detail = "this is the last admin token: make another one first";
            return Err(Fault::new(FaultCode::InvalidValue, detail));
        }
        draft.delete::<ApiToken>(&self.id);
        let text = format!("{} revoked the API token of '{}'.", self.by, token.label);
        draft.event(Severity::Info, "api_token_revoked", Subject::Installation, text);
        Ok(())
    }
}

/// The join token that `text` is, if it may be used now by somebody of this role who is not a member yet.
pub fn check_join(ledger: &Ledger, text: &str, role: MemberRole, now: Timestamp) -> Result<JoinToken, Fault> {
    let token = known_join(ledger, text, role)?;
    if token.expires_at <= now {
        return Err(Fault::new(FaultCode::TokenExpired, format!("join token {:016x}", token.id.0)));
    }
    if token.uses >= token.uses_max {
        let detail = format!("join token {:016x} may be used {} times", token.id.0, token.uses_max);
        return Err(Fault::new(FaultCode::TokenUsedUp, detail));
    }
    Ok(token)
}

/// The join token that `text` is, whether or not it may still be used.
pub fn known_join(ledger: &Ledger, text: &str, role: MemberRole) -> Result<JoinToken, Fault> {
    let unknown = || Fault::new(FaultCode::TokenUnknown, "no join token of this installation has this text");
    let (id, sha256) = parse(JOIN, text).ok_or_else(unknown)?;
    let token = ledger.join_tokens.get(&id).filter(|token| token.sha256 == sha256).ok_or_else(unknown)?;
    if token.role != role {
        let detail = format!("it is for a {}, not for a {}", token.role.name(), role.name());
        return Err(Fault::new(FaultCode::TokenWrongRole, detail));
    }
    Ok(token.clone())
}

/// The bearer token that `text` is, if it is valid now.
pub fn check_api(ledger: &Ledger, text: &str, now: Timestamp) -> Option<ApiToken> {
    let (id, sha256) = parse(API, text)?;
    let token = ledger.api_tokens.get(&id).filter(|token| token.sha256 == sha256)?;
    token.expires_at.is_none_or(|at| at > now).then(|| token.clone())
}

fn draw(prefix: &str, chance: &mut dyn Chance) -> (TokenId, String, Zeroizing<String>) {
    let (mut id, mut secret) = ([0; 8], Zeroizing::new([0; 32]));
    chance.fill(&mut id);
    chance.fill(&mut *secret);
    let id = TokenId(u64::from_be_bytes(id));
    let secret = Zeroizing::new(hex(&*secret));
    (id, hash(&secret), Zeroizing::new(format!("{prefix}-{:016x}-{}", id.0, *secret)))
}

/// Id and hash of the secret of a token's text.
fn parse(prefix: &str, text: &str) -> Option<(TokenId, String)> {
    let (id, secret) = text.strip_prefix(prefix)?.strip_prefix('-')?.split_once('-')?;
    let hexadecimal = |part: &str, digits| part.len() == digits && part.bytes().all(|c| c.is_ascii_hexdigit());
    if !hexadecimal(id, 16) || !hexadecimal(secret, 64) {
        return None;
    }
    Some((TokenId(u64::from_str_radix(id, 16).ok()?), hash(secret)))
}

/// The secret has 256 random bits: nothing slower than one SHA-256 is needed, and comparing hashes leaks nothing of use.
fn hash(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
