use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use redb::StorageBackend as _;

use super::storage::{Disk, Storage};
use super::{BALANCES, Books, Found, LAST, TRANSFERS, check_disk, transfer};

const DISK_BYTES: usize = 8 << 20;

/// Where something was written, and what.
type Written = (u64, Vec<u8>);

/// A disk in memory that remembers every write, in order.
#[derive(Clone)]
struct MemoryDisk {
    bytes: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<Vec<Written>>>,
}

impl MemoryDisk {
    fn holding(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), writes: Arc::default() }
    }

    fn blank() -> Self {
        Self::holding(vec![0; DISK_BYTES])
    }

    /// The disk as it is now, without what is written later.
    fn as_it_is(&self) -> Self {
        Self::holding(self.bytes.lock().clone())
    }
}

impl Disk for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        DISK_BYTES as u64
    }

    fn read(&mut self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && out.len().is_multiple_of(4096), "whole blocks");
        out.copy_from_slice(&self.bytes.lock()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn write(&mut self, offset: u64, data: &[u8], _fua: bool) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && data.len().is_multiple_of(4096), "whole blocks");
        self.bytes.lock()[offset as usize..][..data.len()].copy_from_slice(data);
        self.writes.lock().push((offset, data.to_vec()));
        Ok(())
    }

    fn zero(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write(offset, &vec![0; len as usize], false)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn books_on(disk: &MemoryDisk) -> Books {
    let (books, _) = Books::open(Storage::open(disk.clone()).expect("open")).expect("a new database");
    books.begin().expect("open the accounts");
    books
}

#[test]
fn after_any_prefix_of_its_writes_the_database_opens_adds_up_and_has_all_it_acknowledged() {
    let disk = MemoryDisk::blank();
    let books = books_on(&disk);
    let begun = disk.writes.lock().len();
    let mut acknowledged = Vec::new();
    for number in 1..=30 {
        books.transfer(number).expect("commit");
        acknowledged.push(disk.writes.lock().len());
    }
    let writes = disk.writes.lock().clone();
    drop(books);
    let mut bytes = vec![0; DISK_BYTES];
    for (done, (offset, data)) in writes.iter().enumerate() {
        if done >= begun {
            let found = check_disk(MemoryDisk::holding(bytes.clone())).unwrap_or_else(|why| panic!("{done}: {why}"));
            let least = acknowledged.iter().filter(|at| **at <= done).count() as u64;
            assert!(found.recovered, "it was cut off, after {done} writes");
            found.judge(least, least + 1).unwrap_or_else(|why| panic!("after {done} writes: {why}"));
        }
        bytes[*offset as usize..][..data.len()].copy_from_slice(data);
    }
}

#[test]
fn a_database_that_was_closed_needs_no_recovery_and_has_every_transfer() {
    let disk = MemoryDisk::blank();
    let books = books_on(&disk);
    (1..=5).for_each(|number| books.transfer(number).expect("commit"));
    drop(books);
    assert_eq!(check_disk(disk), Ok(Found { transfers: 5, recovered: false }));
}

#[test]
fn a_transfer_that_is_lost_is_noticed_wherever_it_was() {
    let spoil = |spoil: fn(&redb::WriteTransaction)| {
        let disk = MemoryDisk::blank();
        let books = books_on(&disk);
        (1..=9).for_each(|number| books.transfer(number).expect("commit"));
        let change = books.0.begin_write().expect("begin");
        spoil(&change);
        change.commit().expect("commit");
        check_disk(disk.as_it_is())
    };
    assert!(spoil(|_| ()).is_ok(), "nothing was lost");
    let gap = spoil(|change| {
        change.open_table(TRANSFERS).expect("table").remove(5).expect("remove");
    });
    assert!(gap.expect_err("a gap").contains("where transfer 5"));
    let end = spoil(|change| {
        change.open_table(TRANSFERS).expect("table").remove(9).expect("remove");
    });
    assert!(end.expect_err("the last is gone").contains("said to be 9"));
    let half = spoil(|change| {
        change.open_table(TRANSFERS).expect("table").remove(9).expect("remove");
        change.open_table(LAST).expect("table").insert((), 8).expect("insert");
    });
    assert!(half.expect_err("money moved without a transfer").contains("not what the transfers say"));
    let sum = spoil(|change| {
        change.open_table(BALANCES).expect("table").insert(3, 1).expect("insert");
    });
    assert!(sum.expect_err("money is gone").contains("sum"));
}

#[test]
fn a_state_before_an_acknowledged_transfer_or_with_one_that_was_never_begun_is_refuted() {
    let found = Found { transfers: 8, recovered: true };
    assert_eq!(found.judge(8, 9), Ok(()));
    assert!(found.judge(9, 10).is_err(), "an acknowledged transfer is missing");
    assert!(found.judge(5, 7).is_err(), "a transfer out of nowhere");
}

#[test]
fn a_blank_disk_holds_no_database_and_a_foreign_one_is_not_opened() {
    assert_eq!(check_disk(MemoryDisk::blank()), Err("there is no database".into()));
    let mut foreign = vec![0; DISK_BYTES];
    foreign[DISK_BYTES - 4096] = 1;
    assert!(check_disk(MemoryDisk::holding(foreign)).is_err_and(|why| why.contains("not one of ours")));
}

#[test]
fn the_file_on_the_disk_keeps_its_length_grows_with_zeroes_and_ends_before_the_last_block() {
    let disk = MemoryDisk::blank();
    let storage = Storage::open(disk.clone()).expect("open");
    storage.set_len(10_000).expect("grow");
    storage.write(5_000, &[7; 5_000]).expect("write");
    storage.set_len(6_000).expect("shrink");
    storage.set_len(20_000).expect("grow again");
    let storage = Storage::open(disk).expect("open again");
    assert_eq!(storage.len().expect("length"), 20_000);
    let mut bytes = vec![1; 20_000];
    storage.read(0, &mut bytes).expect("read");
    assert!(bytes[..5_000].iter().all(|byte| *byte == 0) && bytes[5_000..6_000] == [7; 1_000]);
    assert!(bytes[6_000..].iter().all(|byte| *byte == 0), "what was cut off does not come back");
    assert!(storage.read(19_999, &mut [0; 2]).is_err(), "beyond the end");
    let full = storage.set_len(DISK_BYTES as u64).expect_err("the last block is taken");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
}

#[test]
fn a_transfer_moves_money_between_two_accounts() {
    for number in 1..1000 {
        let (payer, payee, amount) = transfer(number);
        assert!(payer < 100 && payee < 100 && payer != payee && (1..=50).contains(&amount), "{number}");
    }
}
