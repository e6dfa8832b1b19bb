//! What our store adapter for Azure costs beside the SDK alone: segments on their way to a server on this host that takes
//! everything, says yes and keeps nothing. The SDK uploads with its own defaults over a plain client, with the checksum that
//! every block must have and without any; ours stages, four segments at once, and publishes them in order.
//!
//! `cargo bench --bench upload`. The bar: at least 0.9 of what the SDK alone reaches in the same run, checksums and all.

mod rig;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use azure_core::error::{Error, ErrorKind};
use azure_core::http::headers::Headers;
use azure_core::http::policies::{Policy, PolicyResult};
use azure_core::http::{AsyncRawResponse, Body, ClientOptions, Context, HttpClient, Request, Transport, Url};
use azure_storage_blob::{BlobContainerClient, BlobContainerClientOptions};
use bytes::{Bytes, BytesMut};
use farshore_engine::ids::{MachineId, Slot, TimelineId};
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::azure::{AzureCredential, AzurePlace, AzureStore, RetryLimits};
use farshore_engine::vault::store::{ObjectStore, PutOutcome};
use futures_util::{StreamExt, TryStreamExt, stream};
use rig::payload::payload;
use rig::report::{Bar, Report};
use rig::{is_bench, sized};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

const SEGMENT_BYTES: usize = 16 << 20;
/// Segments on their way at once: what a machine's upload stream has.
const AT_ONCE: usize = 4;
const ROUNDS: usize = 5;
const ACCOUNT: &str = "account";

/// Answers 201 to each request once its body is through.
async fn discard(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = BytesMut::with_capacity(1 << 20);
    loop {
        let head = loop {
            if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break buffer.split_to(at + 4);
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).map_or("0", str::trim);
        let mut left: usize = length.parse().expect("a length");
        loop {
            let here = left.min(buffer.len());
            left -= here;
            let _ = buffer.split_to(here);
            if left == 0 {
                break;
            }
            buffer.clear();
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\netag: \"0x1\"\r\n\r\n").await?;
    }
}

/// A server in threads of its own.
fn serve() -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            told.send(listener.local_addr().expect("bound")).expect("somebody waits");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(discard(stream));
            }
        });
    });
    address.recv().expect("it listens")
}

/// The plainest client that the SDK can be given: a request is a request of reqwest.
#[derive(Debug)]
struct Plain(reqwest::Client);

#[async_trait]
impl HttpClient for Plain {
    async fn execute_request(&self, request: &Request) -> azure_core::Result<AsyncRawResponse> {
        let failed = |error: reqwest::Error| Error::new(ErrorKind::Io, error);
        let method = reqwest::Method::from_bytes(request.method().as_str().as_bytes()).expect("a verb");
        let mut sending = self.0.request(method, request.url().clone());
        for (name, value) in request.headers().iter() {
            sending = sending.header(name.as_str(), value.as_str());
        }
        let Body::Bytes(bytes) = request.body().clone() else { panic!("bytes are sent here") };
        let answer = sending.body(bytes).send().await.map_err(failed)?;
        let status = answer.status().as_u16().into();
        let body = answer.bytes().await.map_err(failed)?;
        Ok(AsyncRawResponse::new(status, Headers::new(), Box::pin(stream::iter([Ok(body)]))))
    }
}

/// What every block must have, in a policy.
#[derive(Debug)]
struct Checksum;

#[async_trait]
impl Policy for Checksum {
    async fn send(&self, context: &Context, request: &mut Request, next: &[Arc<dyn Policy>]) -> PolicyResult {
        if let Body::Bytes(bytes) = request.body() {
            let mut sum = crc64fast_nvme::Digest::new();
            sum.write(bytes);
            request.insert_header("x-ms-content-crc64", azure_core::base64::encode(sum.sum64().to_le_bytes()));
        }
        next[0].send(context, request, &next[1..]).await
    }
}

fn sdk(server: SocketAddr, policies: Vec<Arc<dyn Policy>>) -> BlobContainerClient {
    let client = reqwest::Client::builder().no_proxy().http1_only().build().expect("a client");
    let transport = Some(Transport::new(Arc::new(Plain(client))));
    let options = BlobContainerClientOptions {
        client_options: ClientOptions { transport, per_call_policies: policies, ..ClientOptions::default() },
        ..Default::default()
    };
    let url = Url::parse(&format!("http://{server}/{ACCOUNT}/vault")).expect("a URL");
    BlobContainerClient::new(url, None, Some(options)).expect("a client")
}

fn ours(server: SocketAddr) -> AzureStore {
    let place = AzurePlace::parse(&format!("azblob://{ACCOUNT}/vault"), Some(&format!("http://{server}")));
    let credential = AzureCredential::shared_key("a2V5a2V5a2V5a2V5").expect("a key");
    AzureStore::new(place.expect("a place"), &credential, RetryLimits::default(), Handle::current()).expect("a store")
}

fn main() -> ExitCode {
    if !is_bench() {
        return ExitCode::SUCCESS;
    }
    let segments = sized(4, 48);
    let server = serve();
    let segment = Bytes::from(payload(3, SEGMENT_BYTES));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut report = Report::new("upload");
    let (mut best_plain, mut best_sdk, mut best_ours) = (f64::MAX, f64::MAX, f64::MAX);
    runtime.block_on(async {
        // Ours first: it gives the process its provider of cryptography.
        let (ours, plain, sdk) = (ours(server), sdk(server, Vec::new()), sdk(server, vec![Arc::new(Checksum)]));
        let name = |n| ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(n));
        for _ in 0..ROUNDS {
            for (client, best) in [(&plain, &mut best_plain), (&sdk, &mut best_sdk)] {
                let begun = Instant::now();
                let uploads = (0..segments).map(|n| {
                    let blob = client.blob_client(&name(n).to_string()).block_blob_client();
                    let segment = segment.clone();
                    async move { blob.upload(Body::Bytes(segment).into(), None).await.map(|_| ()) }
                });
                stream::iter(uploads).buffered(AT_ONCE).try_collect::<()>().await.expect("the SDK uploads");
                *best = best.min(begun.elapsed().as_secs_f64());
            }
            let begun = Instant::now();
            let stagings = (0..segments).map(|n| {
                let (ours, name, parts) = (&ours, name(n), vec![segment.clone()]);
                async move { ours.stage(&name, "token", parts).await }
            });
            let mut staged = stream::iter(stagings).buffered(AT_ONCE);
            while let Some(staged) = staged.next().await {
                let done = ours.publish(&staged.expect("it is staged")).await.expect("it is published");
                assert_eq!(done, PutOutcome::Created);
            }
            best_ours = best_ours.min(begun.elapsed().as_secs_f64());
        }
    });
    let rate = |seconds: f64| segments as f64 * SEGMENT_BYTES as f64 / 1e6 / seconds;
    report.tell("the SDK alone, without checksums", rate(best_plain), "MB/s");
    report.tell("the SDK alone", rate(best_sdk), "MB/s");
    report.tell("our store", rate(best_ours), "MB/s");
    report.tell("our store by the SDK without checksums", best_plain / best_ours, "");
    report.judge("our store by the SDK alone", best_sdk / best_ours, "", Bar::AtLeast(0.9));
    report.finish()
}
