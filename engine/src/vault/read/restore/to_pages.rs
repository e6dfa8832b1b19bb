//! A point's disk written to a page target as a fixed VHD: what Azure makes a managed disk of.
//!
//! A new target is zero all over, so only pages that are not zero travel, in the order of the disk, several writes at a time.
//! The last page is the disk's footer, and it goes last: until it is there nothing takes the blob for a disk. Meanwhile that
//! page holds a note of what is being written and how far it is.
//!
//! ```text
//!   0        disk ──►  written up to done_until        file_bytes - 512
//!   ├──────────────────────────┤                       │ note, then footer │
//! ```
//!
//! Crash story: what a killed export leaves is a page blob with a note. The next export of the same point to it claims it with
//! its higher epoch, which ends whatever of the first is still on its way, and goes on where the note says. One of anything
//! else replaces it with `force`, and refuses without.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::target::{Identity, Note};
use super::{NOTE_EVERY_BYTES, Progress, RestoreError, RestorePlan, STRETCH_BYTES};
use crate::ids::Epoch;
use crate::vault::export::Format;
use crate::vault::read::frame_cache::FrameCache;
use crate::vault::read::timeline::TimelineReader;
use crate::vault::read::volume::{Volume, VolumeLimits};
use crate::vault::store::StoreError;
use crate::vault::store::pages::{PAGE_BYTES, PAGES_WRITE_MAX, PageTarget, PagesCreated};

/// Writes on their way at once. Chosen: four of 4 MiB fill 1 Gbit/s at 100 ms.
const WRITES_AT_ONCE: usize = 4;
/// Frames that are kept: those of neighbouring windows are the same.
const FRAMES_BYTES: usize = 128 << 20;
/// Zeroes within a write that are not worth another one.
const GAP_BYTES: usize = 64 << 10;
/// How a page with a note begins; a VHD's footer begins with `conectix`.
const NOTE_MAGIC: &[u8; 8] = b"FSHRPART";
/// Bytes of a note's checksum, BLAKE3 cut short.
const NOTE_SUM_BYTES: usize = 16;

impl RestorePlan {
    /// Writes the plan's only disk to `target`, a fixed VHD; `reader` is what the plan was made of. Gives the bytes that
    /// travelled.
    ///
    /// # Panics
    /// With a plan of several disks, or of another format.
    pub async fn export_to_pages(
        &self,
        reader: &TimelineReader,
        target: &dyn PageTarget,
        epoch: Epoch,
        force: bool,
        progress: &(dyn Fn(Progress) + Sync),
    ) -> Result<u64, RestoreError> {
        assert!(self.disks.len() == 1 && self.format == Format::VhdFixed, "one disk is written to one page blob");
        let (disk, size_bytes) = (&self.disks[0], self.disks[0].disk.size_bytes);
        let frames = Arc::new(FrameCache::new(FRAMES_BYTES));
        let limits = VolumeLimits { read_ahead_bytes: 0, ..VolumeLimits::default() };
        let volume = Volume::of_point(reader, &self.point, disk.disk.disk, frames, limits)?;
        let notes = NotePage { of: self.identity(disk), target, epoch };
        let done_until = match target.create(disk.file_bytes, epoch, false).await? {
            PagesCreated::Created => 0,
            PagesCreated::AlreadyExists => match notes.take_over().await? {
                Some(done_until) => done_until,
                None if force => {
                    target.create(disk.file_bytes, epoch, true).await?;
                    0
                }
                None => return Err(RestoreError::TargetExists(target.name())),
            },
        };
        let (report, sent) = (self.reporter(progress), AtomicU64::new(0));
        notes.write(done_until).await?;
        let (mut at, mut noted) = (0, 0);
        while at < size_bytes {
            let map = volume.map(at).await?;
            let end = map.window().end.min(at + STRETCH_BYTES);
            let from = at.max(done_until.min(end));
            // What an earlier export did counts.
            report(map.runs(at..from).filter(|run| !run.is_zero()).map(|run| run.len).sum());
            let data: Vec<Range<u64>> =
                map.runs(from..end).filter(|run| !run.is_zero()).map(|run| run.offset..run.offset + run.len).collect();
            let work = windows(&data, size_bytes).into_iter().map(|window| {
                let (volume, sent, report, data) = (&volume, &sent, &report, &data);
                async move {
                    let mut bytes = vec![0; (window.end - window.start) as usize];
                    let held = (window.end.min(size_bytes) - window.start) as usize;
                    volume.read(window.start, &mut bytes[..held]).await?;
                    let bytes = Bytes::from(bytes);
                    for part in parts(&bytes) {
                        sent.fetch_add(part.len() as u64, Ordering::Relaxed);
                        target.write(window.start + part.start as u64, bytes.slice(part), epoch).await?;
                    }
                    let overlap =
                        |run: &Range<u64>| run.end.min(window.end).saturating_sub(run.start.max(window.start));
                    report(data.iter().map(overlap).sum());
                    Ok::<(), RestoreError>(())
                }
            });
            stream::iter(work).buffer_unordered(WRITES_AT_ONCE).try_collect::<()>().await?;
            at = end;
            if sent.load(Ordering::Relaxed) >= noted + NOTE_EVERY_BYTES {
                noted = sent.load(Ordering::Relaxed);
                notes.write(end).await?;
            }
        }
        for (at, bytes) in disk.layout.metadata() {
            sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            target.write(at, bytes.into(), epoch).await?;
        }
        Ok(sent.load(Ordering::Relaxed))
    }
}

