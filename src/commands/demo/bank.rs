//! SQLite as a workload that can be checked: money moves between accounts, one synced transaction at a time, so that in
//! every state of the database the accounts add up, and no transfer that was answered for may be missing later.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use farshore_engine::ids::Timestamp;

use super::acknowledged::Acknowledged;
use super::process::{ends, run, tool};
use crate::exit::Failure;

/// Accounts, and what each begins with. The sum never changes.
const ACCOUNTS: u32 = 100;
const BALANCE: u32 = 1000;
/// Time between two transfers: some tens a second.
const PAUSE: Duration = Duration::from_millis(20);
/// How long SQLite has for its end.
const END_WITHIN: Duration = Duration::from_secs(10);

/// One transfer, and the word that it is committed.
const TRANSFER: &str = "begin immediate; \
     insert into transfers(payer, payee, amount) values (abs(random()) % 100, abs(random()) % 100, 1 + abs(random()) % 50); \
     update accounts set balance = balance - (select amount from transfers where id = last_insert_rowid()) \
     where id = (select payer from transfers where id = last_insert_rowid()); \
     update accounts set balance = balance + (select amount from transfers where id = last_insert_rowid()) \
     where id = (select payee from transfers where id = last_insert_rowid()); \
     commit; select max(id) from transfers;\n";

/// What was found in a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// Transfers in it.
    pub(super) transfers: u64,
}

/// SQLite at work on a file, in WAL mode. Dropped, it has ended.
pub(super) struct Bank {
    /// The database's file.
    file: PathBuf,
    stop: Arc<AtomicBool>,
    answered: Acknowledged,
    worker: Option<JoinHandle<Result<(), String>>>,
}

impl Bank {
    /// Opens a bank in `file`, and begins to work.
    pub(super) fn open(file: PathBuf, clock: fn() -> Timestamp) -> Result<Self, Failure> {
        let mut sql = tool("sqlite3");
        sql.arg("-bail").arg(&file).arg(format!(
            "pragma journal_mode = wal; create table accounts(id integer primary key, balance integer not null); \
             create table transfers(id integer primary key, payer integer, payee integer, amount integer); \
             insert into accounts with recursive n(i) as (select 0 union all select i + 1 from n where i < {ACCOUNTS} - 1) \
             select i, {BALANCE} from n;"
        ));
        run(sql)?;
        let mut child = tool("sqlite3")
            .args(["-bail", "-batch"])
            .arg(&file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| Failure::failed(format!("start sqlite3: {error}")))?;
        let pipes = child.stdin.take().zip(child.stdout.take()).expect("both were asked for");
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
        let worker = {
            let (stop, answered) = (stop.clone(), answered.clone());
            thread::spawn(move || work(child, pipes, &stop, &answered, clock))
        };
        Ok(Self { file, stop, answered, worker: Some(worker) })
    }

    /// An error once SQLite is no longer at work.
    pub(super) fn alive(&mut self) -> Result<(), Failure> {
        let over = self.worker.as_ref().is_some_and(JoinHandle::is_finished);
        if over {
            Err(Failure::failed(self.end().unwrap_or_else(|| "SQLite has ended by itself".into())))
        } else {
            Ok(())
        }
    }

    /// The database's name.
    pub(super) fn name(&self) -> PathBuf {
        self.file.file_name().map(PathBuf::from).unwrap_or_default()
    }

    /// What it has answered for.
    pub(super) fn answered(&self) -> &Acknowledged {
        &self.answered
    }

    /// Ends it; why it ended by itself, if it did.
    fn end(&mut self) -> Option<String> {
        self.stop.store(true, Ordering::Relaxed);
        let worker = self.worker.take()?;
        worker.join().unwrap_or_else(|_| Err("the thread that talks to SQLite has panicked".into())).err()
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        // Somebody asked for its end: why it came a little sooner does not matter any more.
        let _ = self.end();
    }
}

fn work(
    mut child: Child,
    (mut ask, answer): (ChildStdin, ChildStdout),
    stop: &AtomicBool,
    answered: &Acknowledged,
    clock: fn() -> Timestamp,
) -> Result<(), String> {
    let mut answer = BufReader::new(answer);
    let mut transfer = |sql: &str| -> Result<u64, String> {
        ask.write_all(sql.as_bytes()).map_err(|error| format!("tell sqlite3: {error}"))?;
        let mut line = String::new();
        answer.read_line(&mut line).map_err(|error| format!("hear sqlite3: {error}"))?;
        line.trim().parse().map_err(|_| format!("SQLite did not commit a transfer; it said '{}'", line.trim()))
    };
    let mut outcome = Ok(());
    let mut sql = format!("pragma synchronous = full; pragma foreign_keys = off; {TRANSFER}");
    while !stop.load(Ordering::Relaxed) && outcome.is_ok() {
        outcome = transfer(&sql).map(|id| {
            answered.note(clock(), id);
            thread::sleep(PAUSE);
        });
        sql = TRANSFER.into();
    }
    // The end of its input is the end of SQLite.
    drop(ask);
    if !ends(&mut child, END_WITHIN) {
        let _ = child.kill();
    }
    let _ = child.wait();
    outcome
}

/// Checks a database that lies in a point: SQLite recovers it from its write-ahead log, finds it whole, and every account
/// has what the transfers say.
pub(super) fn check(file: &Path) -> Result<Found, Failure> {
    let ask = |sql: String| {
        let mut command = tool("sqlite3");
        command.arg("-bail").arg(file).arg(sql);
        run(command)
    };
    let refuted = |what: String| Failure::failed(format!("the database of the point, {}: {what}", file.display()));
    let integrity = ask("pragma integrity_check".into())?;
    if integrity != "ok" {
        return Err(refuted(format!("integrity_check says {integrity}")));
    }
    let wrong = ask(format!(
        "select count(*) from accounts where balance != {BALANCE} \
         + coalesce((select sum(amount) from transfers where payee = accounts.id), 0) \
         - coalesce((select sum(amount) from transfers where payer = accounts.id), 0)"
    ))?;
    let sum = ask("select count(*) || ' accounts with ' || sum(balance) from accounts".into())?;
    let wanted = format!("{ACCOUNTS} accounts with {}", ACCOUNTS * BALANCE);
    if wrong != "0" || sum != wanted {
        return Err(refuted(format!("{wrong} accounts do not have what their transfers say; {sum}, not {wanted}")));
    }
    let transfers = ask("select count(*) from transfers".into())?;
    let transfers = transfers.parse().map_err(|_| refuted(format!("it counts '{transfers}' transfers")))?;
    Ok(Found { transfers })
}
