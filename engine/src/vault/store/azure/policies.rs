//! Policies in the client's pipeline: a checksum on everything that is sent, and the account key's signature.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use azure_core::credentials::Secret;
use azure_core::hmac::hmac_sha256;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{Body, Context, Method, Request};
use azure_core::time::{OffsetDateTime, to_rfc7231};
use md5::{Digest as _, Md5};

/// Sends a checksum with every body, so that the service refuses what was changed on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    /// `x-ms-content-crc64`: CRC-64/NVME, little endian, in base64. It costs a thirtieth of what MD5 does.
    Crc64,
    /// `Content-MD5`, for emulators, which refuse the other.
    Md5,
}

impl Checksum {
    fn header(self, bytes: &[u8]) -> (&'static str, String) {
        match self {
            Self::Crc64 => {
                let mut sum = crc64fast_nvme::Digest::new();
                sum.write(bytes);
                ("x-ms-content-crc64", azure_core::base64::encode(sum.sum64().to_le_bytes()))
            }
            Self::Md5 => ("content-md5", azure_core::base64::encode(Md5::digest(bytes))),
        }
    }
}

#[async_trait]
impl Policy for Checksum {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if request.method() == Method::Put
            && let Body::Bytes(bytes) = request.body()
            && !bytes.is_empty()
        {
            let (header, sum) = self.header(bytes);
            request.insert_header(header, sum);
        }
        next[0].send(context, request, &next[1..]).await
    }
}

/// Signs each try with the account's key ("Authorize with Shared Key"). It runs last: it must see every header.
pub(super) struct SharedKey {
    pub(super) account: String,
    pub(super) key: Secret,
}

impl fmt::Debug for SharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedKey({})", self.account)
    }
}

#[async_trait]
impl Policy for SharedKey {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        request.insert_header("x-ms-date", to_rfc7231(&OffsetDateTime::now_utc()));
        let signature = hmac_sha256(&string_to_sign(&self.account, request), &self.key)?;
        request.insert_header("authorization", format!("SharedKey {}:{signature}", self.account));
        next[0].send(context, request, &next[1..]).await
    }
}

/// What is signed: verb, standard headers, `x-ms-` headers in order, then the resource with its query in order.
fn string_to_sign(account: &str, request: &Request) -> String {
    let (mut standard, mut own) = (HashMap::new(), BTreeMap::new());
    for (name, value) in request.headers().iter() {
        let name = name.as_str().to_ascii_lowercase();
        match name.starts_with("x-ms-") {
            true => own.insert(name, value.as_str().trim().to_owned()),
            false => standard.insert(name, value.as_str().to_owned()),
        };
    }
    let length = request.body().len().filter(|length| *length > 0);
    standard.insert("content-length".into(), length.map_or_else(String::new, |length| length.to_string()));
    let mut text = format!("{}\n", request.method());
    for name in [
        "content-encoding",
        "content-language",
        "content-length",
        "content-md5",
        "content-type",
        // In x-ms-date.
        "",
        "if-modified-since",
        "if-match",
        "if-none-match",
        "if-unmodified-since",
        "range",
    ] {
        text.push_str(standard.get(name).map_or("", String::as_str));
        text.push('\n');
    }
    for (name, value) in &own {
        text.push_str(&format!("{name}:{value}\n"));
    }
    text.push_str(&format!("/{account}{}", request.url().path()));
    let mut query = BTreeMap::<String, Vec<String>>::new();
    for (name, value) in request.url().query_pairs() {
        query.entry(name.to_ascii_lowercase()).or_default().push(value.into_owned());
    }
    for (name, mut values) in query {
        values.sort();
        text.push_str(&format!("\n{name}:{}", values.join(",")));
    }
    text
}

#[cfg(test)]
mod tests {
    use azure_core::http::Url;

    use super::*;

    /// The check value of CRC-64/NVME in the catalogue of CRC algorithms, and the sum that Azure's own SDKs are tested with.
    #[test]
    fn the_checksum_is_azures() {
        for (text, sum) in [("123456789", 0xae8b_1486_0a79_9888), ("Hello World!", 208_604_604_655_264_165_u64)] {
            let expected = ("x-ms-content-crc64", azure_core::base64::encode(sum.to_le_bytes()));
            assert_eq!(Checksum::Crc64.header(text.as_bytes()), expected, "{text}");
        }
    }

    /// The example of the protocol's own page on Shared Key ("Blob Storage example"), with today's empty length.
    #[test]
    fn what_is_signed_is_what_the_protocols_page_shows() {
        let url = "https://myaccount.blob.core.windows.net/mycontainer?restype=container&comp=metadata&timeout=20";
        let mut request = Request::new(Url::parse(url).expect("a URL"), Method::Get);
        request.insert_header("x-ms-version", "2015-02-21");
        request.insert_header("x-ms-date", "Fri, 26 Jun 2015 23:39:12 GMT");
        let expected = "GET\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:Fri, 26 Jun 2015 23:39:12 GMT\nx-ms-version:2015-02-21\n\
                        /myaccount/mycontainer\ncomp:metadata\nrestype:container\ntimeout:20";
        assert_eq!(string_to_sign("myaccount", &request), expected);
    }
}
