//! Reads everything in a vault and tells which objects are not what was written, and which points of which disks that
//! touches.
//!
//! ```text
//!   list ─► keys, catalog, descriptions, manifests: opened
//!        └► each log object: footer, header, items, digests, index (object.rs)
//!   each timeline: chained and read as a reader would ─► first break: everything behind it is lost
//!        └► bad frames of the readable part ─► which marks still need a byte of them (touch.rs)
//! ```
//!
//! Damage never ends a verify and never panics it (I9); only a store that does not answer does. A wrong key does not get
//! here: the vault does not open with it.

mod log;
mod object;
mod report;
mod scope;
#[cfg(test)]
mod tests;
mod touch;

use std::collections::{BTreeMap, BTreeSet};

use futures_util::stream::{self, StreamExt};

pub use self::report::{BadObjectReport, MachineReport, TimelineReport, TouchedPoint, VerifyReport};
pub use self::scope::{PointScope, Scope};

pub(in crate::vault) use self::log::{Findings, LiveObject, check_live, live_objects, open_live};
pub(in crate::vault) use self::object::ObjectFaults;
pub(in crate::vault) use self::scope::share_of;
pub(in crate::vault) use self::touch::Place;

use super::error::{Damage, ReadError};
use super::open_vault::{Credential, KeysFault, OpenVault, open_keys};
use super::segment_view::{LogSource, ObjectPlace};
use crate::ids::{MachineId, TimelineId};
use crate::vault::about::About;
use crate::vault::catalog::Catalog;
use crate::vault::crypto::VaultKey;
use crate::vault::layout::ObjectName;
use crate::vault::manifest::Manifest;
use crate::vault::store::{ObjectStore, StoreError};
use bytes::Bytes;

/// Log objects read at once. Chosen: one frame of each is in memory, and two cores are busy.
const OBJECTS_IN_FLIGHT: usize = 4;
/// Names asked for in one list call.
const LIST_LIMIT: usize = 5000;

/// How far a verify is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Objects checked.
    pub objects_done: u64,
    /// Objects there are.
    pub objects_total: u64,
}

/// What a listing shows.
#[derive(Debug, Default)]
struct Contents {
    objects: u64,
    bytes: u64,
    keys: Vec<ObjectName>,
    catalog: Vec<ObjectName>,
    machines: BTreeMap<MachineId, MachineContents>,
    foreign: Vec<String>,
}

#[derive(Debug, Default)]
struct MachineContents {
    abouts: Vec<ObjectName>,
    timelines: BTreeSet<TimelineId>,
    manifests: BTreeSet<TimelineId>,
}

/// Verifies a vault, as far as the scope goes.
pub async fn verify(
    vault: &OpenVault,
    scope: &Scope,
    progress: &(dyn Fn(VerifyProgress) + Sync),
) -> Result<VerifyReport, ReadError> {
    let contents = Contents::list(&**vault.store()).await.map_err(ReadError::Store)?;
    let report = VerifyReport {
        vault: vault.vault(),
        objects: contents.objects,
        bytes: contents.bytes,
        foreign: contents.foreign.clone(),
        scope: scope.to_string(),
        ..VerifyReport::default()
    };
    let mut run = Verify { vault, scope, report, progress, done: 0, total: contents.objects };
    run.keys(&contents.keys).await?;
    run.catalog(&contents.catalog).await?;
    for (machine, found) in contents.machines.iter().filter(|(machine, _)| scope.has(**machine)) {
        run.machine(*machine, found).await?;
    }
    Ok(run.report)
}

impl Contents {
    async fn list(store: &dyn ObjectStore) -> Result<Self, StoreError> {
        let mut contents = Self::default();
        let mut after = None;
        loop {
            let lines = store.list("", after.as_ref(), LIST_LIMIT).await?;
            for line in &lines {
                contents.objects += 1;
                contents.bytes += line.bytes;
                if contents.take(&line.name).is_none() {
                    contents.foreign.push(line.name.to_string());
                }
            }
            match lines.last() {
                Some(last) if lines.len() == LIST_LIMIT => after = Some(last.name.clone()),
                _ => return Ok(contents),
            }
        }
    }

    /// Puts a name where it belongs. `None` where it belongs nowhere.
    fn take(&mut self, name: &ObjectName) -> Option<()> {
        let parts: Vec<&str> = name.as_str().split('/').collect();
        let numbered = name.number().is_some();
        match parts.as_slice() {
            ["keys", _] if numbered => self.keys.push(name.clone()),
            ["catalog", _] if numbered => self.catalog.push(name.clone()),
            ["machines", machine, "about", _] if numbered => {
                self.machines.entry(machine.parse().ok()?).or_default().abouts.push(name.clone());
            }
            ["machines", machine, timeline, "log", _] if numbered => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().timelines.insert(timeline);
            }
            ["machines", machine, timeline, "runs", ..] if name.run().is_some() => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().timelines.insert(timeline);
            }
            ["machines", machine, timeline, "manifest"] => {
                let (machine, timeline) = (machine.parse().ok()?, timeline.parse().ok()?);
                self.machines.entry(machine).or_default().manifests.insert(timeline);
            }
            _ => return None,
        }
        Some(())
    }
}

struct Verify<'a> {
    vault: &'a OpenVault,
    scope: &'a Scope,
    report: VerifyReport,
    progress: &'a (dyn Fn(VerifyProgress) + Sync),
    done: u64,
    total: u64,
}

