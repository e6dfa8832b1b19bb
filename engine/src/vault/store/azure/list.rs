//! Listing by pages. The marker behind each page is remembered for whoever asks for the next one. Who asks from a name
//! of his own begins there where the service knows `startFrom` (Azure does; the emulator begins at the prefix), and what
//! comes before is skipped.

use std::collections::VecDeque;

use azure_storage_blob::models::BlobContainerClientListBlobsOptions;
use futures_util::StreamExt;
use parking_lot::Mutex;

use super::super::{Listed, ObjectName};
use super::Inner;
use super::fault::Fault;

/// Azure's largest page.
const PAGE_MAX: usize = 5000;
/// Listings that may be under way at a time before one must begin again.
const MARKERS_MAX: usize = 64;

/// Where listings went on: after which name of which prefix, with which marker.
#[derive(Debug, Default)]
pub(super) struct Markers(Mutex<VecDeque<(String, ObjectName, String)>>);

impl Markers {
    fn keep(&self, prefix: &str, last: &ObjectName, marker: String) {
        let mut kept = self.0.lock();
        kept.retain(|(of, after, _)| of != prefix || after != last);
        kept.truncate(MARKERS_MAX - 1);
        kept.push_front((prefix.to_owned(), last.clone(), marker));
    }

    fn find(&self, prefix: &str, after: &ObjectName) -> Option<String> {
        let kept = self.0.lock();
        kept.iter().find(|(of, last, _)| of == prefix && last == after).map(|(_, _, marker)| marker.clone())
    }
}

/// A page, and the marker of the next.
pub(super) struct Page {
    found: Vec<Listed>,
    next: Option<String>,
}

impl Inner {
    /// Up to `limit` objects after `after`.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<ObjectName>,
        limit: usize,
    ) -> Result<Vec<Listed>, Fault> {
        let mut marker = after.as_ref().and_then(|after| self.markers.find(prefix, after));
        let mut skip = after.filter(|_| marker.is_none());
        let mut from = skip.clone().filter(|after| after.as_str().starts_with(prefix));
        let mut found: Vec<Listed> = Vec::new();
        while found.len() < limit {
            // One more than asked for: the name to start from comes too. While more are skipped, large pages.
            let want = match (&skip, &from) {
                (None, _) => limit - found.len(),
                (Some(_), Some(_)) => limit.saturating_add(1),
                (Some(_), None) => PAGE_MAX,
            };
            let page = self.list_page(prefix, from.take(), marker.take(), want.min(PAGE_MAX)).await?;
            let skipped = page.found.iter().take_while(|it| skip.as_ref().is_some_and(|skip| it.name <= *skip)).count();
            let fresh = page.found.into_iter().skip(skipped);
            let room = limit - found.len();
            let whole = fresh.len() <= room;
            found.extend(fresh.take(room));
            let Some(next) = page.next else { break };
            if let Some(last) = found.last() {
                skip = None;
                if whole {
                    self.markers.keep(prefix, &last.name, next.clone());
                }
            }
            marker = Some(next);
        }
        Ok(found)
    }

    /// One page of Azure's.
    pub(super) async fn list_page(
        &self,
        prefix: &str,
        from: Option<ObjectName>,
        marker: Option<String>,
        limit: usize,
    ) -> Result<Page, Fault> {
        let full = format!("{}{prefix}", self.place.prefix());
        let list = || async {
            let options = BlobContainerClientListBlobsOptions {
                prefix: Some(full.clone()).filter(|prefix| !prefix.is_empty()),
                marker: marker.clone(),
                start_from: from.as_ref().map(|name| self.place.blob(name)),
                maxresults: Some(limit as i32),
                ..Default::default()
            };
            match self.container.list_blobs(Some(options))?.into_pages().next().await {
                Some(page) => Ok(Some(page?.into_model()?)),
                None => Ok(None),
            }
        };
        let Some(model) = self.tried(list).await.outcome? else { return Ok(Page { found: Vec::new(), next: None }) };
        let found = model.blob_items.into_iter().filter_map(|item| {
            let name = self.place.object(&item.name?)?;
            Some(Listed { name, bytes: item.properties?.content_length? })
        });
        Ok(Page { found: found.collect(), next: model.next_marker.filter(|marker| !marker.is_empty()) })
    }
}
