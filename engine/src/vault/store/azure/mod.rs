//! Azure Blob Storage as a store: the same names and bytes as in a folder, one block blob an object.
//!
//! Owns: the client, its credentials, and all retries (the SDK's own are off).
//!
//! ```text
//!   stage    ─► up to a block: nothing yet, the bytes wait in memory, 64 MiB of all
//!               else: Put Block × n, four at a time, each with its CRC  (no object yet; forgotten after a week)
//!   publish  ─► Put Blob, or Put Block List,
//!               If-None-Match: *                   ─► 201 Created
//!                                                  ─► 409 AlreadyExists
//!                                                  ─► 400 blocks gone  ─► look: is an object there? else NotFound
//!   no answer, 5xx: try again; then 409 may be our own effect ─► look: the blob's metadata names what was staged
//! ```
//!
//! Invariants
//! - I4: an object is created only under `If-None-Match: *` and replaced only under `If-Match`.
//! - An answer that was lost is never taken for a refusal: before `AlreadyExists` or `Conflict` is said after an unsure
//!   try, the blob's tag is compared with ours.
//! - No credential is part of an error, of a log line or of `Debug`.
//!
//! Crash story: nothing is kept here. Blocks that were staged and never published are Azure's to forget.

mod blocks;
mod credential;
mod fault;
mod immutable;
mod list;
mod pages;
mod place;
mod policies;
mod retry;
mod wire;

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use azure_core::Uuid;
use azure_core::http::{Body, ClientOptions, Etag, RetryOptions, Transport};
use azure_storage_blob::models::{
    BlobClientDownloadOptions, BlobClientGetPropertiesResultHeaders, BlockBlobClientCommitBlockListOptions,
    BlockBlobClientUploadOptions, BlockLookupList, HttpRange,
};
use azure_storage_blob::{BlobClient, BlobContainerClient, BlobContainerClientOptions};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use self::blocks::{Blocks, OBJECT_BYTES_MAX, cut};
use self::fault::{Fault, Verdict};
use self::list::Markers;
use self::policies::{Checksum, SharedKey};
use self::retry::Budget;
use super::{
    ETag, Held, Listed, ObjectMeta, ObjectName, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind,
    SwapOutcome,
};
use crate::ids::MachineId;

pub use self::credential::{AzureCredential, CredentialError};
pub use self::immutable::Immutability;
pub use self::pages::AzurePages;
pub use self::place::{AzurePlace, PlaceError};
pub use self::retry::RetryLimits;

/// Blocks of one object that are on their way at a time. Chosen: four of 4 MiB fill 1 Gbit/s at 100 ms.
const BLOCKS_AT_ONCE: usize = 4;
/// Requests of the whole store at a time, so that a burst does not open hundreds of connections.
const REQUESTS_AT_ONCE: usize = 32;
/// Objects up to this size are created with one request.
const SINGLE_PUT_MAX: usize = blocks::BLOCK_BYTES;
/// Bytes of such objects that wait in memory to be published, of the whole store; what comes beyond travels as a block.
/// Chosen: a small segment of a few hundred machines each.
const HELD_BYTES_MAX: usize = 64 << 20;
/// Reads beyond this are cut; more than any object has.
const READ_MAX: u64 = OBJECT_BYTES_MAX;
/// Metadata that names who wrote the blob.
const TAG: &str = "farshore";

/// A store in Azure Blob Storage. Clones share it. Its calls run on the runtime that it was given.
#[derive(Clone)]
pub struct AzureStore {
    inner: Arc<Inner>,
    runtime: Handle,
}

struct Inner {
    place: AzurePlace,
    container: BlobContainerClient,
    limits: RetryLimits,
    immutability: Option<Immutability>,
    wanted: Mutex<HashMap<MachineId, Duration>>,
    budget: Budget,
    requests: Semaphore,
    held: Arc<Semaphore>,
    markers: Markers,
}

impl std::fmt::Debug for AzureStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AzureStore({})", self.inner.place.container())
    }
}

