//! So much of the Blob protocol as the store speaks, over loopback, with faults at will: what the emulator cannot be made
//! to do (throttling, answers that get lost, links that hang), and Azure's limits, which it does not hold.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use azure_core::base64;
use azure_core::http::Url;
use bytes::Bytes;
use md5::{Digest as _, Md5};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens to one request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fault {
    /// It is answered with this status, and seconds to wait.
    Status(u16, Option<u64>),
    /// It is done, and the connection ends without an answer.
    LoseAnswer,
    /// It is done and never answered.
    Hang,
    /// Its bytes are changed on their way.
    Corrupt,
}

#[derive(Debug, Default)]
struct State {
    blobs: BTreeMap<String, Blob>,
    blocks: HashMap<String, HashMap<String, Bytes>>,
    versions: u64,
    faults: VecDeque<(&'static str, Fault)>,
    seen: Vec<String>,
    /// The container has version-level immutability.
    immutable: bool,
}

#[derive(Debug, Clone)]
struct Blob {
    bytes: Bytes,
    etag: String,
    tag: Option<String>,
    /// Until when, and how.
    policy: Option<(String, String)>,
}

/// The service.
#[derive(Debug)]
pub(super) struct Mock {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Mock {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Mock {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (state, address) = (Arc::new(Mutex::new(State::default())), listener.local_addr().expect("bound"));
        let shared = state.clone();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = shared.clone();
                tokio::spawn(async move {
                    let _ = serve(stream, &state).await;
                });
            }
        });
        Self { state, address, serving }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request of this kind ("PUT block", "PUT blocklist", "PUT", "GET", "HEAD", "GET list", "DELETE") has it.
    pub(super) fn fault(&self, kind: &'static str, fault: Fault) {
        self.state.lock().faults.push_back((kind, fault));
    }

    /// Requests of a kind so far.
    pub(super) fn count(&self, kind: &str) -> usize {
        self.state.lock().seen.iter().filter(|seen| *seen == kind).count()
    }

    /// Gives the container version-level immutability.
    pub(super) fn allow_immutability(&self) {
        self.state.lock().immutable = true;
    }

    /// Each blob with a policy: name, until when, mode.
    pub(super) fn policies(&self) -> Vec<(String, String, String)> {
        let state = self.state.lock();
        let policies = state.blobs.iter().filter_map(|(name, blob)| Some((name, blob.policy.as_ref()?)));
        policies.map(|(name, (until, mode))| (name.clone(), until.clone(), mode.clone())).collect()
    }

    /// Puts an object there by other hands.
    pub(super) fn place(&self, blob: &str, bytes: &'static [u8]) {
        let mut state = self.state.lock();
        state.put(blob, Bytes::from_static(bytes), None);
    }
}

impl State {
    fn put(&mut self, name: &str, bytes: Bytes, tag: Option<String>) -> String {
        self.versions += 1;
        let etag = format!("\"0x{:X}\"", self.versions);
        self.blobs.insert(name.to_owned(), Blob { bytes, etag: etag.clone(), tag, policy: None });
        self.blocks.remove(name);
        etag
    }

    fn next_fault(&mut self, kind: &str) -> Option<Fault> {
        let at = self.faults.iter().position(|(of, _)| *of == kind)?;
        self.faults.remove(at).map(|(_, fault)| fault)
    }
}

struct Asked {
    verb: String,
    blob: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Bytes,
}

impl Asked {
    fn kind(&self) -> String {
        let verb = &self.verb;
        self.query.get("comp").map_or_else(|| verb.clone(), |comp| format!("{verb} {comp}"))
    }
}

/// Status, headers, body.
type Answer = (u16, Vec<(String, String)>, Bytes);

