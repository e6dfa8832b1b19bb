//! The agent's activity log: several writers record regions hot, and cool some again. Acknowledged: "hot" when the record has
//! returned; "cool" is noted before a region is cooled.

use std::collections::BTreeMap;
use std::fs::File;

use farshore_engine::capture::activity_layout::{ActivityHeader, DiskIdentity, LogIdentity};
use farshore_engine::capture::activity_log::{ActivityLog, Found, read};
use farshore_engine::capture::{Distrust, RegionSet};
use farshore_engine::ids::IncarnationId;
use farshore_engine::sim::chance::SeededChance;

use super::Job;

const REGION_BYTES: u64 = 1 << 20;
/// Three pages of the log.
const REGIONS: u32 = 10_000;
const WRITERS: u32 = 3;

/// Every region that was recorded hot, and not cooled since, is hot.
fn check(job: &Job, found: &Result<Found, Distrust>) -> Result<String, String> {
    let mut hot = BTreeMap::new();
    for (what, region) in job.acked.iter().filter(|(what, _)| *what != "begun") {
        hot.insert(region as u32, what == "hot");
    }
    hot.retain(|_, hot| *hot);
    let found = match found {
        Ok(found) => found,
        Err(_) if job.acked.is_empty() => return Ok("nothing yet".into()),
        Err(distrust) => return Err(format!("the log was begun and cannot be read: {distrust:?}")),
    };
    let begun = job.acked.highest("begun").unwrap_or(0);
    if found.header.sequence < begun {
        return Err(format!("life {begun} was begun, found life {}", found.header.sequence));
    }
    let missing: Vec<&u32> = hot.keys().filter(|region| !found.hot.contains(**region)).collect();
    if !missing.is_empty() {
        return Err(format!("{} of {} hot regions are not recorded: {missing:?}", missing.len(), hot.len()));
    }
    let (held, damaged) = (found.hot.count(), found.damaged_pages);
    Ok(format!("{} hot regions found among {held} recorded, {damaged} pages damaged", hot.len()))
}

/// One writer has every third region.
fn write(log: &ActivityLog, job: &Job, writer: u32) {
    let mut chance = SeededChance::new(job.seed * 10 + u64::from(writer));
    let mut mine: Vec<u32> = Vec::new();
    loop {
        let region = chance.below(u64::from(REGIONS / WRITERS)) as u32 * WRITERS + writer;
        if log.record_hot(region..=region).is_err() {
            return;
        }
        job.acks.note("hot", region.into());
        mine.push(region);
        if chance.happens(200) {
            let cooled = mine.swap_remove(chance.below(mine.len() as u64) as usize);
            job.acks.note("cool", cooled.into());
            log.cool(&[cooled]);
            mine.retain(|region| *region != cooled);
        }
    }
}

pub(super) fn run(job: &Job) {
    let path = job.folder.join("disk.activity");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path).expect("it opens");
    let found = read(&file);
    if !job.found(check(job, &found)) {
        return;
    }
    let sequence = found.as_ref().map_or(1, |found| found.header.sequence + 1);
    let size_bytes = u64::from(REGIONS) * REGION_BYTES;
    let header = ActivityHeader {
        sequence,
        clean: false,
        region_bytes: REGION_BYTES,
        disk: DiskIdentity { size_bytes, ..DiskIdentity::default() },
        log: LogIdentity::default(),
        incarnation: IncarnationId([job.seed as u8; 16]),
    };
    let hot = found.as_ref().map_or_else(|_| RegionSet::none(REGIONS), |found| found.hot.clone());
    let begun = ActivityLog::begin(Box::new(file), header, hot, found.as_ref().ok());
    let Ok(log) = begun else { return };
    job.acks.note("begun", sequence);
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let log = &log;
            scope.spawn(move || write(log, job, writer));
        }
    });
}
