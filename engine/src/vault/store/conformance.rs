//! What every adapter of the store port must do, as one suite: each adapter's tests run it over an empty store.
//! It asserts, so it is for tests only.

use bytes::Bytes;

use super::{ObjectName, ObjectStore, PutOutcome, StoreErrorKind, SwapOutcome};
use crate::ids::{MachineId, Slot, TimelineId};

fn slot(n: u64) -> ObjectName {
    ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(n))
}

fn manifest() -> ObjectName {
    ObjectName::manifest(MachineId([1; 16]), TimelineId([2; 8]))
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

/// Runs the whole suite over an empty store.
///
/// # Panics
/// Where the store does not do what the port promises.
pub async fn run(store: &dyn ObjectStore) {
    create_is_done_once(store).await;
    what_is_staged_is_no_object(store).await;
    rivals_bytes_never_mix(store).await;
    reads_say_what_is_there(store).await;
    replacing_needs_the_version(store).await;
    lists_are_in_order(store).await;
    deleting_is_done_twice(store).await;
}

async fn create_is_done_once(store: &dyn ObjectStore) {
    let first = store.put_if_absent(&slot(1), "a", text("first")).await.expect("put");
    assert_eq!(first, PutOutcome::Created);
    let second = store.put_if_absent(&slot(1), "b", text("second")).await.expect("put");
    assert_eq!(second, PutOutcome::AlreadyExists, "I4: a slot is filled once");
    assert_eq!(store.get(&slot(1)).await.expect("get").0, "first");
}

async fn what_is_staged_is_no_object(store: &dyn ObjectStore) {
    let staged = store.stage(&slot(2), "a", vec![text("cut "), text("any"), text("where")]).await.expect("stage");
    assert_eq!(staged.bytes, 12);
    assert_eq!(store.get(&slot(2)).await.expect_err("staged only").kind, StoreErrorKind::NotFound);
    assert!(store.list("", None, 100).await.expect("list").iter().all(|listed| listed.name != slot(2)));
    assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created);
    assert_eq!(store.get(&slot(2)).await.expect("get").0, "cut anywhere");
    let again = store.publish(&staged).await.expect("publish again, as after a lost answer");
    assert_eq!(again, PutOutcome::AlreadyExists);
}

async fn rivals_bytes_never_mix(store: &dyn ObjectStore) {
    let one = store.stage(&slot(3), "epoch 1", vec![text("one")]).await.expect("stage");
    let two = store.stage(&slot(3), "epoch 2", vec![text("two")]).await.expect("stage");
    let same_again = store.stage(&slot(3), "epoch 2", vec![text("two")]).await.expect("stage again");
    assert_eq!(store.publish(&two).await.expect("publish"), PutOutcome::Created);
    assert_eq!(store.publish(&one).await.expect("publish"), PutOutcome::AlreadyExists);
    assert_eq!(store.publish(&same_again).await.expect("publish"), PutOutcome::AlreadyExists);
    assert_eq!(store.get(&slot(3)).await.expect("get").0, "two");
    let mut never_staged = one.clone();
    never_staged.name = slot(4);
    never_staged.token = "../../escape".into();
    assert!(store.publish(&never_staged).await.is_err(), "what was not staged cannot be published");
    assert_eq!(store.get(&slot(4)).await.expect_err("not there").kind, StoreErrorKind::NotFound);
}