/// The blob's last page while the export is under way.
struct NotePage<'a> {
    of: Identity,
    target: &'a dyn PageTarget,
    epoch: Epoch,
}

impl NotePage<'_> {
    fn offset(&self) -> u64 {
        self.of.file_bytes - PAGE_BYTES
    }

    /// All of the disk before `done_until` is in the blob.
    async fn write(&self, done_until: u64) -> Result<(), StoreError> {
        let text = serde_json::to_vec(&Note { of: self.of.clone(), done_until }).expect("plain data");
        let mut page = Vec::with_capacity(PAGE_BYTES as usize);
        page.extend_from_slice(NOTE_MAGIC);
        page.extend_from_slice(&blake3::hash(&text).as_bytes()[..NOTE_SUM_BYTES]);
        page.extend_from_slice(&text);
        assert!(page.len() <= PAGE_BYTES as usize, "five numbers and three identities have room in a page");
        page.resize(PAGE_BYTES as usize, 0);
        self.target.write(self.offset(), page.into(), self.epoch).await
    }

    /// Up to where the disk is in the blob, where the very same export left it there.
    async fn read(&self) -> Result<Option<u64>, StoreError> {
        let Some(page) = self.target.page(self.offset()).await? else { return Ok(None) };
        let Some(rest) = page.strip_prefix(NOTE_MAGIC) else { return Ok(None) };
        let Some((sum, text)) = rest.split_at_checked(NOTE_SUM_BYTES) else { return Ok(None) };
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let whole = blake3::hash(text).as_bytes()[..NOTE_SUM_BYTES] == *sum;
        let note = whole.then(|| serde_json::from_slice::<Note>(text).ok()).flatten();
        Ok(note.filter(|note| note.of == self.of).map(|note| note.done_until))
    }

    /// Makes the blob ours, where it is what an earlier export of the very same left.
    async fn take_over(&self) -> Result<Option<u64>, StoreError> {
        if self.read().await?.is_none() {
            return Ok(None);
        }
        self.target.claim(self.epoch).await?;
        // Again: somebody may have replaced it in between.
        self.read().await
    }
}

/// Aligned windows of a write's size that hold any of the data; the last ends at a page.
fn windows(data: &[Range<u64>], size_bytes: u64) -> Vec<Range<u64>> {
    let step = PAGES_WRITE_MAX as u64;
    let mut starts: Vec<u64> =
        data.iter().flat_map(|run| (run.start / step..run.end.div_ceil(step)).map(|index| index * step)).collect();
    starts.dedup();
    starts.into_iter().map(|start| start..(start + step).min(size_bytes.next_multiple_of(PAGE_BYTES))).collect()
}

