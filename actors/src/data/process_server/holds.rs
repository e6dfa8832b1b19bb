//! Holds of points, and what retention would do: read and put where points are read.

use actix::prelude::*;
use farshore_engine::control::messages::{HoldInfo, MergingReport, RetentionReport};
use farshore_engine::ids::{MachineId, TimelineId};
use farshore_engine::vault::crypto::DataKey;
use farshore_engine::vault::manifest::{Pin, PinKind};
use farshore_engine::vault::manifest_keeper::ChangeError;
use farshore_engine::vault::merge::preview;
use farshore_engine::vault::pins::{PinError, drop_pins, put_pin};
use farshore_engine::vault::read::timeline::TimelineReader;
use farshore_engine::vault::retention::Why;

use super::ProcessServer;
use super::points::{PointServer, choose, info_of};
use crate::data::DataError;
use crate::data::lease::PinPlace;
use crate::data::messages::{HoldPoint, PlanRetention, ReleaseHold};
use crate::supervise::wall_clock;

/// Most points of a plan that are named.
const NAMED_MAX: usize = 100;

impl PointServer {
    async fn plan(
        &self,
        msg: PlanRetention,
        policy: &farshore_engine::vault::merge::plan::MergePolicy,
    ) -> Result<RetentionReport, DataError> {
        let reader = self.reader(msg.machine, msg.timeline, &msg.data_key).await?;
        let found = preview(&reader, &msg.ladder, policy, wall_clock());
        let points = reader.points();
        let named = found.plan.dropped.iter().take(NAMED_MAX).filter_map(|lsn| {
            let at = points.binary_search_by_key(lsn, |point| point.lsn).ok()?;
            Some(info_of(points[at].clone()))
        });
        let mut kept: Vec<(String, u64)> = Vec::new();
        for (_, why) in &found.plan.kept {
            let name = match why {
                Why::Rung(rung) => rung.to_string(),
                Why::Pinned => "pinned".into(),
                Why::Newest => "newest".into(),
                Why::ClocksApart => "clocks_apart".into(),
            };
            match kept.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => kept.push((name, 1)),
            }
        }
        kept.sort();
        let standing = &found.standing;
        Ok(RetentionReport {
            counted_from: found.plan.counted_from,
            dropped: found.plan.dropped.len() as u64,
            dropped_first: named.collect(),
            kept,
            standing: MergingReport {
                points: standing.points as u64,
                live_segments: standing.live as u64,
                live_bytes: standing.live_bytes,
                runs: standing.runs as u64,
                run_bytes: standing.run_bytes,
                pins: standing.pins as u64,
                waiting: standing.doomed as u64,
                ..MergingReport::default()
            },
            next_merge: found
                .next
                .map(|step| (format!("{:?}", step.reason).to_lowercase(), step.from, step.to, step.bytes)),
            holds: holds(&reader),
        })
    }

    async fn hold(&self, msg: HoldPoint) -> Result<HoldInfo, DataError> {
        let mut reader = self.reader(msg.machine, msg.timeline, &msg.data_key).await?;
        let point = choose(&reader, msg.point).ok_or(DataError::PointUnknown(msg.machine))?;
        let pin = Pin {
            id: msg.hold,
            kind: PinKind::Hold,
            lsn: point.lsn,
            created_at: wall_clock(),
            note: msg.reason,
            expires_at: msg.expires_at,
        };
        let keeper = PinPlace::of(&self.store, &reader).keeper();
        put_pin(&mut reader, &keeper, &pin).await?;
        Ok(hold_info(&reader, &pin))
    }

    async fn release_hold(
        &self,
        machine: MachineId,
        timeline: TimelineId,
        key: DataKey,
        hold: String,
    ) -> Result<bool, DataError> {
        let keeper = PinPlace { store: self.store.clone(), machine, timeline, key }.keeper();
        let (manifest, _) = keeper.read(farshore_engine::ids::Epoch::ZERO).await?;
        // What a reader or a timeline needs is not an operator's to give up.
        if !manifest.pins.iter().any(|pin| pin.id == hold && pin.kind == PinKind::Hold) {
            return Ok(false);
        }
        Ok(drop_pins(&keeper, &[hold]).await.map_err(PinError::from)? > 0)
    }
}

fn holds(reader: &TimelineReader) -> Vec<HoldInfo> {
    reader.manifest().map_or(Vec::new(), |manifest| manifest.pins.iter().map(|pin| hold_info(reader, pin)).collect())
}

fn hold_info(reader: &TimelineReader, pin: &Pin) -> HoldInfo {
    HoldInfo {
        hold: pin.id.clone(),
        kind: pin.kind,
        lsn: pin.lsn,
        point: reader.points().into_iter().find(|point| point.lsn == pin.lsn).map(info_of),
        reason: pin.note.clone(),
        created_at: pin.created_at,
        expires_at: pin.expires_at,
    }
}

impl From<PinError> for DataError {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Read(error) | PinError::Change(ChangeError::Read(error)) => error.into(),
            PinError::Change(ChangeError::Store(error)) => Self::VaultAway(error.to_string()),
            other => Self::Pin(other.to_string()),
        }
    }
}

impl Handler<PlanRetention> for ProcessServer {
    type Result = ResponseFuture<Result<RetentionReport, DataError>>;

    fn handle(&mut self, msg: PlanRetention, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let (points, policy) = (self.spec.points.clone(), self.spec.wiring.config.limits.merging.policy);
        Box::pin(async move { points.plan(msg, &policy).await })
    }
}

impl Handler<HoldPoint> for ProcessServer {
    type Result = ResponseFuture<Result<HoldInfo, DataError>>;

    fn handle(&mut self, msg: HoldPoint, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let points = self.spec.points.clone();
        Box::pin(async move { points.hold(msg).await })
    }
}

impl Handler<ReleaseHold> for ProcessServer {
    type Result = ResponseFuture<Result<bool, DataError>>;

    fn handle(&mut self, msg: ReleaseHold, _: &mut Self::Context) -> Self::Result {
        self.chaos();
        let points = self.spec.points.clone();
        Box::pin(async move { points.release_hold(msg.machine, msg.timeline, msg.data_key, msg.hold).await })
    }
}
