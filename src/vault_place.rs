//! Where a vault lies, by its URL, and how it is opened: a folder, or a container of Azure Blob Storage with the
//! credential that settings, files or the environment name. Secrets come from files and the environment only, so that no
//! command line, settings file or `config show` ever holds one.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farshore_engine::vault::store::azure::{
    AzureCredential, AzurePages, AzurePlace, AzureStore, CredentialError, Immutability, RetryLimits,
};
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::{ObjectStore, StoreError, StoreErrorKind};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::exit::{ExitKind, Failure};

/// The account key.
const ACCOUNT_KEY_VARIABLES: [&str; 2] = ["FARSHORE_AZURE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"];
/// A shared access signature.
const SAS_VARIABLES: [&str; 2] = ["FARSHORE_AZURE_SAS", "AZURE_STORAGE_SAS_TOKEN"];
/// The secret of an application.
const CLIENT_SECRET_VARIABLES: [&str; 1] = ["AZURE_CLIENT_SECRET"];

/// How a vault in Azure is opened. Secrets lie in files of their own, or in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AzureSettings {
    /// Which credential.
    pub(crate) auth: AzureAuth,
    /// The file with the account key.
    pub(crate) account_key_file: PathBuf,
    /// The file with a shared access signature or a SAS URL.
    pub(crate) sas_file: PathBuf,
    /// The file with an application's secret.
    pub(crate) client_secret_file: PathBuf,
    /// The tenant of an application. Empty: from `AZURE_TENANT_ID`.
    pub(crate) tenant_id: String,
    /// The application, or the user-assigned identity. Empty: from `AZURE_CLIENT_ID`.
    pub(crate) client_id: String,
    /// For so many days nobody can change or delete what is written of a machine's log (version-level immutability). 0: off.
    pub(crate) immutable_days: u32,
    /// And as long as its machine's ladder reaches, where that is longer.
    pub(crate) immutable_for_retention: bool,
    /// Whether those policies are locked: then not even the account's owner can take them back.
    pub(crate) immutable_locked: bool,
}

/// Which credential opens a vault in Azure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AzureAuth {
    /// The first that is there: account key, SAS, workload identity, client secret.
    #[default]
    Auto,
    /// The account key.
    SharedKey,
    /// A shared access signature.
    Sas,
    /// The identity of this host.
    ManagedIdentity,
    /// A Kubernetes service account.
    WorkloadIdentity,
    /// An application with a secret.
    ClientSecret,
    /// Whoever is logged in to the Azure CLI.
    Cli,
}

/// What a vault is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Servers write to it, and make it where it is missing.
    Serve,
    /// Tools read it.
    Read,
    /// Tools change what is there.
    Change,
}

/// Where a vault lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum VaultPlace {
    /// A folder.
    Folder(PathBuf),
    /// A container of Azure Blob Storage.
    Azure(AzurePlace),
}

impl VaultPlace {
    /// Reads `file:///path`, a path, or `azblob://account/container/prefix`.
    pub(crate) fn parse(url: &str, endpoint: &str) -> Result<Self, Failure> {
        let place = match url.split_once("://") {
            Some(("azblob", _)) => {
                let endpoint = Some(endpoint).filter(|text| !text.is_empty());
                return AzurePlace::parse(url, endpoint).map(Self::Azure).map_err(Failure::usage);
            }
            None => PathBuf::from(url),
            Some(("file", path)) if path.starts_with('/') => PathBuf::from(path),
            Some(("file", path)) => {
                let text = format!("vault file://{path}: a folder's URL has an absolute path, as file:///{path}");
                return Err(Failure::usage(text));
            }
            Some((scheme, _)) => {
                let text = format!(
                    "vault: '{scheme}' is no store that is known: use file:///path, a path, or \
                     azblob://account/container/prefix"
                );
                return Err(Failure::usage(text));
            }
        };
        match endpoint.is_empty() {
            true => Ok(Self::Folder(place)),
            false => Err(Failure::usage("an endpoint is for a vault at azblob://…; a folder has none")),
        }
    }