async fn reads_say_what_is_there(store: &dyn ObjectStore) {
    let (name, bytes) = (slot(5), Bytes::from((0..300_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>()));
    store.put_if_absent(&name, "a", bytes.clone()).await.expect("put");
    let (whole, etag) = store.get(&name).await.expect("get");
    assert_eq!(whole, bytes);
    let meta = store.head(&name).await.expect("head");
    assert_eq!((meta.bytes, meta.etag), (300_000, etag));
    assert_eq!(store.get_range(&name, 100, 50).await.expect("range"), bytes.slice(100..150));
    assert_eq!(store.get_range(&name, 299_990, 50).await.expect("range"), bytes.slice(299_990..));
    for offset in [300_000, 300_001, u64::MAX] {
        let error = store.get_range(&name, offset, u64::MAX).await.expect_err("nothing is there");
        assert_eq!(error.kind, StoreErrorKind::Refused, "offset {offset}");
    }
    let missing = slot(999);
    assert_eq!(store.get(&missing).await.expect_err("missing").kind, StoreErrorKind::NotFound);
    assert_eq!(store.head(&missing).await.expect_err("missing").kind, StoreErrorKind::NotFound);
    assert_eq!(store.get_range(&missing, 0, 1).await.expect_err("missing").kind, StoreErrorKind::NotFound);
    let below = ObjectName::listed(&format!("{name}/below")).expect("a name");
    assert_eq!(store.get(&below).await.expect_err("an object has nothing below it").kind, StoreErrorKind::NotFound);
}

async fn replacing_needs_the_version(store: &dyn ObjectStore) {
    let name = manifest();
    let SwapOutcome::Swapped(one) = store.put_if_match(&name, None, text("one")).await.expect("create") else {
        panic!("nothing was there")
    };
    let not_absent = store.put_if_match(&name, None, text("two")).await.expect("compare");
    assert_eq!(not_absent, SwapOutcome::Conflict);
    assert_eq!(store.head(&name).await.expect("head").etag, one);
    let SwapOutcome::Swapped(two) = store.put_if_match(&name, Some(&one), text("two")).await.expect("replace") else {
        panic!("the version was right")
    };
    assert_ne!(one, two);
    let stale = store.put_if_match(&name, Some(&one), text("three")).await.expect("compare");
    assert_eq!(stale, SwapOutcome::Conflict);
    assert_eq!(store.get(&name).await.expect("get"), (text("two"), two.clone()));
    let gone = store.put_if_match(&slot(998), Some(&two), text("four")).await.expect("compare");
    assert_eq!(gone, SwapOutcome::Conflict, "an object that is not there has no version");
}

async fn lists_are_in_order(store: &dyn ObjectStore) {
    let machine = MachineId([9; 16]);
    let mut names: Vec<_> = (0..5).map(|n| ObjectName::log(machine, TimelineId([3; 8]), Slot(n * 7))).collect();
    names.extend([ObjectName::about(machine, 1), ObjectName::manifest(machine, TimelineId([3; 8]))]);
    for name in &names {
        store.put_if_absent(name, "a", text("bytes")).await.expect("put");
    }
    names.sort();
    let prefix = super::super::layout::machine_prefix(machine);
    let all = store.list(&prefix, None, 100).await.expect("list");
    assert_eq!(all.iter().map(|listed| &listed.name).collect::<Vec<_>>(), names.iter().collect::<Vec<_>>());
    assert!(all.iter().all(|listed| listed.bytes == 5));
    for step in 1..4 {
        let (mut paged, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(&prefix, after.as_ref(), step).await.expect("list");
            assert!(page.len() <= step);
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            paged.extend(page.into_iter().map(|listed| listed.name));
        }
        assert_eq!(paged, names, "pages of {step}");
    }
    let half_a_name = &names[2].as_str()[..names[2].as_str().len() - 2];
    assert!(store.list(half_a_name, None, 100).await.expect("list").iter().any(|listed| listed.name == names[2]));
    assert_eq!(store.list("nothing/here/", None, 100).await.expect("list"), []);
}

async fn deleting_is_done_twice(store: &dyn ObjectStore) {
    store.put_if_absent(&slot(6), "a", text("bytes")).await.expect("put");
    store.delete(&slot(6)).await.expect("delete");
    assert_eq!(store.get(&slot(6)).await.expect_err("deleted").kind, StoreErrorKind::NotFound);
    store.delete(&slot(6)).await.expect("an object that is not there is no error");
    store.delete(&slot(997)).await.expect("nor is one that never was");
}