/// What of a window is not zero, in whole pages; close neighbours go together.
fn parts(bytes: &[u8]) -> Vec<Range<usize>> {
    let page = PAGE_BYTES as usize;
    let mut parts: Vec<Range<usize>> = Vec::new();
    for (index, _) in bytes.chunks(page).enumerate().filter(|(_, page)| page.iter().any(|byte| *byte != 0)) {
        let (start, end) = (index * page, (index + 1) * page);
        match parts.last_mut() {
            Some(last) if start - last.end <= GAP_BYTES => last.end = end,
            _ => parts.push(start..end),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use parking_lot::Mutex;

    use super::super::{file_name, plan_as};
    use super::*;
    use crate::ids::DiskNo;
    use crate::vault::read::test_log::TestLog;
    use crate::vault::store::StoreErrorKind;

    /// A page blob in memory, with Azure's rules.
    #[derive(Default)]
    struct Pages(Mutex<Option<(Vec<u8>, Epoch)>>);

    fn refused(cause: &str) -> StoreError {
        StoreError { kind: StoreErrorKind::Refused, doing: "write".into(), cause: cause.into() }
    }

    #[async_trait]
    impl PageTarget for Pages {
        fn name(&self) -> String {
            "pages".into()
        }

        async fn create(&self, bytes: u64, epoch: Epoch, replace: bool) -> Result<PagesCreated, StoreError> {
            let mut blob = self.0.lock();
            assert!(bytes.is_multiple_of(PAGE_BYTES));
            if blob.is_some() && !replace {
                return Ok(PagesCreated::AlreadyExists);
            }
            *blob = Some((vec![0; bytes as usize], epoch));
            Ok(PagesCreated::Created)
        }

        async fn claim(&self, epoch: Epoch) -> Result<(), StoreError> {
            let mut blob = self.0.lock();
            let (_, owner) = blob.as_mut().ok_or_else(|| refused("nothing is there"))?;
            *owner = epoch.max(*owner);
            if *owner == epoch { Ok(()) } else { Err(refused("fenced")) }
        }

        async fn write(&self, offset: u64, bytes: Bytes, epoch: Epoch) -> Result<(), StoreError> {
            let mut blob = self.0.lock();
            let (held, owner) = blob.as_mut().ok_or_else(|| refused("nothing is there"))?;
            assert!(bytes.len() <= PAGES_WRITE_MAX && bytes.len().is_multiple_of(PAGE_BYTES as usize));
            assert!(offset.is_multiple_of(PAGE_BYTES));
            if *owner != epoch {
                return Err(refused("fenced"));
            }
            held[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
            Ok(())
        }

        async fn clear(&self, _: Range<u64>, _: Epoch) -> Result<(), StoreError> {
            unreachable!("a new blob is zero all over")
        }

        async fn page(&self, offset: u64) -> Result<Option<Bytes>, StoreError> {
            let blob = self.0.lock();
            let held = blob.as_ref().and_then(|(held, _)| held.get(offset as usize..offset as usize + 512));
            Ok(held.map(Bytes::copy_from_slice))
        }

        async fn ranges(&self) -> Result<Vec<Range<u64>>, StoreError> {
            unreachable!("nobody asks")
        }
    }

    #[tokio::test]
    async fn a_point_in_a_page_blob_is_the_fixed_vhd_that_a_file_would_be() {
        let dir = tempfile::tempdir().expect("a directory");
        // No whole MiB, so that the VHD is larger than the disk.
        let size = (9 << 20) + 4096 * 3;
        let mut log = TestLog::new(&[size]).await;
        for (at, len) in [(0, 512), (70_000, 1), (4 << 20, 9000), (size - 4096, 4096), ((5 << 20) - 100, 300)] {
            log.write(0, at, &vec![0x5a; len]);
        }
        log.mark();
        log.end_segment().await;
        let reader = log.reader().await;
        let point = reader.newest().expect("a point");
        let plan = plan_as(&reader, point, &[DiskNo(0)], dir.path(), Format::VhdFixed).await.expect("a plan");
        plan.perform(false, &|_| ()).await.expect("a file");
        let name = format!("{}.vhd", file_name(&plan.disks[0].disk.name));
        let file = std::fs::read(dir.path().join(name)).expect("the file");

        let pages = Pages::default();
        let export = |epoch, force| plan.export_to_pages(&reader, &pages, Epoch(epoch), force, &|_| ());
        let sent = export(3, false).await.expect("it is exported");
        assert!(pages.0.lock().as_ref().is_some_and(|(held, _)| *held == file), "byte for byte");
        assert!(sent < 100_000, "{sent} bytes travelled: zeroes do not");
        assert!(matches!(export(4, false).await, Err(RestoreError::TargetExists(_))));
        export(4, true).await.expect("replaced");
        assert!(pages.write(0, vec![1; 512].into(), Epoch(3)).await.is_err(), "the first one's time is over");
        assert!(pages.0.lock().as_ref().is_some_and(|(held, _)| *held == file));
    }

    #[tokio::test]
    async fn an_interrupted_export_goes_on_where_its_note_says_and_never_on_anothers() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = TestLog::new(&[8 << 20]).await;
        for at in [1 << 20, 6 << 20] {
            log.write(0, at, &[7; 8192]);
            log.mark();
        }
        log.end_segment().await;
        let reader = log.reader().await;
        let points: Vec<_> = reader.points();
        let mut plans = Vec::new();
        for point in &points {
            let plan = plan_as(&reader, point.clone(), &[DiskNo(0)], dir.path(), Format::VhdFixed).await;
            plans.push(plan.expect("a plan"));
        }
        let [older, newer] = plans.as_slice() else { panic!("two points, not {}", plans.len()) };
        let pages = Pages::default();
        newer.export_to_pages(&reader, &pages, Epoch(1), false, &|_| ()).await.expect("a whole export");
        let whole = pages.0.lock().as_ref().expect("a blob").0.clone();

        // What a killed export leaves: its first half, which nobody may write again, and its note.
        let (half, bytes) = (4 << 20, newer.disks[0].file_bytes);
        pages.create(bytes, Epoch(2), true).await.expect("made anew");
        pages.write(1 << 20, vec![0x77; 8192].into(), Epoch(2)).await.expect("the first half");
        let note = NotePage { of: newer.identity(&newer.disks[0]), target: &pages, epoch: Epoch(2) };
        note.write(half).await.expect("noted");
        let other = older.export_to_pages(&reader, &pages, Epoch(3), false, &|_| ()).await;
        assert!(matches!(other, Err(RestoreError::TargetExists(_))), "another point's: {other:?}");
        note.write(half).await.expect("a refused export has taken nothing over");
        let last = Mutex::new(None);
        let report = |at| *last.lock() = Some(at);
        newer.export_to_pages(&reader, &pages, Epoch(4), false, &report).await.expect("gone on with");
        note.write(0).await.expect_err("the first one's time is over");
        assert!(last.lock().is_some_and(|at| at.bytes_done == at.bytes_total), "the first half counts");
        let mut expected = whole.clone();
        expected[1 << 20..][..8192].fill(0x77);
        assert!(
            pages.0.lock().as_ref().is_some_and(|(held, _)| *held == expected),
            "the half that was done is left alone"
        );

        // A note that is not whole is none.
        pages.create(bytes, Epoch(5), true).await.expect("made anew");
        NotePage { epoch: Epoch(5), ..note }.write(half).await.expect("noted");
        pages.0.lock().as_mut().expect("a blob").0[bytes as usize - 400] ^= 1;
        let refused = newer.export_to_pages(&reader, &pages, Epoch(6), false, &|_| ()).await;
        assert!(matches!(refused, Err(RestoreError::TargetExists(_))), "{refused:?}");
        newer.export_to_pages(&reader, &pages, Epoch(6), true, &|_| ()).await.expect("replaced");
        assert!(pages.0.lock().as_ref().is_some_and(|(held, _)| *held == whole));
    }

    #[test]
    fn only_pages_that_hold_something_travel_and_close_ones_together() {
        let mut bytes = vec![0; PAGES_WRITE_MAX];
        assert_eq!(parts(&bytes), []);
        bytes[513] = 1;
        bytes[40_000] = 1;
        bytes[PAGES_WRITE_MAX - 1] = 1;
        assert_eq!(parts(&bytes), [512..40_448, PAGES_WRITE_MAX - 512..PAGES_WRITE_MAX]);
        let step = PAGES_WRITE_MAX as u64;
        assert_eq!(windows(&[0..1, 5..step + 1], step + 4096), [0..step, step..step + 4096]);
    }
}
