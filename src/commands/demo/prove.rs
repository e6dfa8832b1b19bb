//! The proof: a recovery point is served while the load goes on, and what it shows is compared with what was written.

use std::path::Path;
use std::time::Instant;

use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::NbdUri;
use farshore_engine::oracle::check::Subject;
use farshore_engine::oracle::image::NbdImage;
use farshore_engine::oracle::{Bounds, History, check};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::mounted::Mounted;
use super::{Demo, MACHINE, bank, image, ledger};
use crate::exit::{Failure, Outcome};

/// Disks of the protected machine.
const DISKS: usize = 3;

/// The export of a disk of a served point.
fn export(served: &Value, disk: &str) -> Result<NbdUri, Failure> {
    let exports = served["exports"].as_array().cloned().unwrap_or_default();
    let export = exports.iter().find(|export| export["name"] == disk);
    let uri = export.and_then(|export| export["uri"].as_str()).unwrap_or_default();
    uri.parse().map_err(|error| Failure::failed(format!("the export of {disk} ('{uri}'): {error}")))
}

fn connect(uri: &NbdUri) -> Result<NbdImage, Failure> {
    NbdImage::connect(uri).map_err(|error| Failure::failed(format!("connect to {uri}: {error}")))
}

/// The time of a point, in the words of the API.
fn captured_at(point: &Value) -> Result<Timestamp, Failure> {
    let text = point["captured_at"].as_str().unwrap_or_default();
    let time = OffsetDateTime::parse(text, &Rfc3339);
    let time = time.map_err(|error| Failure::failed(format!("the point's time '{text}': {error}")))?;
    Ok(Timestamp((time.unix_timestamp_nanos() / 1000) as i64))
}

impl Demo {
    /// Serves the newest point, judges it, and says what it proved.
    pub(super) fn prove(&mut self, journal: &Path) -> Outcome {
        let point = self.wait("a recovery point of all disks", |demo| {
            let points = demo.ctl(&["points", MACHINE, "--limit", "1"])?;
            let newest = points["items"][0].clone();
            let all = newest["disks"].as_array().is_some_and(|disks| disks.len() == DISKS);
            if all { Ok(newest) } else { Err(format!("the newest is {newest}")) }
        })?;
        let id = point["id"].as_str().unwrap_or_default().to_owned();
        let at = point["captured_at"].as_str().unwrap_or("?");
        self.say(&format!("now the proof, while the load goes on: the recovery point of {at}"));
        let begun = Instant::now();
        let served = self.ctl(&["serve", MACHINE, &id]).map_err(Failure::failed)?;
        self.say(&format!(
            "all its disks are served over NBD, out of the vault, after {} ms",
            begun.elapsed().as_millis()
        ));
        self.prove_data(journal, &served)?;
        self.prove_ledger(&served, captured_at(&point)?)?;
        match &self.bank {
            Some(_) => self.prove_bank(&served, captured_at(&point)?)?,
            None => self.prove_system(&served)?,
        }
        let serve = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
        self.ctl(&["unserve", &serve]).map_err(Failure::failed)?;
        Ok(())
    }

    fn prove_data(&self, journal: &Path, served: &Value) -> Outcome {
        let mut data = connect(&export(served, "data")?)?;
        let history = History::read(journal).map_err(Failure::failed)?;
        let mut subjects = [Subject { image: &mut data, base: None }];
        let findings = check(&history, &mut subjects, &Bounds::default()).map_err(Failure::failed)?;
        if !findings.is_consistent() {
            return Err(Failure::failed(format!("the oracle refutes the point: {:?}", findings.violations)));
        }
        self.say(&format!(
            "PROVED  'data' is a moment of its past: all {} pages are whole and where they belong,",
            findings.stamped_blocks
        ));
        self.and(&format!(
            "        and all {} writes that were acknowledged before the newest of them are there",
            findings.required_writes
        ));
        Ok(())
    }

    /// The database is opened on the point as after a power cut, and audited.
    fn prove_ledger(&self, served: &Value, captured_at: Timestamp) -> Outcome {
        let Some(ledger) = &self.ledger else { return Ok(()) };
        let begun = Instant::now();
        let wanted = ledger.acknowledged().before(captured_at);
        let found = ledger::check(&export(served, "bank")?)?;
        // One more may have been under way, not acknowledged yet.
        let judged = found.judge(wanted, ledger.acknowledged().newest() + 1);
        judged.map_err(|why| Failure::failed(format!("the point's database: {why}")))?;
        let opened = if found.recovered { "opened after recovery" } else { "opened" };
        self.say(&format!(
            "PROVED  database: {opened} ({} ms), {} transfers, balances add up, none of the {wanted} acknowledged",
            begun.elapsed().as_millis(),
            found.transfers
        ));
        self.and("        before the point is missing");
        Ok(())
    }

    fn prove_system(&self, served: &Value) -> Outcome {
        let mut system = connect(&export(served, "system")?)?;
        match image::first_difference(&self.path("system.img"), &mut system)? {
            None => self.say("PROVED  'system' (ext4) equals the protected disk byte for byte"),
            Some(at) => return Err(Failure::failed(format!("the point's system disk differs at byte {at}"))),
        }
        Ok(())
    }

    /// The point is mounted beside the living disk, as after a power cut: the kernel replays ext4's journal, SQLite its own.
    fn prove_bank(&self, served: &Value, captured_at: Timestamp) -> Outcome {
        let Some(bank) = &self.bank else { return Ok(()) };
        let begun = Instant::now();
        let point = Mounted::new("point", &self.dir, &export(served, "system")?.to_string())?;
        let documents = image::check_documents(&point.at)?;
        let found = bank::check(&point.at.join(bank.name()))?;
        let (wanted, most) = (bank.answered().before(captured_at), bank.answered().newest());
        if found.transfers < wanted || found.transfers > most {
            let text = format!(
                "the point's database has {} transfers; {wanted} were committed before it, {most} until now",
                found.transfers
            );
            return Err(Failure::failed(text));
        }
        drop(point);
        self.say(&format!(
            "PROVED  'system' mounts beside the living one ({} ms): its {documents} documents are as written; SQLite",
            begun.elapsed().as_millis()
        ));
        self.and(&format!(
            "        recovers, integrity_check is ok, all accounts add up; {} transfers, of {wanted} that were committed before",
            found.transfers
        ));
        Ok(())
    }
}