    /// Opens the vault. Its calls run on `runtime`. Blocks.
    pub(crate) fn open(
        self,
        azure: &AzureSettings,
        purpose: Purpose,
        runtime: &Runtime,
    ) -> Result<Arc<dyn ObjectStore>, Failure> {
        let threads = runtime.handle().clone();
        if azure.immutable_for_retention && azure.immutable_days == 0 {
            return Err(Failure::usage(
                "vault.azure.immutable_for_retention needs vault.azure.immutable_days above 0: so long it is until the \
                 machine's ladder is known",
            ));
        }
        match self {
            Self::Folder(_) if purpose == Purpose::Serve && azure.immutable_days > 0 => Err(Failure::usage(
                "vault.azure.immutable_days: a folder cannot keep its owner from changing what is in it; put the vault at \
                 azblob://…, or set it to 0",
            )),
            Self::Folder(path) if purpose == Purpose::Serve => {
                Ok(Arc::new(FolderStore::open(&path, threads).map_err(store_failure)?))
            }
            Self::Folder(path) => {
                let opened = FolderStore::open_read_only(&path, threads.clone());
                let store = opened.map_err(|error| Failure::new(ExitKind::Usage, error))?;
                match purpose {
                    Purpose::Change => Ok(Arc::new(FolderStore::open(&path, threads).map_err(store_failure)?)),
                    _ => Ok(Arc::new(store)),
                }
            }
            Self::Azure(place) => {
                let credential = azure.credential()?;
                let store = AzureStore::new(place, &credential, RetryLimits::default(), threads);
                let mut store = store.map_err(store_failure)?;
                if azure.immutable_days > 0 {
                    let keep = Duration::from_secs(u64::from(azure.immutable_days) * 86_400);
                    let (as_wanted, locked) = (azure.immutable_for_retention, azure.immutable_locked);
                    store = store.immutable(Immutability { keep, as_wanted, locked });
                }
                if purpose == Purpose::Serve {
                    runtime.block_on(store.prepare()).map_err(store_failure)?;
                }
                Ok(Arc::new(store))
            }
        }
    }
}

/// A failed store call as a failed command.
pub(crate) fn store_failure(error: StoreError) -> Failure {
    let kind = match error.kind {
        StoreErrorKind::Unavailable => ExitKind::Unreachable,
        StoreErrorKind::Denied => ExitKind::Refused,
        StoreErrorKind::Unsuitable => ExitKind::Usage,
        _ => ExitKind::Failed,
    };
    Failure::new(kind, error)
}

impl AzureSettings {
    /// The page blob at `azblob://account/container/name`.
    pub(crate) fn pages(&self, url: &str, endpoint: &str, runtime: &Runtime) -> Result<AzurePages, Failure> {
        let endpoint = Some(endpoint).filter(|text| !text.is_empty());
        let place = AzurePlace::parse(url, endpoint).map_err(Failure::usage)?;
        let pages = AzurePages::new(place, &self.credential()?, RetryLimits::default(), runtime.handle().clone());
        pages.map_err(store_failure)
    }

    fn credential(&self) -> Result<AzureCredential, Failure> {
        match self.auth {
            AzureAuth::Auto => self.first_that_is_there(),
            AzureAuth::SharedKey => self.account_key()?.ok_or_else(|| missing("account key", &ACCOUNT_KEY_VARIABLES)),
            AzureAuth::Sas => self.sas()?.ok_or_else(|| missing("sas", &SAS_VARIABLES)),
            AzureAuth::ManagedIdentity => Ok(AzureCredential::ManagedIdentity { client_id: self.client_id() }),
            AzureAuth::WorkloadIdentity => Ok(self.workload_identity()),
            AzureAuth::ClientSecret => {
                self.client_secret()?.ok_or_else(|| missing("client secret", &CLIENT_SECRET_VARIABLES))
            }
            AzureAuth::Cli => Ok(AzureCredential::Cli),
        }
    }

    fn first_that_is_there(&self) -> Result<AzureCredential, Failure> {
        if let Some(key) = self.account_key()? {
            return Ok(key);
        }
        if let Some(sas) = self.sas()? {
            return Ok(sas);
        }
        if std::env::var_os("AZURE_FEDERATED_TOKEN_FILE").is_some() {
            return Ok(self.workload_identity());
        }
        self.client_secret()?.ok_or_else(|| {
            Failure::usage(format!(
                "no credential for Azure: set {} or {}, name a file with vault.azure.account_key_file or \
                 vault.azure.sas_file, or say vault.azure.auth = managed-identity, workload-identity, client-secret or cli",
                ACCOUNT_KEY_VARIABLES[0], SAS_VARIABLES[0]
            ))
        })
    }

    fn account_key(&self) -> Result<Option<AzureCredential>, Failure> {
        let text = secret(&self.account_key_file, &ACCOUNT_KEY_VARIABLES)?;
        text.map(|text| AzureCredential::shared_key(&text)).transpose().map_err(wrong)
    }

    fn sas(&self) -> Result<Option<AzureCredential>, Failure> {
        let text = secret(&self.sas_file, &SAS_VARIABLES)?;
        text.map(|text| AzureCredential::sas(&text)).transpose().map_err(wrong)
    }

