use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use super::memory::MemoryStore;
use super::sled::{SledOptions, SledStore};
use super::*;

fn one(key: &str, value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(key, value.to_vec());
    batch
}

fn open(dir: &std::path::Path) -> (SledStore, Opened) {
    SledStore::open(dir, &SledOptions::default()).expect("opens")
}

/// What every adapter must do.
async fn conforms(store: &dyn StateStore) {
    assert!(store.load().await.expect("loads").is_empty());
    let mut batch = one("b", b"2");
    batch.put("a", b"1".to_vec()).put("c", b"3".to_vec());
    store.commit(batch).await.expect("commits");
    let mut batch = one("c", b"4");
    batch.delete("a").delete("never there").put("c", b"5".to_vec());
    store.commit(batch).await.expect("commits");
    let contents = store.load().await.expect("loads");
    assert_eq!(contents, Contents::from([("b".into(), b"2".to_vec()), ("c".into(), b"5".to_vec())]));

    store.commit(one("edge", &[7; VALUE_BYTES_MAX])).await.expect("a value of 4 KiB is taken");
    let mut batch = one("d", b"6");
    batch.put("large", vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(store.commit(batch).await, Err(StateError::ValueTooLong { .. })));
    assert!(matches!(store.commit(one("", b"")).await, Err(StateError::KeyLength { .. })));
    assert!(matches!(store.commit(one(&"k".repeat(129), b"")).await, Err(StateError::KeyLength { .. })));
    assert!(!store.load().await.expect("loads").contains_key("d"), "a refused batch changes nothing");
    store.commit(Batch::default()).await.expect("an empty batch is a commit");
    store.export().await.expect("exports");
}

#[tokio::test]
async fn memory_conforms() {
    conforms(&MemoryStore::default()).await;
}

#[tokio::test]
async fn sled_conforms_and_finds_everything_after_a_clean_stop() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, opened) = open(dir.path());
    assert_eq!(opened, Opened::Fresh);
    conforms(&store).await;
    let before = store.load().await.expect("loads");
    store.close().await.expect("closes");
    assert!(matches!(store.load().await, Err(StateError::Failed(_))));
    drop(store);
    let (store, opened) = open_when_free(dir.path()).await;
    assert_eq!(opened, Opened::Existing);
    assert_eq!(store.load().await.expect("loads"), before);
}

