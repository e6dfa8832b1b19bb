//! The configuration server's state store. Several askers commit pairs of records; acknowledged: the count of a pair.

use std::collections::BTreeMap;
use std::sync::Arc;

use farshore_actors::control::state::sled::{SledOptions, SledStore};
use farshore_actors::control::state::{Batch, Contents, Opened, StateStore, VALUE_BYTES_MAX};
use farshore_engine::sim::chance::SeededChance;

use super::Job;

const PAIRS_EACH: u64 = 12;

fn value(count: u64, bytes: usize) -> Vec<u8> {
    count.to_le_bytes().into_iter().cycle().take(8.max(bytes / 8 * 8)).collect()
}

/// The count that a value holds, if it is whole.
fn count(value: &[u8]) -> Option<u64> {
    let count = u64::from_le_bytes(*value.first_chunk()?);
    (value == self::value(count, value.len())).then_some(count)
}

/// Each pair has the count that was acknowledged last, or a later one, and both halves the same.
fn check(job: &Job, opened: &Opened, contents: &Contents) -> Result<String, String> {
    if let Opened::Restored { cause, .. } = opened {
        return Err(format!("the database could not be read: {cause}"));
    }
    let mut acked: BTreeMap<&str, u64> = BTreeMap::new();
    job.acked.iter().for_each(|(pair, count)| {
        acked.insert(pair, count);
    });
    for (pair, wanted) in &acked {
        let half = |half: &str| contents.get(&format!("{half}/{pair}")).and_then(|value| count(value));
        let (left, right) = (half("left"), half("right"));
        if left != right || left.is_none_or(|found| found < *wanted) {
            return Err(format!("pair {pair} was committed with {wanted}, found {left:?} and {right:?}"));
        }
    }
    Ok(format!("{} of {} pairs found", acked.len(), acked.len()))
}

async fn ask(store: Arc<SledStore>, job: &Job, asker: u64, mut counts: BTreeMap<String, u64>) {
    let mut chance = SeededChance::new(job.seed * 10 + asker);
    loop {
        let pair = format!("{asker}-{}", chance.below(PAIRS_EACH));
        let count = counts.entry(pair.clone()).or_default();
        *count += 1;
        let mut batch = Batch::default();
        for half in ["left", "right"] {
            let bytes = chance.between(8, VALUE_BYTES_MAX as u64) as usize;
            batch.put(format!("{half}/{pair}"), value(*count, bytes));
        }
        if store.commit(batch).await.is_err() {
            return;
        }
        job.acks.note(&pair, *count);
    }
}

pub(super) fn run(job: &Job) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (store, opened) = match SledStore::open(&job.folder, &SledOptions::default()) {
        Ok(opened) => opened,
        Err(error) => {
            job.found(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let contents = store.load().await.expect("a store that opened loads");
        if !job.found(check(job, &opened, &contents)) {
            return store.close().await.expect("closes");
        }
        let store = Arc::new(store);
        let of = |asker: u64| -> BTreeMap<String, u64> {
            let mine = format!("left/{asker}-");
            let mine = contents.iter().filter(|(key, _)| key.starts_with(&mine));
            mine.map(|(key, value)| (key["left/".len()..].to_owned(), count(value).expect("whole"))).collect()
        };
        let run = |asker| ask(store.clone(), job, asker, of(asker));
        tokio::join!(run(0), run(1), run(2), run(3));
    });
}