impl AzureStore {
    /// A store at `place`. Nothing is sent yet. `runtime` carries out the calls.
    ///
    /// # Errors
    /// A credential that cannot be one.
    pub fn new(
        place: AzurePlace,
        credential: &AzureCredential,
        limits: RetryLimits,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        let doing = || format!("open the vault in {}", place.container());
        let unsuitable = |cause: String| StoreError { kind: StoreErrorKind::Unsuitable, doing: doing(), cause };
        let wire = wire::Wire::new(limits.stall, place.is_local()).map_err(unsuitable)?;
        let mut options = ClientOptions {
            per_call_policies: vec![Arc::new(if place.is_emulator() { Checksum::Md5 } else { Checksum::Crc64 })],
            retry: RetryOptions::none(),
            transport: Some(Transport::new(Arc::new(wire))),
            ..ClientOptions::default()
        };
        let mut tokens_client = options.clone();
        tokens_client.per_call_policies.clear();
        let tokens = credential.tokens(&tokens_client).map_err(|error| unsuitable(error.to_string()))?;
        let mut url = place.container().clone();
        match credential {
            AzureCredential::SharedKey(key) => {
                let policy = SharedKey { account: place.account().to_owned(), key: key.clone() };
                options.per_try_policies.push(Arc::new(policy));
            }
            AzureCredential::Sas(token) => url.set_query(Some(token.secret())),
            _ => {}
        }
        let options = BlobContainerClientOptions { client_options: options, ..Default::default() };
        let container = BlobContainerClient::new(url, tokens, Some(options))
            .map_err(|error| unsuitable(error.kind().to_string()))?;
        let inner = Inner {
            place,
            container,
            limits,
            immutability: None,
            wanted: Mutex::default(),
            budget: Budget::new(),
            requests: Semaphore::new(REQUESTS_AT_ONCE),
            held: Arc::new(Semaphore::new(HELD_BYTES_MAX)),
            markers: Markers::default(),
        };
        Ok(Self { inner: Arc::new(inner), runtime })
    }

    /// Asks whether the vault's container is there and may be read, and makes it where it is missing.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.run(async |inner: Arc<Inner>| {
            let doing = format!("open the vault in {}", inner.place.container());
            match inner.list_page("", None, None, 1).await {
                Ok(_) => {}
                Err(fault) if fault.verdict == Verdict::Final(StoreErrorKind::Unavailable) => {
                    inner.make_container().await.map_err(|fault| fault.into_error(doing))?;
                }
                Err(fault) => return Err(fault.into_error(doing)),
            }
            inner.check_immutability().await
        })
        .await
    }

    /// Runs `call` on the store's own runtime, where its connections live; it ends with the caller's patience.
    async fn run<T, F>(&self, call: impl FnOnce(Arc<Inner>) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let mut task = JoinSet::new();
        task.spawn_on(call(self.inner.clone()), &self.runtime);
        match task.join_next().await {
            Some(Ok(done)) => done,
            _ => {
                let (doing, cause) = ("call the vault".to_owned(), "the process is stopping".to_owned());
                Err(StoreError { kind: StoreErrorKind::Unavailable, doing, cause })
            }
        }
    }
}

/// What became of a call with all its tries.
struct Done<T> {
    outcome: Result<T, Fault>,
    /// An earlier try may have had its effect.
    unsure: bool,
}

impl<T> Done<T> {
    /// Where it does not matter whether an earlier try had its effect.
    fn certain(self, doing: &str) -> Result<T, StoreError> {
        self.outcome.map_err(|fault| fault.into_error(doing.to_owned()))
    }
}

impl Inner {
    /// Tries until it is done, it makes no sense, or the time is over.
    async fn tried<T, F>(&self, mut call: impl FnMut() -> F) -> Done<T>
    where
        F: Future<Output = azure_core::Result<T>>,
    {
        let (begun, mut tries, mut unsure) = (Instant::now(), 0, false);
        loop {
            tries += 1;
            let answer = {
                let _permit = self.requests.acquire().await.expect("never closed");
                call().await
            };
            let fault = match answer {
                Ok(value) => {
                    self.budget.earn();
                    return Done { outcome: Ok(value), unsure };
                }
                Err(error) => Fault::from(error),
            };
            let Verdict::Later(asked) = fault.verdict else { return Done { outcome: Err(fault), unsure } };
            unsure |= fault.unsure;
            let chance = f64::from(Uuid::new_v4().as_bytes()[0]) / 255.0;
            match self.limits.pause(tries, begun.elapsed(), asked, chance) {
                Some(pause) if self.budget.spend() => tokio::time::sleep(pause).await,
                _ => return Done { outcome: Err(fault), unsure },
            }
        }
    }