impl Verify<'_> {
    fn step(&mut self) {
        self.done += 1;
        (self.progress)(VerifyProgress { objects_done: self.done, objects_total: self.total.max(self.done) });
    }

    /// Reads a small object whole; notes it as bad where that shows damage.
    async fn small(&mut self, name: &ObjectName) -> Result<Option<bytes::Bytes>, ReadError> {
        self.step();
        match self.vault.store().get(name).await.map_err(|error| ReadError::store(name, error)) {
            Ok((bytes, _)) => Ok(Some(bytes)),
            Err(ReadError::Damaged { damage, .. }) => {
                self.report.bad(name.as_str()).problem(damage);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    async fn keys(&mut self, names: &[ObjectName]) -> Result<(), ReadError> {
        if names.is_empty() {
            self.report.bad(ObjectName::keys(1).as_str()).problem(
                "no key object is there: only the vault key itself opens this vault; restore keys/ from a copy",
            );
        }
        let credential = Credential::Key(self.vault.key().clone());
        for name in names {
            let Some(bytes) = self.small(name).await? else { continue };
            match open_keys(name, &bytes, &credential) {
                Ok(_) => {}
                Err(KeysFault::Damaged(damage)) => self.report.bad(name.as_str()).problem(damage),
                // A rotation that was cut off leaves the object of the key before: it counts no more.
                Err(KeysFault::Refused(_)) if self.opens_with_the_previous(name, &bytes) => {}
                Err(KeysFault::Refused(error)) => self.report.bad(name.as_str()).problem(error),
            }
        }
        Ok(())
    }

    fn opens_with_the_previous(&self, name: &ObjectName, bytes: &Bytes) -> bool {
        let previous = self.vault.previous_key().cloned().map(Credential::Key);
        previous.is_some_and(|credential| open_keys(name, bytes, &credential).is_ok())
    }

    async fn catalog(&mut self, names: &[ObjectName]) -> Result<(), ReadError> {
        for name in names {
            let Some(bytes) = self.small(name).await? else { continue };
            let open = |key: &VaultKey| Catalog::open(name.number().unwrap_or(0), &bytes, key);
            if let Err(error) = self.vault.with_keys(open) {
                self.report.bad(name.as_str()).problem(Damage::from(error));
            }
        }
        Ok(())
    }

    async fn machine(&mut self, machine: MachineId, found: &MachineContents) -> Result<(), ReadError> {
        let mut newest: Option<About> = None;
        for name in found.abouts.iter().rev() {
            self.step();
            match self.vault.about(machine, name).await? {
                Ok(about) => newest = newest.or(Some(about)),
                Err(damage) => self.report.bad(name.as_str()).problem(damage),
            }
        }
        let Some(about) = newest else {
            if found.abouts.is_empty() {
                let name = ObjectName::about(machine, 1);
                self.report.bad(name.as_str()).problem("no description of the machine is there, and none of its key");
            }
            let entry = MachineReport { machine, name: String::new(), timelines: Vec::new(), locked: true };
            self.report.machines.push(entry);
            return Ok(());
        };
        let source = self.vault.source(&about)?;
        let described: BTreeSet<TimelineId> = about.timelines.iter().map(|timeline| timeline.id).collect();
        for timeline in &found.manifests {
            self.manifest(&source, *timeline).await?;
        }
        let (mut findings, mut slots) = (Findings::default(), BTreeMap::new());
        for timeline in &found.timelines {
            let filled = self.log_objects(&source, *timeline, &mut findings).await?;
            slots.insert(*timeline, filled);
        }
        let mut timelines = Vec::new();
        for timeline in &found.timelines {
            let mut entry = findings.map(&mut self.report, &source, *timeline).await?;
            entry.slots = slots[timeline];
            entry.described = described.contains(timeline);
            timelines.push(entry);
        }
        self.report.machines.push(MachineReport { machine, name: about.name.clone(), timelines, locked: false });
        Ok(())
    }

    async fn manifest(&mut self, source: &LogSource, timeline: TimelineId) -> Result<(), ReadError> {
        let name = ObjectName::manifest(source.machine(), timeline);
        if let Some(bytes) = self.small(&name).await?
            && let Err(error) = Manifest::open(source.machine(), timeline, &bytes, source.key())
        {
            self.report.bad(name.as_str()).problem(Damage::from(error));
        }
        Ok(())
    }

    /// Reads every log object of a timeline whole; gives the number of filled slots.
    async fn log_objects(
        &mut self,
        source: &LogSource,
        timeline: TimelineId,
        findings: &mut Findings,
    ) -> Result<u64, ReadError> {
        let (objects, slots, missing) = live_objects(source, timeline).await?;
        for slot in missing {
            findings.take((timeline, ObjectPlace::Slot(slot)), Err(Damage::Missing));
        }
        let taken = |object: &LiveObject| self.scope.takes(source.machine(), &(timeline, object.place));
        let (objects, left): (Vec<_>, Vec<_>) = objects.into_iter().partition(taken);
        self.report.log_objects_read += objects.len() as u64;
        self.report.log_objects_left += left.len() as u64;
        left.iter().for_each(|_| self.step());
        let checks = objects.into_iter().map(|object| {
            let source = source.clone();
            async move {
                let task = tokio::spawn(async move { check_live(&source, timeline, object).await });
                (object.place, task.await.expect("checking bad input never panics"))
            }
        });
        let mut checked = stream::iter(checks).buffered(OBJECTS_IN_FLIGHT);
        while let Some((place, result)) = checked.next().await {
            self.step();
            findings.take((timeline, place), result?);
        }
        findings.note(&mut self.report, source.machine(), timeline);
        Ok(slots)
    }
}
