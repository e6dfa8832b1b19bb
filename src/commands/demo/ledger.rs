//! A database engine as a workload that needs no root: redb, whose pages go through our own NBD client onto a protected
//! disk. Money moves between accounts, one transaction at a time; each transfer has the next number and a row of its own
//! that follows from the number. So every state of the database can be judged: it opens, the numbers have no gap, each
//! account has what the transfers say, the sum is that of the beginning, and no acknowledged transfer is missing.

mod storage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use farshore_engine::ids::Timestamp;
use farshore_engine::nbd::{ClientOptions, NbdClient, NbdUri};
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use self::storage::{Disk, Storage};
use super::acknowledged::Acknowledged;
use crate::exit::Failure;

/// Accounts, and what each begins with. The sum never changes.
const ACCOUNTS: u64 = 100;
const BALANCE: i64 = 1000;
/// Time between two transfers: some tens a second.
const PAUSE: Duration = Duration::from_millis(20);
/// The bank rests once it has as many: its disk does not grow.
const TRANSFERS_MAX: u64 = 200_000;
/// Memory for the database's pages, in bytes.
const CACHE_BYTES: usize = 8 << 20;

/// Balances by account.
const BALANCES: TableDefinition<'_, u64, i64> = TableDefinition::new("balances");
/// Payer, payee and amount by the transfer's number.
const TRANSFERS: TableDefinition<'_, u64, (u64, u64, i64)> = TableDefinition::new("transfers");
/// The number of the last transfer.
const LAST: TableDefinition<'_, (), u64> = TableDefinition::new("last");

/// What was found in a database that is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Transfers in it.
    pub(super) transfers: u64,
    /// Whether it had to recover, as after a power cut.
    pub(super) recovered: bool,
}

impl Found {
    /// Whether it has all `acknowledged` transfers, and none but the `begun` ones.
    pub(super) fn judge(&self, acknowledged: u64, begun: u64) -> Result<(), String> {
        if (acknowledged..=begun).contains(&self.transfers) {
            return Ok(());
        }
        Err(format!(
            "it has {} transfers; {acknowledged} were acknowledged before the point, {begun} begun until now",
            self.transfers
        ))
    }
}

/// What transfer `number` moves: from whom, to whom, how much.
fn transfer(number: u64) -> (u64, u64, i64) {
    let mixed = (number ^ (number >> 7)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let payer = (mixed >> 8) % ACCOUNTS;
    let payee = (payer + 1 + (mixed >> 24) % (ACCOUNTS - 1)) % ACCOUNTS;
    (payer, payee, 1 + (mixed >> 48) as i64 % 50)
}

/// An open database.
struct Books(Database);

impl Books {
    /// Opens what is stored, recovering it where it was not closed; tells whether that was so.
    fn open<D: Disk>(storage: Storage<D>) -> Result<(Self, bool), redb::Error> {
        let recovered = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&recovered);
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .set_repair_callback(move |_| noted.store(true, Ordering::Relaxed))
            .create_with_backend(storage)?;
        Ok((Self(database), recovered.load(Ordering::Relaxed)))
    }

    /// Opens the accounts.
    fn begin(&self) -> Result<(), redb::Error> {
        let change = self.0.begin_write()?;
        {
            let mut balances = change.open_table(BALANCES)?;
            for account in 0..ACCOUNTS {
                balances.insert(account, BALANCE)?;
            }
            change.open_table(LAST)?.insert((), 0)?;
            change.open_table(TRANSFERS)?;
        }
        Ok(change.commit()?)
    }

    /// Commits transfer `number`; it is durable when this returns.
    fn transfer(&self, number: u64) -> Result<(), redb::Error> {
        let mut change = self.0.begin_write()?;
        change.set_durability(Durability::Immediate)?;
        {
            let (payer, payee, amount) = transfer(number);
            let mut balances = change.open_table(BALANCES)?;
            for (account, more) in [(payer, -amount), (payee, amount)] {
                let balance = balances.get(account)?.map_or(0, |balance| balance.value());
                balances.insert(account, balance + more)?;
            }
            change.open_table(TRANSFERS)?.insert(number, (payer, payee, amount))?;
            change.open_table(LAST)?.insert((), number)?;
        }
        Ok(change.commit()?)
    }

    /// Its transfers, or what is wrong with it.
    fn audit(&self) -> Result<Result<u64, String>, redb::Error> {
        let view = self.0.begin_read()?;
        let mut wanted = vec![BALANCE; ACCOUNTS as usize];
        let mut transfers = 0;
        for row in view.open_table(TRANSFERS)?.iter()? {
            let (number, row) = row?;
            transfers += 1;
            let moved = transfer(transfers);
            if number.value() != transfers || row.value() != moved {
                let (number, row) = (number.value(), row.value());
                return Ok(Err(format!("where transfer {transfers} {moved:?} belongs, {number} {row:?} is")));
            }
            wanted[moved.0 as usize] -= moved.2;
            wanted[moved.1 as usize] += moved.2;
        }
        let last = view.open_table(LAST)?.get(())?.map_or(0, |last| last.value());
        if last != transfers {
            return Ok(Err(format!("the last transfer is said to be {last}, but there are {transfers}")));
        }
        let mut balances = Vec::new();
        for row in view.open_table(BALANCES)?.iter()? {
            balances.push(row?.1.value());
        }
        if balances != wanted {
            let (sum, right) = (balances.iter().sum::<i64>(), wanted.iter().sum::<i64>());
            return Ok(Err(format!("the balances are not what the transfers say; their sum is {sum}, not {right}")));
        }
        Ok(Ok(transfers))
    }
}