    fn blob(&self, name: &ObjectName) -> BlobClient {
        self.container.blob_client(&self.place.blob(name))
    }

    async fn make_container(&self) -> Result<(), Fault> {
        let done = self.tried(|| async { self.container.create(None).await.map(|_| ()) }).await;
        match done.outcome {
            // Somebody else made it just now.
            Err(fault) if fault.verdict == Verdict::Condition => Ok(()),
            outcome => outcome,
        }
    }

    /// Size, version and tag.
    async fn look(&self, name: &ObjectName) -> Result<(ObjectMeta, Option<String>), Fault> {
        let blob = self.blob(name);
        let properties = self.tried(|| async { blob.get_properties(None).await }).await.outcome?;
        let read = || -> azure_core::Result<_> {
            let meta = (properties.content_length()?, properties.etag()?);
            Ok((meta, properties.metadata()?.remove(TAG)))
        };
        match read()? {
            ((Some(bytes), Some(etag)), tag) => Ok((ObjectMeta { bytes, etag: ETag(etag.to_string()) }, tag)),
            _ => Err(Fault::new(Verdict::Later(None), "the answer names no size or no version")),
        }
    }

    /// After a refusal: is what is there our own, from a try whose answer was lost?
    async fn is_ours(&self, name: &ObjectName, unsure: bool, tag: &str) -> Result<Option<ETag>, Fault> {
        if !unsure {
            return Ok(None);
        }
        match self.look(name).await {
            Ok((meta, Some(found))) if found == tag => Ok(Some(meta.etag)),
            Ok(_) => Ok(None),
            Err(fault) if fault.verdict == Verdict::Missing => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn stage(&self, name: &ObjectName, token: &str, parts: &[Bytes]) -> Result<Staged, StoreError> {
        let doing = format!("stage {name}");
        let bytes = parts.iter().map(|part| part.len() as u64).sum();
        if bytes > OBJECT_BYTES_MAX {
            let text =
                format!("an object of {bytes} bytes has more than the {} blocks that Azure takes", blocks::BLOCKS_MAX);
            return Err(Fault::new(Verdict::Final(StoreErrorKind::Refused), text).into_error(doing));
        }
        let cut = cut(parts);
        let blocks = Blocks::of(name, token, bytes, cut.len() as u32);
        let staged = Staged::new(name.clone(), blocks.print(), bytes);
        if let Some(held) = self.hold(&staged, &cut) {
            return Ok(Staged { held: Some(Arc::new(held)), ..staged });
        }
        let blob = self.blob(name).block_blob_client();
        let (blob, blocks_of) = (&blob, &blocks);
        let staging = cut.into_iter().enumerate().map(|(index, block)| async move {
            let id = blocks_of.id(index as u32);
            let put = || {
                let (length, body, id) = (block.len() as u64, Body::Bytes(block.clone()).into(), &id);
                async move { blob.stage_block(id, length, body, None).await.map(|_| ()) }
            };
            self.tried(put).await.outcome
        });
        let sent: Result<Vec<()>, Fault> = stream::iter(staging).buffer_unordered(BLOCKS_AT_ONCE).try_collect().await;
        match sent {
            Ok(_) => {}
            // An object by other hands is there: publishing says so.
            Err(fault) if fault.verdict == Verdict::OtherBlocks && self.look(name).await.is_ok() => {}
            Err(fault) => return Err(fault.into_error(doing)),
        }
        Ok(staged)
    }

    /// Keeps an object of one block for publishing, where there is room for it.
    fn hold(&self, staged: &Staged, cut: &[Bytes]) -> Option<Held> {
        let bytes = match cut {
            [] => Bytes::new(),
            [one] => one.clone(),
            _ => return None,
        };
        let credit = self.held.clone().try_acquire_many_owned(bytes.len() as u32).ok()?;
        Some(Held { name: staged.name.clone(), token: staged.token.clone(), bytes, _credit: credit })
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        let (name, doing) = (&staged.name, format!("publish {}", staged.name));
        let Some(blocks) = Blocks::parse(&staged.token) else {
            let fault = Fault::new(Verdict::Final(StoreErrorKind::Refused), "these bytes were not staged here");
            return Err(fault.into_error(doing));
        };
        if let Some(bytes) = staged.held() {
            return self.create(name, bytes, &blocks.tag).await.map_err(|fault| fault.into_error(doing));
        }
        let blob = self.blob(name).block_blob_client();
        let policy = self.policy_of(name);
        let commit = || async {
            let list = BlockLookupList { latest: Some(blocks.ids()), ..BlockLookupList::default() };
            let options = BlockBlobClientCommitBlockListOptions {
                if_none_match: Some(Etag::from("*")),
                metadata: Some(tagged(&blocks.tag)),
                immutability_policy_expiry: policy.0,
                immutability_policy_mode: policy.1,
                ..Default::default()
            };
            blob.commit_block_list(list.try_into()?, Some(options)).await.map(|_| ())
        };
        let done = self.tried(commit).await;
        self.created(name, done, &blocks.tag).await.map_err(|fault| fault.into_error(doing))
    }

    /// What a create came to.
    async fn created(&self, name: &ObjectName, done: Done<()>, tag: &str) -> Result<PutOutcome, Fault> {
        let Err(fault) = done.outcome else { return Ok(PutOutcome::Created) };
        let there = match fault.verdict {
            Verdict::Condition => true,
            Verdict::NoSuchBlocks | Verdict::OtherBlocks => self.look(name).await.is_ok(),
            _ => false,
        };
        match there {
            false => Err(fault),
            true => Ok(match self.is_ours(name, done.unsure, tag).await? {
                Some(_) => PutOutcome::Created,
                None => PutOutcome::AlreadyExists,
            }),
        }
    }

    /// One request; `condition` makes it a create or a replace.
    async fn put(&self, name: &ObjectName, bytes: &Bytes, expected: Option<&ETag>, tag: &str) -> Done<Option<String>> {
        let blob = self.blob(name).block_blob_client();
        let policy = self.policy_of(name);
        self.tried(|| async {
            let options = BlockBlobClientUploadOptions {
                immutability_policy_expiry: policy.0,
                immutability_policy_mode: policy.1,
                if_match: expected.map(|etag| Etag::from(etag.0.clone())),
                if_none_match: expected.is_none().then(|| Etag::from("*")),
                metadata: Some(tagged(tag)),
                // In one piece, whatever its size: two would be no atomic replace.
                partition_size: Some(NonZeroU64::MAX),
                ..Default::default()
            };
            Ok(blob.upload(Body::Bytes(bytes.clone()).into(), Some(options)).await?.etag.map(|etag| etag.to_string()))
        })
        .await
    }

    /// Creates an object with one request.
    async fn create(&self, name: &ObjectName, bytes: &Bytes, tag: &str) -> Result<PutOutcome, Fault> {
        let Done { outcome, unsure } = self.put(name, bytes, None, tag).await;
        self.created(name, Done { outcome: outcome.map(|_| ()), unsure }, tag).await
    }

    async fn swap(&self, name: &ObjectName, expected: Option<&ETag>, bytes: &Bytes) -> Result<SwapOutcome, Fault> {
        let tag = Uuid::new_v4().simple().to_string();
        let done = self.put(name, bytes, expected, &tag).await;
        let etag = match done.outcome {
            Ok(Some(etag)) => Some(ETag(etag)),
            Ok(None) => Some(self.look(name).await?.0.etag),
            Err(fault) if matches!(fault.verdict, Verdict::Condition | Verdict::Missing) => {
                self.is_ours(name, done.unsure, &tag).await?
            }
            Err(fault) => return Err(fault),
        };
        Ok(etag.map_or(SwapOutcome::Conflict, SwapOutcome::Swapped))
    }

    async fn get(&self, name: &ObjectName, range: Option<HttpRange>) -> Result<(Bytes, ETag), Fault> {
        let blob = self.blob(name);
        let read = || async {
            let options = BlobClientDownloadOptions { range: range.clone(), ..Default::default() };
            let answer = blob.download(Some(options)).await?;
            let etag = answer.properties.etag.map(|etag| etag.to_string()).unwrap_or_default();
            Ok((answer.body.collect().await?, ETag(etag)))
        };
        match self.tried(read).await.outcome {
            // Replaced between two of its parts: what is there now can be had whole.
            Err(fault) if fault.verdict == Verdict::Condition => self.tried(read).await.outcome,
            outcome => outcome,
        }
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let doing = || format!("get a range of {name}");
        if offset < READ_MAX && len > 0 {
            let range = HttpRange::new(offset, len.min(READ_MAX));
            match self.get(name, Some(range)).await {
                Ok((bytes, _)) if !bytes.is_empty() => return Ok(bytes),
                // The emulator answers nothing, where Azure says that there is nothing.
                Ok(_) => {}
                Err(fault) if fault.verdict == Verdict::PastTheEnd => {}
                Err(fault) => return Err(fault.into_error(doing())),
            }
        }
        let size = self.look(name).await.map_err(|fault| fault.into_error(doing()))?.0.bytes;
        match (offset < size, len) {
            (false, _) => Err(super::past_the_end(name, offset, size)),
            (true, 0) => Ok(Bytes::new()),
            (true, _) => Err(Fault::new(Verdict::Later(None), "the answer to a range was empty").into_error(doing())),
        }
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let blob = self.blob(name);
        let done = self.tried(|| async { blob.delete(None).await.map(|_| ()) }).await;
        match done.outcome {
            Err(fault) if fault.verdict == Verdict::Missing => Ok(()),
            _ => done.certain(&format!("delete {name}")),
        }
    }
}

fn tagged(tag: &str) -> HashMap<String, String> {
    HashMap::from([(TAG.to_owned(), tag.to_owned())])
}

#[async_trait]
impl ObjectStore for AzureStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let (name, token) = (name.clone(), token.to_owned());
        self.run(async move |inner: Arc<Inner>| inner.stage(&name, &token, &parts).await).await
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        let staged = staged.clone();
        self.run(async move |inner: Arc<Inner>| inner.publish(&staged).await).await
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.inner.wanted.lock().insert(machine, span);
    }

