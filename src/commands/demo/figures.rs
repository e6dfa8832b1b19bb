//! One line of figures about a demo under way.

use super::{Demo, MACHINE};

impl Demo {
    pub(super) fn figures(&self) -> Result<String, String> {
        let status = self.json("agent/status.json")?;
        let points = self.ctl(&["points", MACHINE, "--limit", "500"])?;
        let points = points["items"].as_array().map_or(0, Vec::len);
        let number = |name: &str| status[name].as_u64().unwrap_or(0);
        let behind = number("last_lsn").saturating_sub(number("committed"));
        let gap = status["disks"].as_array().and_then(|disks| disks.iter().find(|disk| !disk["gap"].is_null()));
        let state = gap.map_or(String::new(), |disk| format!("; disk {} is being caught up with", disk["name"]));
        let bank = self
            .bank
            .as_ref()
            .map_or(String::new(), |bank| format!("; {} transfers in SQLite", bank.answered().newest()));
        let ledger = self.ledger.as_ref().map_or(0, |ledger| ledger.acknowledged().newest());
        Ok(format!(
            "{} writes captured, all but the last {behind} in the vault: {points} recovery points; {ledger} transfers in the database{bank}{state}",
            number("last_lsn"),
        ))
    }
}
