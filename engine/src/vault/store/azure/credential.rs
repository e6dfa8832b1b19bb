//! What proves to Azure who we are. Secrets are held in types that print nothing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use azure_core::credentials::{Secret, TokenCredential};
use azure_core::http::ClientOptions;
use azure_identity::{
    AzureCliCredential, AzureCliCredentialOptions, ClientAssertionCredentialOptions, ClientSecretCredential,
    ClientSecretCredentialOptions, ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId,
    WorkloadIdentityCredential, WorkloadIdentityCredentialOptions,
};

/// A credential that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the {which} cannot be used: {why}")]
pub struct CredentialError {
    which: &'static str,
    why: String,
}

/// How the store proves who it is.
#[derive(Clone)]
pub enum AzureCredential {
    /// The account's key, in base64.
    SharedKey(Secret),
    /// A shared access signature: the query of a SAS URL, without the question mark.
    Sas(Secret),
    /// The identity that Azure gives this host; a user-assigned one by its client id.
    ManagedIdentity {
        /// Of a user-assigned identity.
        client_id: Option<String>,
    },
    /// A Kubernetes service account's token, exchanged. What is `None` comes from the pod's environment.
    WorkloadIdentity {
        /// The tenant.
        tenant_id: Option<String>,
        /// The application.
        client_id: Option<String>,
        /// Where the token lies.
        token_file: Option<PathBuf>,
    },
    /// An application with a secret.
    ClientSecret {
        /// The tenant.
        tenant_id: String,
        /// The application.
        client_id: String,
        /// Its secret.
        secret: Secret,
    },
    /// Whoever is logged in to the Azure CLI.
    Cli,
}

impl AzureCredential {
    /// An account key, as the portal shows it.
    ///
    /// # Errors
    /// A text that is no base64.
    pub fn shared_key(text: &str) -> Result<Self, CredentialError> {
        let text = text.trim();
        let decoded = azure_core::base64::decode(text).is_ok_and(|key| !key.is_empty());
        let why = || CredentialError { which: "account key", why: "it is no base64 text".into() };
        decoded.then(|| Self::SharedKey(Secret::new(text.to_owned()))).ok_or_else(why)
    }

    /// A shared access signature: a token, or a whole SAS URL.
    ///
    /// # Errors
    /// A text without a signature.
    pub fn sas(text: &str) -> Result<Self, CredentialError> {
        let token = text.trim().rsplit('?').next().unwrap_or_default();
        let signed = token.split('&').any(|pair| pair.starts_with("sig=") && pair.len() > 4);
        let why = || CredentialError { which: "SAS", why: "it has no signature (sig=…)".into() };
        signed.then(|| Self::Sas(Secret::new(token.to_owned()))).ok_or_else(why)
    }

    /// An application with its secret.
    pub fn client_secret(tenant_id: String, client_id: String, secret: &str) -> Self {
        Self::ClientSecret { tenant_id, client_id, secret: Secret::new(secret.trim().to_owned()) }
    }

    /// A source of Entra ID tokens, for the kinds that need one. `client` carries its requests.
    pub(super) fn tokens(&self, client: &ClientOptions) -> Result<Option<Arc<dyn TokenCredential>>, CredentialError> {
        let client_options = client.clone();
        let made: azure_core::Result<Arc<dyn TokenCredential>> = match self.clone() {
            Self::SharedKey(_) | Self::Sas(_) => return Ok(None),
            Self::ManagedIdentity { client_id } => {
                let user_assigned_id = client_id.map(UserAssignedId::ClientId);
                let options = ManagedIdentityCredentialOptions { user_assigned_id, client_options };
                ManagedIdentityCredential::new(Some(options)).map(|it| it as _)
            }
            Self::WorkloadIdentity { tenant_id, client_id, token_file: token_file_path } => {
                let credential_options = ClientAssertionCredentialOptions { client_options };
                let options =
                    WorkloadIdentityCredentialOptions { credential_options, client_id, tenant_id, token_file_path };
                WorkloadIdentityCredential::new(Some(options)).map(|it| it as _)
            }
            Self::ClientSecret { tenant_id, client_id, secret } => {
                let options = ClientSecretCredentialOptions { client_options };
                ClientSecretCredential::new(&tenant_id, client_id, secret, Some(options)).map(|it| it as _)
            }
            Self::Cli => AzureCliCredential::new(Some(AzureCliCredentialOptions::default())).map(|it| it as _),
        };
        made.map(Some).map_err(|error| CredentialError { which: self.name(), why: error.to_string() })
    }

    /// What it is called in settings and messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::SharedKey(_) => "shared-key",
            Self::Sas(_) => "sas",
            Self::ManagedIdentity { .. } => "managed-identity",
            Self::WorkloadIdentity { .. } => "workload-identity",
            Self::ClientSecret { .. } => "client-secret",
            Self::Cli => "cli",
        }
    }
}

impl fmt::Debug for AzureCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AzureCredential({})", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sas_is_taken_as_a_token_or_as_a_whole_url() {
        for text in ["sv=1&sig=abc", "?sv=1&sig=abc\n", "https://a.blob.core.windows.net/c?sv=1&sig=abc"] {
            let AzureCredential::Sas(token) = AzureCredential::sas(text).expect(text) else { panic!("a SAS") };
            assert_eq!(token.secret(), "sv=1&sig=abc");
        }
        for bad in ["", "sv=1", "https://a.blob.core.windows.net/c", "sig="] {
            AzureCredential::sas(bad).expect_err(bad);
        }
    }

    #[test]
    fn no_secret_is_ever_printed() {
        let key = AzureCredential::shared_key("c2VjcmV0").expect("a key");
        let sas = AzureCredential::sas("sv=1&sig=hushhush").expect("a SAS");
        let application = AzureCredential::client_secret("tenant".into(), "client".into(), "hushhush");
        for credential in [key, sas, application] {
            let shown = format!("{credential:?}");
            assert!(!shown.contains("hush") && !shown.contains("c2VjcmV0"), "{shown}");
        }
        let error = AzureCredential::shared_key("my hushhush!").expect_err("no base64");
        assert!(!error.to_string().contains("hush"), "{error}");
    }

    #[test]
    fn a_tenant_that_cannot_be_one_is_refused_before_anything_is_sent() {
        let bad = AzureCredential::client_secret("a tenant?".into(), "client".into(), "secret");
        bad.tokens(&ClientOptions::default()).expect_err("no tenant");
    }
}