/// The owner thread lets go of the lock just after it acknowledged the close.
async fn open_when_free(dir: &std::path::Path) -> (SledStore, Opened) {
    for _ in 0..500 {
        match SledStore::open(dir, &SledOptions::default()) {
            Err(StateError::InUse { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other.expect("opens"),
        }
    }
    panic!("the store is not let go of");
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (_store, _) = open(dir.path());
    let error = SledStore::open(dir.path(), &SledOptions::default()).expect_err("refused");
    assert!(matches!(error, StateError::InUse { .. }), "{error}");
}

#[tokio::test]
async fn many_commits_at_once_are_all_there() {
    let dir = tempfile::tempdir().expect("temp dir");
    let store = Arc::new(open(dir.path()).0);
    let mut commits = tokio::task::JoinSet::new();
    for n in 0..300 {
        let store = store.clone();
        commits.spawn(async move { store.commit(one(&format!("k/{n:03}"), &[1; 100])).await });
    }
    while let Some(commit) = commits.join_next().await {
        commit.expect("ran").expect("commits");
    }
    assert_eq!(store.load().await.expect("loads").len(), 300);
}

#[tokio::test]
async fn a_damaged_database_is_moved_aside_and_restored_from_the_last_whole_export() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (store, _) = open(dir.path());
    store.commit(one("kept", b"1")).await.expect("commits");
    store.export().await.expect("exports");
    store.commit(one("after the export", b"2")).await.expect("commits");
    store.export().await.expect("exports");
    store.close().await.expect("closes");
    drop(store);
    drop(open_when_free(dir.path()).await);
    // The newest two exports are damaged as well as the database.
    let mut exports: Vec<_> =
        std::fs::read_dir(dir.path().join("exports")).expect("listed").map(|e| e.expect("entry").path()).collect();
    exports.sort();
    for path in &exports[1..] {
        std::fs::write(path, b"nonsense").expect("damaged");
    }
    let db = dir.path().join("sled/db");
    let length = std::fs::metadata(&db).expect("db").len();
    wait_until_free(dir.path()).await;
    std::fs::write(&db, vec![0xa5; usize::try_from(length).expect("small")]).expect("damaged");
    std::fs::write(dir.path().join("sled/conf"), b"no configuration").expect("damaged");
    let (store, opened) = open_when_free(dir.path()).await;
    let Opened::Restored { export, moved_to, cause } = opened else { panic!("restored, not {opened:?}") };
    assert_eq!(export, exports[0]);
    assert!(moved_to.join("db").exists(), "{cause}");
    assert_eq!(store.load().await.expect("loads"), Contents::from([("kept".into(), b"1".to_vec())]));
    store.commit(one("new", b"3")).await.expect("a restored store works");
}

async fn wait_until_free(dir: &std::path::Path) {
    drop(open_when_free(dir).await);
    for _ in 0..500 {
        let file = std::fs::File::open(dir.join("lock")).expect("lock file");
        if file.try_lock().is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the lock is never free");
}

#[tokio::test]
async fn a_damaged_database_without_an_export_is_a_clear_refusal() {
    let dir = tempfile::tempdir().expect("temp dir");
    std::fs::create_dir_all(dir.path().join("sled")).expect("made");
    std::fs::write(dir.path().join("sled/conf"), b"no configuration").expect("written");
    std::fs::write(dir.path().join("sled/db"), b"no database").expect("written");
    let error = SledStore::open(dir.path(), &SledOptions::default()).expect_err("refused");
    assert!(matches!(error, StateError::Damaged { .. }), "{error}");
    assert!(dir.path().join("sled/db").exists(), "nothing was touched");
}

/// The process that is killed: three records and a counter in each batch, the number printed once acknowledged.
#[test]
#[ignore = "runs only as a child of the kill test"]
fn kill_child() {
    let Ok(dir) = std::env::var("FARSHORE_TEST_STATE_DIR") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(async {
        let (store, _) = open(dir.as_ref());
        let held = store.load().await.expect("loads");
        let from = held.get("head").map_or(0, |head| number(head) + 1);
        for n in from.. {
            let mut batch = one("head", &n.to_le_bytes());
            for part in ["a", "b", "c"] {
                batch.put(format!("{part}/{n}"), vec![n as u8; 64 + (n as usize * 37) % 700]);
            }
            store.commit(batch).await.expect("commits");
            let mut out = std::io::stdout().lock();
            writeln!(out, "acked {n}").and_then(|()| out.flush()).expect("told");
        }
    });
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_dash_nine_whole() {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut acked_total = 0;
    for round in 0..6u64 {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["control::state::tests::kill_child", "--exact", "--ignored", "--nocapture"])
            .env("FARSHORE_TEST_STATE_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        let mut acked = None;
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        for line in lines {
            let Ok(line) = line else { break };
            // The test runner may print its own words before the first of ours, on the same line.
            let Some(n) = line.split("acked ").nth(1).and_then(|n| n.parse::<u64>().ok()) else { continue };
            acked = Some(n);
            acked_total += 1;
            if acked_total % 23 == (round * 7) % 23 && acked_total > round * 20 {
                child.kill().expect("killed");
            }
        }
        child.wait().expect("reaped");
        let (store, opened) = open(dir.path());
        assert_eq!(opened, Opened::Existing);
        let contents = store.load().await.expect("loads");
        let head = number(&contents["head"]);
        assert!(Some(head) >= acked, "acknowledged {acked:?}, found {head}");
        for n in 0..=head {
            for part in ["a", "b", "c"] {
                let value = contents.get(&format!("{part}/{n}")).expect("every batch is whole");
                assert_eq!(value, &vec![n as u8; 64 + (n as usize * 37) % 700]);
            }
        }
        assert!(!contents.contains_key(&format!("a/{}", head + 1)), "no part of a batch beyond the head");
        store.close().await.expect("closes");
        drop(store);
        wait_until_free(dir.path()).await;
    }
    assert!(acked_total >= 20, "the test saw only {acked_total} commits");
}