    async fn put_if_absent(&self, name: &ObjectName, token: &str, bytes: Bytes) -> Result<PutOutcome, StoreError> {
        if bytes.len() > SINGLE_PUT_MAX {
            let staged = self.stage(name, &format!("{token} {}", Uuid::new_v4().simple()), vec![bytes]).await?;
            return self.publish(&staged).await;
        }
        let name = name.clone();
        self.run(async move |inner: Arc<Inner>| {
            let tag = Uuid::new_v4().simple().to_string();
            inner.create(&name, &bytes, &tag).await.map_err(|fault| fault.into_error(format!("put {name}")))
        })
        .await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        let (name, expected) = (name.clone(), expected.cloned());
        self.run(async move |inner: Arc<Inner>| {
            let swapped = inner.swap(&name, expected.as_ref(), &bytes).await;
            swapped.map_err(|fault| fault.into_error(format!("replace {name}")))
        })
        .await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        let name = name.clone();
        self.run(async move |inner: Arc<Inner>| {
            inner.get(&name, None).await.map_err(|fault| fault.into_error(format!("get {name}")))
        })
        .await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let name = name.clone();
        self.run(async move |inner: Arc<Inner>| inner.get_range(&name, offset, len).await).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        let name = name.clone();
        self.run(async move |inner: Arc<Inner>| {
            let found = inner.look(&name).await.map_err(|fault| fault.into_error(format!("look at {name}")))?;
            Ok(found.0)
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        self.run(async move |inner: Arc<Inner>| {
            let listed = inner.list(&prefix, after, limit).await;
            listed.map_err(|fault| fault.into_error(format!("list {prefix}")))
        })
        .await
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        let name = name.clone();
        self.run(async move |inner: Arc<Inner>| inner.delete(&name).await).await
    }
}

#[cfg(test)]
mod tests;