    fn client_secret(&self) -> Result<Option<AzureCredential>, Failure> {
        let Some(text) = secret(&self.client_secret_file, &CLIENT_SECRET_VARIABLES)? else { return Ok(None) };
        let needs = |name: &str| Failure::usage(format!("a client secret needs vault.azure.{name}"));
        let tenant = self.tenant_id().ok_or_else(|| needs("tenant_id"))?;
        let client = self.client_id().ok_or_else(|| needs("client_id"))?;
        Ok(Some(AzureCredential::client_secret(tenant, client, &text)))
    }

    fn workload_identity(&self) -> AzureCredential {
        AzureCredential::WorkloadIdentity { tenant_id: self.tenant_id(), client_id: self.client_id(), token_file: None }
    }

    fn tenant_id(&self) -> Option<String> {
        set_or_variable(&self.tenant_id, "AZURE_TENANT_ID")
    }

    fn client_id(&self) -> Option<String> {
        set_or_variable(&self.client_id, "AZURE_CLIENT_ID")
    }
}

fn set_or_variable(value: &str, variable: &str) -> Option<String> {
    let set = Some(value.to_owned()).filter(|value| !value.is_empty());
    set.or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
}

fn wrong(error: CredentialError) -> Failure {
    Failure::usage(error)
}

fn missing(what: &str, variables: &[&str]) -> Failure {
    let file = what.replace(' ', "_");
    Failure::usage(format!("no {what} for Azure: set {}, or vault.azure.{file}_file", variables.join(" or ")))
}

/// A secret: from its file where one is named, else from the first variable that is set.
fn secret(file: &Path, variables: &[&str]) -> Result<Option<Zeroizing<String>>, Failure> {
    if file.as_os_str().is_empty() {
        let found = variables.iter().find_map(|name| std::env::var(name).ok().filter(|text| !text.is_empty()));
        return Ok(found.map(Zeroizing::new));
    }
    let failed = |error| Failure::usage(format!("read {}: {error}", file.display()));
    let text = Zeroizing::new(std::fs::read_to_string(file).map_err(failed)?);
    let mode = std::fs::metadata(file).map_err(failed)?.permissions().mode();
    match mode & 0o077 {
        0 => Ok(Some(text)),
        _ => Err(Failure::usage(format!("others can read the secret in {}: chmod 600 it", file.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vault_is_named_by_its_url() {
        let folder = |text: &str| VaultPlace::Folder(PathBuf::from(text));
        assert_eq!(VaultPlace::parse("file:///a/b", "").expect("a folder"), folder("/a/b"));
        assert_eq!(VaultPlace::parse("a/b", "").expect("a folder"), folder("a/b"));
        let azure = VaultPlace::parse("azblob://account/vault/site", "").expect("a container");
        assert!(matches!(azure, VaultPlace::Azure(_)));
        for (bad, endpoint) in [
            ("file://a/b", ""),
            ("s3://bucket", ""),
            ("azblob://a", ""),
            ("a/b", "https://host"),
            ("azblob://account/vault", "http://far"),
        ] {
            let failure = VaultPlace::parse(bad, endpoint).expect_err(bad);
            assert_eq!(failure.kind, ExitKind::Usage, "{bad}");
        }
    }

    #[test]
    fn a_folder_that_is_to_be_immutable_is_refused_before_anything_is_made() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let place = VaultPlace::Folder(dir.path().join("vault"));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let azure = AzureSettings { immutable_days: 15, ..AzureSettings::default() };
        let Err(failure) = place.open(&azure, Purpose::Serve, &runtime) else { panic!("a folder cannot do that") };
        assert!(failure.kind == ExitKind::Usage && failure.text.contains("immutable_days"), "{}", failure.text);
        let place = VaultPlace::Folder(dir.path().join("vault"));
        let azure = AzureSettings { immutable_for_retention: true, ..AzureSettings::default() };
        let Err(failure) = place.open(&azure, Purpose::Serve, &runtime) else { panic!("for how long until then?") };
        assert!(failure.text.contains("above 0"), "{}", failure.text);
        assert!(!dir.path().join("vault").exists());
    }

    #[test]
    fn a_secret_file_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let account_key_file = dir.path().join("account.key");
        std::fs::write(&account_key_file, "c2VjcmV0\n").expect("write");
        let settings = AzureSettings { auth: AzureAuth::SharedKey, account_key_file, ..AzureSettings::default() };
        let chmod = |mode| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&settings.account_key_file, permissions).expect("chmod");
        };
        chmod(0o644);
        let failure = settings.credential().expect_err("others can read it");
        assert!(failure.text.contains("chmod 600") && !failure.text.contains("c2VjcmV0"), "{}", failure.text);
        chmod(0o600);
        assert_eq!(settings.credential().expect("a key").name(), "shared-key");
    }
}
