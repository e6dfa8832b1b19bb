//! Where a vault lies in Azure: account, container and prefix, with Azure's own rules for their names.

use azure_core::http::Url;

use super::super::super::layout::ObjectName;

/// Azure's longest blob name (Naming and Referencing Containers, Blobs, and Metadata).
const BLOB_NAME_MAX: usize = 1024;
/// The longest name that a vault gives an object (see [`ObjectName::listed`]).
const OBJECT_NAME_MAX: usize = 200;
/// Azure's public cloud.
const PUBLIC_SUFFIX: &str = "blob.core.windows.net";

/// The account of every emulator ("Use the Azurite emulator for local Azure Storage development").
const EMULATED_ACCOUNT: &str = "devstoreaccount1";

/// A place that was named wrongly.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct PlaceError {
    what: String,
    why: &'static str,
}

fn refused<T>(what: &str, why: &'static str) -> Result<T, PlaceError> {
    // A query may hold a signature: it is never repeated.
    Err(PlaceError { what: what.split('?').next().unwrap_or_default().to_owned(), why })
}

/// Account, container and prefix of a vault in Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AzurePlace {
    account: String,
    container: Url,
    /// Empty, or ends with a slash.
    prefix: String,
}

impl AzurePlace {
    /// Reads `azblob://account/container/prefix`. `endpoint` is the address of the account's blob service where that
    /// is not Azure's public cloud: `https://account.blob.core.chinacloudapi.cn`, or `http://127.0.0.1:10000` for an
    /// emulator on this host.
    ///
    /// # Errors
    /// What Azure would refuse about the names, and an endpoint that would carry credentials in the clear.
    pub fn parse(url: &str, endpoint: Option<&str>) -> Result<Self, PlaceError> {
        if url.contains(['?', '#', '@', '%']) {
            return refused(url, "only azblob://account/container/prefix: credentials have settings of their own");
        }
        let Some(path) = url.strip_prefix("azblob://") else {
            return refused(url, "a vault in Azure is named azblob://account/container/prefix");
        };
        let mut parts = path.trim_end_matches('/').split('/');
        let (account, container) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        check_account(account)?;
        check_container(container)?;
        let mut prefix = String::new();
        for part in parts {
            check_prefix_part(url, part)?;
            prefix = format!("{prefix}{part}/");
        }
        if prefix.len() + OBJECT_NAME_MAX > BLOB_NAME_MAX {
            return refused(url, "the prefix is too long: Azure's names end at 1024 characters");
        }
        let mut address = service(account, endpoint)?;
        match address.path_segments_mut() {
            Ok(mut segments) => {
                segments.pop_if_empty().push(container);
            }
            Err(()) => return refused(url, "the endpoint has no room for a path"),
        }
        Ok(Self { account: account.to_owned(), container: address, prefix })
    }

    /// The storage account.
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The container's address, without credentials.
    pub(super) fn container(&self) -> &Url {
        &self.container
    }

    /// What the vault's names begin with in the container.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The name of an object in the container.
    pub(super) fn blob(&self, name: &ObjectName) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The object behind a name in the container; `None` for what is no object of a vault.
    pub(super) fn object(&self, blob: &str) -> Option<ObjectName> {
        ObjectName::listed(blob.strip_prefix(&self.prefix)?)
    }

    /// Whether its account is the one that emulators have.
    pub(super) fn is_emulator(&self) -> bool {
        self.account == EMULATED_ACCOUNT
    }

    /// Whether its service runs on this host.
    pub(super) fn is_local(&self) -> bool {
        is_loopback(&self.container)
    }
}

