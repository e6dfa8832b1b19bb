//! A page blob as a page target: the blob's sequence number is the epoch of whoever may write it.

use std::ops::Range;

use azure_storage_blob::PageBlobClient;
use azure_storage_blob::models::{
    PageBlobClientClearPagesOptions, PageBlobClientCreateOptions, PageBlobClientSetSequenceNumberOptions,
    PageBlobClientSetSequenceNumberResultHeaders, PageBlobClientUploadPagesOptions, SequenceNumberActionType,
};
use futures_util::TryStreamExt;

use super::super::pages::{PAGE_BYTES, PAGES_BYTES_MAX, PAGES_WRITE_MAX, PageTarget, PagesCreated};
use super::*;
use crate::ids::Epoch;

/// A page blob in a container.
#[derive(Debug, Clone)]
pub struct AzurePages {
    store: AzureStore,
}

impl AzurePages {
    /// The blob that `place` names: its prefix is the blob's name. Nothing is sent yet.
    ///
    /// # Errors
    /// A place without a name for the blob, a credential that cannot be one.
    pub fn new(
        place: AzurePlace,
        credential: &AzureCredential,
        limits: RetryLimits,
        runtime: Handle,
    ) -> Result<Self, StoreError> {
        if place.prefix().is_empty() {
            let doing = format!("open a page blob in {}", place.container());
            let cause = "the blob has no name: say azblob://account/container/NAME.vhd".to_owned();
            return Err(StoreError { kind: StoreErrorKind::Unsuitable, doing, cause });
        }
        Ok(Self { store: AzureStore::new(place, credential, limits, runtime)? })
    }

    /// Asks whether the container is there, and makes it where it is missing.
    pub async fn prepare(&self) -> Result<(), StoreError> {
        self.store.prepare().await
    }

    async fn run<T, F>(
        &self,
        doing: &'static str,
        call: impl FnOnce(Arc<Inner>, PageBlobClient) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Fault>> + Send + 'static,
    {
        let name = self.name();
        self.store
            .run(|inner: Arc<Inner>| {
                let blob = inner.container.blob_client(blob_name(&inner.place)).page_blob_client();
                let calling = call(inner, blob);
                async move { calling.await.map_err(|fault| fault.into_error(format!("{doing} {name}"))) }
            })
            .await
    }
}

/// A place's prefix without its last slash.
fn blob_name(place: &AzurePlace) -> &str {
    place.prefix().trim_end_matches('/')
}

/// Epochs as Azure counts: from 0 to 2^63 - 1.
fn number(epoch: Epoch) -> Result<i64, Fault> {
    let refused = || Fault::new(Verdict::Final(StoreErrorKind::Refused), "the epoch is no sequence number");
    i64::try_from(epoch.0).map_err(|_| refused())
}

/// Whole pages of what Azure takes.
fn pages(range: &Range<u64>) -> Result<HttpRange, Fault> {
    let whole = range.start.is_multiple_of(PAGE_BYTES) && range.end.is_multiple_of(PAGE_BYTES);
    if !whole || range.is_empty() || range.end > PAGES_BYTES_MAX {
        let text = format!("bytes {} to {} are no whole pages of {PAGE_BYTES}", range.start, range.end);
        return Err(Fault::new(Verdict::Final(StoreErrorKind::Refused), text));
    }
    Ok(HttpRange::new(range.start, range.end - range.start))
}

/// A condition that did not hold is another owner.
fn fenced(fault: Fault) -> Fault {
    match fault.verdict {
        Verdict::Condition => {
            let text = "somebody else has the blob by now: this one writes nothing more to it";
            Fault::new(Verdict::Final(StoreErrorKind::Refused), text)
        }
        _ => fault,
    }
}

#[async_trait]
impl PageTarget for AzurePages {
    fn name(&self) -> String {
        let place = &self.store.inner.place;
        format!("{}/{}", place.container(), blob_name(place))
    }