fn check_disk<D: Disk>(disk: D) -> Result<Found, String> {
    let storage = Storage::open(disk).map_err(|error| error.to_string())?;
    if storage.is_blank() {
        return Err("there is no database".into());
    }
    let (mut books, recovered) = Books::open(storage).map_err(|error| format!("it does not open: {error}"))?;
    // The tree's own checksums, page by page.
    match books.0.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err("its pages were damaged".into()),
        Err(error) => return Err(format!("its pages cannot be checked: {error}")),
    }
    let transfers = books.audit().map_err(|error| format!("it cannot be read: {error}"))??;
    Ok(Found { transfers, recovered })
}

fn connect(uri: &NbdUri) -> Result<NbdClient, Failure> {
    NbdClient::connect(uri, ClientOptions::default())
        .map_err(|error| Failure::failed(format!("connect to {uri}: {error}")))
}

/// Checks the database on the export of a point; its recovery writes into the overlay of the point.
pub(super) fn check(uri: &NbdUri) -> Result<Found, Failure> {
    check_disk(connect(uri)?).map_err(|why| Failure::failed(format!("the point's database ({uri}): {why}")))
}

/// The database at work on an export. Dropped, it has ended.
pub(super) struct Ledger {
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    worker: Option<JoinHandle<Result<(), String>>>,
}

impl Ledger {
    /// Makes a database on the blank disk behind `uri`, and begins to work.
    pub(super) fn open(uri: &NbdUri, clock: fn() -> Timestamp) -> Result<Self, Failure> {
        let failed = |why: String| Failure::failed(format!("make a database on {uri}: {why}"));
        let storage = Storage::open(connect(uri)?).map_err(|error| failed(error.to_string()))?;
        let (books, _) = Books::open(storage).map_err(|error| failed(error.to_string()))?;
        books.begin().map_err(|error| failed(error.to_string()))?;
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
        let worker = {
            let (stop, acknowledged) = (Arc::clone(&stop), acknowledged.clone());
            thread::spawn(move || work(&books, &stop, &acknowledged, clock))
        };
        Ok(Self { stop, acknowledged, worker: Some(worker) })
    }

    /// An error once it is no longer at work.
    pub(super) fn alive(&mut self) -> Result<(), Failure> {
        if self.worker.as_ref().is_some_and(JoinHandle::is_finished) {
            return Err(Failure::failed(self.end().unwrap_or_else(|| "the database has ended by itself".into())));
        }
        Ok(())
    }

    /// What it has answered for.
    pub(super) fn acknowledged(&self) -> &Acknowledged {
        &self.acknowledged
    }

    /// Ends it; why it ended by itself, if it did.
    fn end(&mut self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        let worker = self.worker.take()?;
        worker.join().unwrap_or_else(|_| Err("the thread of the database has panicked".into())).err()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        // Somebody asked for its end: why it came a little sooner does not matter any more.
        let _ = self.end();
    }
}

fn work(books: &Books, stop: &AtomicBool, acknowledged: &Acknowledged, clock: fn() -> Timestamp) -> Result<(), String> {
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        if number < TRANSFERS_MAX {
            number += 1;
            let done = books.transfer(number);
            done.map_err(|error| format!("the database did not commit transfer {number}: {error}"))?;
            acknowledged.note(clock(), number);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
