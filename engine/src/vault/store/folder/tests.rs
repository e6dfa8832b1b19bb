//! A folder as a store: what the port promises, and what only a filesystem can do to it.

use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::vault::store::conformance;

fn open(root: &Path) -> FolderStore {
    FolderStore::open(root, Handle::current()).expect("a writable folder")
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn staged_files(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root.join(STAGING)).expect("staging");
    let names = entries.map(|entry| entry.expect("entry").file_name().into_string().expect("plain"));
    names.filter(|name| name != SWAP_LOCK && name != home::MARK).collect()
}

#[tokio::test]
async fn it_does_what_the_port_promises() {
    let folder = tempfile::tempdir().expect("tempdir");
    conformance::run(&open(folder.path())).await;
}

#[tokio::test]
async fn without_hard_links_it_does_the_same_by_a_rename_that_does_not_replace() {
    let folder = tempfile::tempdir().expect("tempdir");
    drop(open(folder.path()));
    let home = Home::see(folder.path()).expect("it was made");
    conformance::run(&FolderStore::new(folder.path(), home, Create::RenameNoReplace, Handle::current())).await;
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_made_whatever_it_is_called() {
    let folder = tempfile::tempdir().expect("tempdir");
    let root = folder.path().join("far shore of ü \"1\"").join("vault");
    let store = open(&root);
    store.put_if_absent(&ObjectName::keys(1), "a", text("x")).await.expect("put");
    assert_eq!(fs::metadata(root.join("keys")).expect("made").permissions().mode() & 0o777, 0o700);
    let object = fs::metadata(root.join(ObjectName::keys(1).as_str())).expect("made");
    assert_eq!(object.permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn nothing_stays_in_staging_once_it_is_published_or_refused() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    for token in ["a", "b"] {
        store.put_if_absent(&ObjectName::keys(1), token, text("x")).await.expect("put");
    }
    let swapped = store.put_if_match(&ObjectName::keys(2), None, text("x")).await.expect("swap");
    let SwapOutcome::Swapped(etag) = swapped else { panic!("nothing was there") };
    store.put_if_match(&ObjectName::keys(2), Some(&etag), text("y")).await.expect("swap");
    store.put_if_match(&ObjectName::keys(2), Some(&etag), text("z")).await.expect("swap");
    assert_eq!(staged_files(folder.path()), Vec::<String>::new());
}

#[tokio::test]
async fn old_garbage_is_swept_at_open_and_what_may_be_in_use_is_left() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    let old = store.stage(&ObjectName::keys(1), "old", vec![text("x")]).await.expect("stage");
    let young = store.stage(&ObjectName::keys(2), "young", vec![text("x")]).await.expect("stage");
    let two_days_ago = SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 3600);
    let aside = File::options().write(true).open(folder.path().join(STAGING).join(&old.token)).expect("open");
    aside.set_modified(two_days_ago).expect("touch");
    let store = open(folder.path());
    assert_eq!(staged_files(folder.path()), std::slice::from_ref(&young.token));
    assert_eq!(store.publish(&young).await.expect("publish"), PutOutcome::Created);
    assert_eq!(store.publish(&old).await.expect_err("swept").kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn while_another_folder_lies_at_its_path_the_store_is_away_and_nothing_is_written_there() {
    let parent = tempfile::tempdir().expect("tempdir");
    let (root, aside) = (parent.path().join("vault"), parent.path().join("vault.away"));
    let store = open(&root);
    store.put_if_absent(&ObjectName::keys(1), "a", text("x")).await.expect("put");
    let staged = store.stage(&ObjectName::keys(2), "b", vec![text("y")]).await.expect("stage");
    fs::rename(&root, &aside).expect("the filesystem is unmounted");
    let kind_of = |result: Result<(), StoreError>| result.expect_err("it is away").kind;
    assert_eq!(kind_of(store.get(&ObjectName::keys(1)).await.map(drop)), StoreErrorKind::Unavailable);
    // What a mount point without its mount looks like, and what a second vault does.
    fs::create_dir(&root).expect("mkdir");
    for _ in 0..2 {
        assert_eq!(kind_of(store.list("", None, 9).await.map(drop)), StoreErrorKind::Unavailable, "no empty vault");
        assert_eq!(kind_of(store.head(&ObjectName::keys(1)).await.map(drop)), StoreErrorKind::Unavailable);
        let put = store.put_if_absent(&ObjectName::keys(3), "c", text("z")).await;
        assert_eq!(kind_of(put.map(drop)), StoreErrorKind::Unavailable);
        assert_eq!(kind_of(store.publish(&staged).await.map(drop)), StoreErrorKind::Unavailable);
        drop(open(&root));
    }
    assert!(!root.join("keys").exists(), "nothing was written");
    fs::remove_dir_all(&root).expect("rmdir");
    // Mounted again, under another device number: here, a copy.
    let copied = std::process::Command::new("cp").arg("-a").args([&aside, &root]).status().expect("cp");
    assert!(copied.success());
    assert_eq!(store.publish(&staged).await.expect("it is back"), PutOutcome::Created);
    assert_eq!(store.list("", None, 9).await.expect("list").len(), 2);
}

#[tokio::test]
async fn links_and_other_things_are_no_part_of_the_vault() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    store.put_if_absent(&ObjectName::keys(1), "a", text("x")).await.expect("put");
    let keys = folder.path().join("keys");
    fs::write(folder.path().join("outside"), "secret").expect("write");
    symlink(folder.path().join("outside"), keys.join("0000000000000002")).expect("link");
    fs::create_dir(keys.join("0000000000000003")).expect("directory");
    fs::write(keys.join("README.txt"), "not an object").expect("write");
    symlink(folder.path(), folder.path().join("machines")).expect("link");
    let listed = store.list("", None, 100).await.expect("list");
    let names: Vec<_> = listed.iter().map(|listed| listed.name.as_str()).collect();
    assert_eq!(names, [ObjectName::keys(1).as_str(), "outside"]);
    for n in [2, 3] {
        assert_eq!(store.get(&ObjectName::keys(n)).await.expect_err("no object").kind, StoreErrorKind::NotFound);
    }
    let through_link = ObjectName::listed("keys/0000000000000002").expect("a name");
    let outcome = store.put_if_absent(&through_link, "a", text("x")).await.expect("put");
    assert_eq!(outcome, PutOutcome::AlreadyExists, "a name that is taken stays as it is");
    assert_eq!(fs::read(folder.path().join("outside")).expect("read"), b"secret");
}

#[tokio::test]
async fn a_prefix_cannot_lead_out_of_the_folder() {
    let folder = tempfile::tempdir().expect("tempdir");
    let store = open(folder.path());
    for prefix in ["../", "/", "/etc/", "keys/../../", ".staging/"] {
        assert_eq!(store.list(prefix, None, 1).await.expect_err(prefix).kind, StoreErrorKind::Refused);
    }
}

#[tokio::test]
async fn a_folder_opened_for_reading_changes_nothing() {
    let folder = tempfile::tempdir().expect("tempdir");
    open(folder.path()).put_if_absent(&ObjectName::keys(1), "a", text("x")).await.expect("put");
    fs::remove_dir_all(folder.path().join(STAGING)).expect("clear");
    let store = FolderStore::open_read_only(folder.path(), Handle::current()).expect("it is there");
    assert_eq!(store.get(&ObjectName::keys(1)).await.expect("get").0, "x");
    for refused in [
        store.put_if_absent(&ObjectName::keys(2), "a", text("x")).await.map(drop),
        store.put_if_match(&ObjectName::keys(2), None, text("x")).await.map(drop),
        store.delete(&ObjectName::keys(1)).await,
    ] {
        assert_eq!(refused.expect_err("read-only").kind, StoreErrorKind::Denied);
    }
    assert!(!folder.path().join(STAGING).exists());
    let missing = FolderStore::open_read_only(&folder.path().join("nowhere"), Handle::current());
    assert_eq!(missing.expect_err("missing").kind, StoreErrorKind::NotFound);
}

#[tokio::test]
async fn of_many_who_replace_at_once_exactly_one_wins_each_round() {
    let folder = tempfile::tempdir().expect("tempdir");
    let name = ObjectName::keys(1);
    // Each has a store of its own: between processes the lock file is all there is.
    let stores: Vec<_> = (0..4).map(|_| open(folder.path())).collect();
    let mut expected = None;
    for round in 0..10 {
        let tries = stores.iter().enumerate().map(|(n, store)| {
            let (name, expected, bytes) = (name.clone(), expected.clone(), Bytes::from(format!("{round} by {n}")));
            async move { store.put_if_match(&name, expected.as_ref(), bytes).await.expect("swap") }
        });
        let outcomes = futures_util::future::join_all(tries).await;
        let mut won = outcomes.into_iter().filter_map(|outcome| match outcome {
            SwapOutcome::Swapped(etag) => Some(etag),
            SwapOutcome::Conflict => None,
        });
        expected = Some(won.next().expect("one wins"));
        assert_eq!(won.next(), None, "round {round}");
    }
}

#[test]
fn what_the_filesystem_says_becomes_what_to_do_next() {
    let kind = |errno: Errno| failed(String::new(), &errno.into()).kind;
    assert_eq!(kind(Errno::NOSPC), StoreErrorKind::Full);
    assert_eq!(kind(Errno::DQUOT), StoreErrorKind::Full);
    assert_eq!(kind(Errno::ACCESS), StoreErrorKind::Denied);
    assert_eq!(kind(Errno::PERM), StoreErrorKind::Denied);
    assert_eq!(kind(Errno::ROFS), StoreErrorKind::Denied);
    assert_eq!(kind(Errno::NOENT), StoreErrorKind::NotFound);
    assert_eq!(kind(Errno::IO), StoreErrorKind::Unavailable);
}
