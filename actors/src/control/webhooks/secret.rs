//! Webhooks' secrets: made from one key of the installation and a salt of each webhook, so that none is at rest.
//!
//! The key lies in a 0600 file of the state directory. It is not in the vault's catalog: a configuration server that is
//! brought back elsewhere cannot sign, says so with each delivery, and its webhooks are made anew.

use std::path::Path;

use farshore_engine::ids::Chance as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::control::ledger::tokens::hex;
use crate::control::ledger::webhooks::Webhook;
use crate::control::secret_file::{self, SecretFileError};
use crate::supervise::OsChance;

/// What secrets begin with: a leaked one is known for what it is.
const PREFIX: &str = "farshore-webhook";

/// What the webhooks' secrets are made from.
#[derive(Clone)]
pub struct WebhookKey(Zeroizing<String>);

impl WebhookKey {
    /// The key in this file; one is made where there is none.
    pub fn open(path: &Path) -> Result<Self, SecretFileError> {
        if let Some(key) = secret_file::read(path)? {
            return Ok(Self(Zeroizing::new(key.trim().to_owned())));
        }
        let mut key = Zeroizing::new([0; 32]);
        OsChance.fill(&mut *key);
        let key = Zeroizing::new(hex(&*key));
        secret_file::write(path, key.as_bytes())?;
        Ok(Self(key))
    }

    /// The secret of this salt.
    pub(crate) fn secret(&self, salt: &str) -> Secret {
        Secret(Zeroizing::new(format!("{PREFIX}-{}", hmac(self.0.as_bytes(), &[salt.as_bytes()]))))
    }

    /// A webhook's secret; `None`: it was made with another key.
    pub(crate) fn secret_of(&self, webhook: &Webhook) -> Option<Secret> {
        let secret = self.secret(&webhook.salt);
        (secret.sha256() == webhook.secret_sha256).then_some(secret)
    }
}

impl std::fmt::Debug for WebhookKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookKey(not shown)")
    }
}

/// A webhook's secret.
pub(crate) struct Secret(Zeroizing<String>);

impl Secret {
    /// As it is shown, once.
    pub(crate) fn text(&self) -> Zeroizing<String> {
        self.0.clone()
    }

    /// What is remembered of it.
    pub(crate) fn sha256(&self) -> String {
        hex(&Sha256::digest(self.0.as_bytes()))
    }

    /// The header of a body that is sent at this second.
    pub(crate) fn signature(&self, at_seconds: i64, body: &str) -> String {
        let signed = hmac(self.0.as_bytes(), &[at_seconds.to_string().as_bytes(), b".", body.as_bytes()]);
        format!("t={at_seconds},v1={signed}")
    }
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> String {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| hmac.update(part));
    hex(&hmac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_0600_and_each_salt_has_a_secret_of_its_own() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("webhook.key");
        let (made, again) = (WebhookKey::open(&path).expect("made"), WebhookKey::open(&path).expect("read"));
        assert_eq!(made.secret("a").text(), again.secret("a").text());
        assert_ne!(made.secret("a").text(), made.secret("b").text());
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert!(!format!("{made:?}").contains(made.0.as_str()));
    }

    /// Checked with `printf '1700000000.{}' | openssl dgst -sha256 -hmac secret`.
    #[test]
    fn the_signature_is_what_any_other_hmac_says() {
        let secret = Secret(Zeroizing::new("secret".into()));
        let expected = "b8569b78799ff9e3cbff0fc2d63a33a2b57f3282abd07c37ae5e8e7d79a5f163";
        assert_eq!(secret.signature(1_700_000_000, "{}"), format!("t=1700000000,v1={expected}"));
    }
}