    async fn create(&self, bytes: u64, epoch: Epoch, replace: bool) -> Result<PagesCreated, StoreError> {
        self.run("create", move |inner, blob| async move {
            pages(&(0..bytes))?;
            let (epoch, tag) = (number(epoch)?, Uuid::new_v4().simple().to_string());
            let create = || async {
                let options = PageBlobClientCreateOptions {
                    blob_sequence_number: Some(epoch),
                    if_none_match: (!replace).then(|| Etag::from("*")),
                    metadata: Some(tagged(&tag)),
                    ..Default::default()
                };
                blob.create(bytes, Some(options)).await.map(|_| ())
            };
            let done = inner.tried(create).await;
            let fault = match done.outcome {
                Ok(()) => return Ok(PagesCreated::Created),
                Err(fault) if fault.verdict == Verdict::Condition => fault,
                Err(fault) => return Err(fault),
            };
            if !done.unsure {
                return Ok(PagesCreated::AlreadyExists);
            }
            // Its own, from a try whose answer was lost?
            let found = inner.container.blob_client(blob_name(&inner.place));
            let properties = inner.tried(|| async { found.get_properties(None).await }).await.outcome?;
            let theirs = properties.metadata().ok().and_then(|mut found| found.remove(TAG));
            match theirs {
                Some(theirs) if theirs == tag => Ok(PagesCreated::Created),
                Some(_) => Ok(PagesCreated::AlreadyExists),
                None => Err(fault),
            }
        })
        .await
    }

    async fn claim(&self, epoch: Epoch) -> Result<(), StoreError> {
        self.run("claim", move |inner, blob| async move {
            let epoch = number(epoch)?;
            let claim = || async {
                let options = PageBlobClientSetSequenceNumberOptions {
                    blob_sequence_number: Some(epoch),
                    ..PageBlobClientSetSequenceNumberOptions::default()
                };
                blob.set_sequence_number(SequenceNumberActionType::Max, Some(options)).await?.blob_sequence_number()
            };
            match inner.tried(claim).await.outcome? {
                Some(has) if has > epoch => Err(fenced(Fault::new(Verdict::Condition, ""))),
                _ => Ok(()),
            }
        })
        .await
    }

    async fn write(&self, offset: u64, bytes: Bytes, epoch: Epoch) -> Result<(), StoreError> {
        self.run("write to", move |inner, blob| async move {
            let (epoch, range) = (number(epoch)?, pages(&(offset..offset + bytes.len() as u64))?);
            if bytes.len() > PAGES_WRITE_MAX {
                let text = format!("{} bytes are more than one write takes", bytes.len());
                return Err(Fault::new(Verdict::Final(StoreErrorKind::Refused), text));
            }
            let write = || async {
                let options = PageBlobClientUploadPagesOptions {
                    if_sequence_number_equal_to: Some(epoch),
                    ..PageBlobClientUploadPagesOptions::default()
                };
                let body = Body::Bytes(bytes.clone()).into();
                blob.upload_pages(body, bytes.len() as u64, range.clone(), Some(options)).await.map(|_| ())
            };
            inner.tried(write).await.outcome.map_err(fenced)
        })
        .await
    }

    async fn clear(&self, range: Range<u64>, epoch: Epoch) -> Result<(), StoreError> {
        self.run("clear", move |inner, blob| async move {
            let (epoch, range) = (number(epoch)?, pages(&range)?);
            let clear = || async {
                let options = PageBlobClientClearPagesOptions {
                    if_sequence_number_equal_to: Some(epoch),
                    ..PageBlobClientClearPagesOptions::default()
                };
                blob.clear_pages(range.clone(), Some(options)).await.map(|_| ())
            };
            inner.tried(clear).await.outcome.map_err(fenced)
        })
        .await
    }

    async fn page(&self, offset: u64) -> Result<Option<Bytes>, StoreError> {
        self.run("read a page of", move |inner, _| async move {
            let blob = inner.container.blob_client(blob_name(&inner.place));
            let range = pages(&(offset..offset + PAGE_BYTES))?;
            let read = || async {
                let options = BlobClientDownloadOptions { range: Some(range.clone()), ..Default::default() };
                blob.download(Some(options)).await?.body.collect().await
            };
            match inner.tried(read).await.outcome {
                // The emulator answers nothing, where Azure says that there is nothing.
                Ok(bytes) => Ok((bytes.len() as u64 == PAGE_BYTES).then_some(bytes)),
                Err(fault) if matches!(fault.verdict, Verdict::Missing | Verdict::PastTheEnd) => Ok(None),
                Err(fault) => Err(fault),
            }
        })
        .await
    }

    async fn ranges(&self) -> Result<Vec<Range<u64>>, StoreError> {
        self.run("list the pages of", move |inner, blob| async move {
            let list = || async {
                let mut found = Vec::new();
                let mut pages = blob.list_page_ranges(None)?;
                while let Some(page) = pages.try_next().await? {
                    for range in page.into_model()?.page_ranges {
                        if let (Some(start), Some(end)) = (range.start, range.end) {
                            found.push(start.unsigned_abs()..end.unsigned_abs() + 1);
                        }
                    }
                }
                Ok(found)
            };
            inner.tried(list).await.outcome
        })
        .await
    }
}