fn refusal(status: u16, code: &str) -> Answer {
    let body =
        format!("<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
    (
        status,
        vec![("x-ms-error-code".into(), code.into()), ("content-type".into(), "application/xml".into())],
        body.into(),
    )
}

async fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(mut asked) = read(&mut stream, &mut buffer).await? {
        let kind = asked.kind();
        let fault = {
            let mut state = state.lock();
            state.seen.push(kind.clone());
            state.next_fault(&kind)
        };
        if fault == Some(Fault::Corrupt) {
            let mut bytes = asked.body.to_vec();
            bytes[0] ^= 1;
            asked.body = bytes.into();
        }
        let answer = match fault {
            Some(Fault::Status(status, wait)) => {
                let mut answer = refusal(status, "ServerBusy");
                answer.1.extend(wait.map(|wait| ("retry-after".to_owned(), wait.to_string())));
                answer
            }
            _ => answer(&mut state.lock(), &asked),
        };
        match fault {
            Some(Fault::LoseAnswer) => return Ok(()),
            Some(Fault::Hang) => tokio::time::sleep(Duration::from_secs(600)).await,
            _ => {}
        }
        let (status, headers, body) = answer;
        let head_only = asked.verb == "HEAD";
        let mut text = format!("HTTP/1.1 {status} X\r\n");
        if !head_only {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
        text.push_str("\r\n");
        stream.write_all(text.as_bytes()).await?;
        if !head_only {
            stream.write_all(&body).await?;
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Asked>> {
    let head_end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (verb, target) = (first.next().unwrap_or_default().to_owned(), first.next().unwrap_or_default().to_owned());
    let pairs = lines.filter_map(|line| line.split_once(": "));
    let headers: HashMap<String, String> =
        pairs.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(0, |text| text.parse().expect("a length"));
    while buffer.len() < head_end + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = Bytes::copy_from_slice(&buffer[head_end..head_end + length]);
    buffer.drain(..head_end + length);
    let url = Url::parse(&format!("http://mock{target}")).expect("a target");
    let query = url.query_pairs().into_owned().collect();
    let blob = url.path().trim_start_matches('/').splitn(3, '/').nth(2).unwrap_or_default().replace("%2F", "/");
    Ok(Some(Asked { verb, blob, query, headers, body }))
}

fn answer(state: &mut State, asked: &Asked) -> Answer {
    if asked.verb == "PUT" && !asked.body.is_empty() {
        let header = |name| asked.headers.get(name);
        match (header("content-md5"), header("x-ms-content-crc64")) {
            (Some(sum), None) if *sum == base64::encode(Md5::digest(&asked.body)) => {}
            (None, Some(sum)) if *sum == base64::encode(crc64(&asked.body).to_le_bytes()) => {}
            (Some(_), None) => return refusal(400, "Md5Mismatch"),
            (None, Some(_)) => return refusal(400, "Crc64Mismatch"),
            _ => return refusal(400, "MissingContentMd5"),
        }
    }
    if asked.verb == "GET"
        && asked.query.get("restype").is_some_and(|what| what == "container")
        && asked.query.len() == 1
    {
        let flag = ("x-ms-immutable-storage-with-versioning-enabled".to_owned(), state.immutable.to_string());
        return (200, vec![flag], Bytes::new());
    }
    match asked.kind().as_str() {
        "PUT block" => put_block(state, asked),
        "PUT blocklist" => put_block_list(state, asked),
        "PUT" => created(state, asked, asked.body.clone()),
        "GET list" => list(state, asked),
        "GET" | "HEAD" => get(state, asked),
        "DELETE" if state.blobs.get(&asked.blob).is_some_and(|blob| blob.policy.is_some()) => {
            refusal(409, "BlobImmutableDueToPolicy")
        }
        "DELETE" => match state.blobs.remove(&asked.blob) {
            Some(_) => (202, Vec::new(), Bytes::new()),
            None => refusal(404, "BlobNotFound"),
        },
        _ => refusal(400, "UnsupportedQueryParameter"),
    }
}

fn crc64(bytes: &[u8]) -> u64 {
    let mut sum = crc64fast_nvme::Digest::new();
    sum.write(bytes);
    sum.sum64()
}

fn put_block(state: &mut State, asked: &Asked) -> Answer {
    let id = asked.query["blockid"].clone();
    let blocks = state.blocks.entry(asked.blob.clone()).or_default();
    let raw = base64::decode(&id).expect("an id in base64");
    if raw.len() > 64 || asked.body.is_empty() || asked.body.len() > 4000 << 20 {
        return refusal(400, "InvalidQueryParameterValue");
    }
    if blocks.keys().any(|other| other.len() != id.len()) {
        return refusal(400, "InvalidBlobOrBlock");
    }
    blocks.insert(id, asked.body.clone());
    (201, Vec::new(), Bytes::new())
}

fn put_block_list(state: &mut State, asked: &Asked) -> Answer {
    let text = String::from_utf8_lossy(&asked.body).into_owned();
    let mut bytes = Vec::new();
    let mut count = 0;
    for part in text.split("<Latest>").skip(1) {
        let id = part.split("</Latest>").next().unwrap_or_default();
        count += 1;
        match state.blocks.get(&asked.blob).and_then(|blocks| blocks.get(id)) {
            Some(block) => bytes.extend_from_slice(block),
            // Conditions come first.
            None if state.blobs.contains_key(&asked.blob) => return refusal(409, "BlobAlreadyExists"),
            None => return refusal(400, "InvalidBlockList"),
        }
    }
    if count > 50_000 {
        return refusal(413, "BlockListTooLong");
    }
    created(state, asked, bytes.into())
}

fn created(state: &mut State, asked: &Asked, bytes: Bytes) -> Answer {
    let there = state.blobs.get(&asked.blob).map(|blob| blob.etag.clone());
    if asked.headers.get("if-none-match").is_some_and(|what| what == "*") && there.is_some() {
        return refusal(409, "BlobAlreadyExists");
    }
    if let Some(expected) = asked.headers.get("if-match")
        && there.as_ref() != Some(expected)
    {
        return refusal(412, "ConditionNotMet");
    }
    if state.blobs.get(&asked.blob).is_some_and(|blob| blob.policy.is_some()) {
        return refusal(409, "BlobImmutableDueToPolicy");
    }
    let header = |name: &str| asked.headers.get(name).cloned();
    let policy = header("x-ms-immutability-policy-until-date").zip(header("x-ms-immutability-policy-mode"));
    if policy.is_some() && !state.immutable {
        return refusal(400, "ContainerImmutableStorageWithVersioningNotEnabled");
    }
    let etag = state.put(&asked.blob, bytes, header("x-ms-meta-farshore"));
    if let Some(blob) = state.blobs.get_mut(&asked.blob) {
        blob.policy = policy;
    }
    (201, vec![("etag".into(), etag)], Bytes::new())
}

fn get(state: &State, asked: &Asked) -> Answer {
    let Some(blob) = state.blobs.get(&asked.blob) else { return refusal(404, "BlobNotFound") };
    let size = blob.bytes.len();
    let mut headers = vec![("etag".to_owned(), blob.etag.clone())];
    headers.extend(blob.tag.clone().map(|tag| ("x-ms-meta-farshore".to_owned(), tag)));
    if asked.verb == "HEAD" {
        headers.push(("content-length".into(), size.to_string()));
        return (200, headers, Bytes::new());
    }
    let range = asked.headers.get("range").or_else(|| asked.headers.get("x-ms-range"));
    let Some(range) = range.and_then(|text| text.strip_prefix("bytes=")) else {
        return (200, headers, blob.bytes.clone());
    };
    let (from, to) = range.split_once('-').expect("a range");
    let from: usize = from.parse().expect("a start");
    if from >= size {
        return refusal(416, "InvalidRange");
    }
    let to = to.parse().map_or(size, |last: usize| size.min(last + 1));
    headers.push(("content-range".into(), format!("bytes {from}-{}/{size}", to - 1)));
    (206, headers, blob.bytes.slice(from..to))
}

fn list(state: &State, asked: &Asked) -> Answer {
    let prefix = asked.query.get("prefix").cloned().unwrap_or_default();
    let marker = asked.query.get("marker").or_else(|| asked.query.get("startFrom")).cloned().unwrap_or_default();
    let most: usize = asked.query.get("maxresults").map_or(5000, |text| text.parse().expect("a number"));
    assert!((1..=5000).contains(&most), "Azure's pages have 1 to 5000 names");
    let mut found = state.blobs.iter().filter(|(name, _)| name.starts_with(&prefix) && **name >= marker);
    let mut body =
        String::from("<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"c\"><Blobs>");
    for (name, blob) in found.by_ref().take(most) {
        let size = blob.bytes.len();
        body.push_str(&format!(
            "<Blob><Name>{name}</Name><Properties><Content-Length>{size}</Content-Length></Properties></Blob>"
        ));
    }
    let next = found.next().map_or_else(String::new, |(name, _)| name.clone());
    body.push_str(&format!("</Blobs><NextMarker>{next}</NextMarker></EnumerationResults>"));
    (200, vec![("content-type".into(), "application/xml".into())], body.into())
}