/// The address of the account's blob service.
fn service(account: &str, endpoint: Option<&str>) -> Result<Url, PlaceError> {
    let Some(endpoint) = endpoint.filter(|text| !text.is_empty()) else {
        let public = Url::parse(&format!("https://{account}.{PUBLIC_SUFFIX}"));
        return public.or_else(|_| refused(account, "no account of this name has an address"));
    };
    let Ok(mut url) = Url::parse(endpoint) else { return refused(endpoint, "the endpoint is no URL") };
    if url.query().is_some() || !url.username().is_empty() || url.password().is_some() {
        return refused(endpoint, "the endpoint holds a query or a user: credentials have settings of their own");
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        _ => return refused(endpoint, "an endpoint is https; plain http is only for this very host"),
    }
    // Emulators name the account in the path.
    if is_loopback(&url) && url.path().trim_matches('/').is_empty() {
        url.set_path(account);
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn check_account(account: &str) -> Result<(), PlaceError> {
    let plain = account.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    match (3..=24).contains(&account.len()) && plain {
        true => Ok(()),
        false => refused(account, "a storage account's name has 3 to 24 small letters and digits"),
    }
}

fn check_container(container: &str) -> Result<(), PlaceError> {
    let plain = container.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    let dashes = container.starts_with('-') || container.ends_with('-') || container.contains("--");
    match (3..=63).contains(&container.len()) && plain && !dashes {
        true => Ok(()),
        false => refused(container, "a container's name has 3 to 63 small letters, digits and single dashes within"),
    }
}

fn check_prefix_part(url: &str, part: &str) -> Result<(), PlaceError> {
    let plain = part.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    match !part.is_empty() && plain && !part.ends_with('.') && !part.starts_with('.') {
        true => Ok(()),
        false => {
            refused(url, "a prefix has parts of letters, digits, '-', '_' and '.' within, divided by single slashes")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_by_account_container_and_prefix() {
        let place = AzurePlace::parse("azblob://farshore1/vault/site-a/", None).expect("a place");
        assert_eq!(place.container().as_str(), "https://farshore1.blob.core.windows.net/vault");
        assert_eq!((place.account(), place.prefix()), ("farshore1", "site-a/"));
        assert_eq!(place.blob(&ObjectName::keys(1)), "site-a/keys/0000000000000001");
        assert_eq!(place.object("site-a/keys/0000000000000001"), Some(ObjectName::keys(1)));
        for foreign in ["keys/0000000000000001", "site-a/Notes.txt", "site-a/"] {
            assert_eq!(place.object(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_endpoint_is_the_accounts_service_or_an_emulator_on_this_host() {
        let at = |endpoint| AzurePlace::parse("azblob://devstoreaccount1/vault", Some(endpoint));
        let address = |endpoint| at(endpoint).expect("a place").container().to_string();
        assert_eq!(address("http://127.0.0.1:10000"), "http://127.0.0.1:10000/devstoreaccount1/vault");
        assert_eq!(
            address("http://127.0.0.1:10000/devstoreaccount1/"),
            "http://127.0.0.1:10000/devstoreaccount1/vault"
        );
        let cloud = "https://devstoreaccount1.blob.core.chinacloudapi.cn";
        assert_eq!(address(cloud), format!("{cloud}/vault"));
        for bad in
            ["http://example.com", "ftp://127.0.0.1", "nonsense", "https://host/?sv=1&sig=secret", "https://u:p@host"]
        {
            let error = at(bad).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn names_that_azure_would_refuse_are_refused_here() {
        let long = format!("azblob://farshore1/vault/{}", "a/".repeat(500));
        for bad in [
            "file:///vault",
            "azblob://",
            "azblob://ab/vault",
            "azblob://Farshore/vault",
            "azblob://farshore1",
            "azblob://farshore1/va",
            "azblob://farshore1/-vault",
            "azblob://farshore1/va--ult",
            "azblob://farshore1/Vault",
            "azblob://farshore1/vault/a//b",
            "azblob://farshore1/vault/..",
            "azblob://farshore1/vault/a b",
            "azblob://farshore1/vault?sig=secret",
            long.as_str(),
        ] {
            let error = AzurePlace::parse(bad, None).expect_err(bad).to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
