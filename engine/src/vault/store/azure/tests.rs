//! The store over a mock of the protocol: what the port promises, and what only a bad day shows. Over the emulator the same
//! suite runs in the program's own tests.

mod mock;

use std::time::Duration;

use self::mock::{Fault, Mock};
use super::*;
use crate::ids::{MachineId, Slot, TimelineId};
use crate::vault::store::conformance;

/// Azure's well-known key of emulators.
const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Quick where nothing depends on it.
fn limits() -> RetryLimits {
    let (pause_min, pause_max) = (Duration::from_millis(5), Duration::from_millis(20));
    RetryLimits { pause_min, pause_max, ..RetryLimits::default() }
}

fn open(mock: &Mock, limits: RetryLimits) -> AzureStore {
    open_account("account", mock, limits)
}

fn open_account(account: &str, mock: &Mock, limits: RetryLimits) -> AzureStore {
    let url = format!("azblob://{account}/vault/site");
    let place = AzurePlace::parse(&url, Some(&mock.endpoint())).expect("a place");
    let credential = AzureCredential::shared_key(KEY).expect("a key");
    AzureStore::new(place, &credential, limits, Handle::current()).expect("a store")
}

fn slot(n: u64) -> ObjectName {
    ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(n))
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn large() -> Bytes {
    (0..9_000_000_u32).map(|n| (n / 11) as u8).collect::<Vec<_>>().into()
}

#[tokio::test]
async fn it_does_what_the_port_promises() {
    let mock = Mock::start().await;
    conformance::run(&open(&mock, limits())).await;
    let emulator = Mock::start().await;
    conformance::run(&open_account("devstoreaccount1", &emulator, limits())).await;
}

#[tokio::test]
async fn a_large_object_travels_in_blocks_and_comes_back_whole() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    let parts = vec![large(), text("footer")];
    let staged = store.stage(&slot(1), "token", parts).await.expect("stage");
    assert_eq!(mock.count("PUT block"), 3, "two full blocks and the rest");
    assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created);
    let (whole, _) = store.get(&slot(1)).await.expect("get");
    assert!(whole.len() == 9_000_006 && whole.starts_with(&large()) && whole.ends_with(b"footer"));
    assert_eq!(store.get_range(&slot(1), 8_999_999, 4).await.expect("range").len(), 4);
}

#[tokio::test]
async fn an_answer_that_was_lost_after_the_effect_is_no_refusal() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    for (n, kind, bytes) in [(1, "PUT blocklist", large()), (4, "PUT", text("mine"))] {
        mock.fault(kind, Fault::LoseAnswer);
        let staged = store.stage(&slot(n), "token", vec![bytes]).await.expect("stage");
        assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created, "it was our own");
    }
    mock.fault("PUT", Fault::LoseAnswer);
    assert_eq!(store.put_if_absent(&slot(2), "t", text("mine")).await.expect("put"), PutOutcome::Created);
    mock.fault("PUT", Fault::LoseAnswer);
    let swapped = store.put_if_match(&slot(3), None, text("one")).await.expect("swap");
    let SwapOutcome::Swapped(etag) = swapped else { panic!("nothing was there") };
    mock.fault("PUT", Fault::LoseAnswer);
    let swapped = store.put_if_match(&slot(3), Some(&etag), text("two")).await.expect("swap");
    assert!(matches!(swapped, SwapOutcome::Swapped(_)), "the version was ours to replace");
    assert_eq!(mock.count("HEAD"), 5, "looked before it said so, each time");
}

#[tokio::test]
async fn a_rivals_object_is_never_taken_for_our_own() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    let small = store.stage(&slot(1), "token", vec![text("mine")]).await.expect("stage");
    let blocks = store.stage(&slot(1), "token", vec![large()]).await.expect("stage");
    mock.place(&format!("site/{}", slot(1)), b"theirs");
    for (kind, staged) in [("PUT blocklist", blocks), ("PUT", small)] {
        mock.fault(kind, Fault::Status(500, None));
        assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::AlreadyExists);
    }
    mock.fault("PUT", Fault::Status(500, None));
    assert_eq!(store.put_if_absent(&slot(1), "t", text("mine")).await.expect("put"), PutOutcome::AlreadyExists);
    assert_eq!(store.get(&slot(1)).await.expect("get").0, "theirs");
}

#[tokio::test]
async fn blocks_that_the_service_forgot_are_not_found_and_may_be_staged_again() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    for (n, bytes) in [(1, large()), (3, text("mine"))] {
        let staged = store.stage(&slot(n), "token", vec![bytes.clone()]).await.expect("stage");
        let lost = Staged { name: slot(n + 1), ..staged };
        let error = store.publish(&lost).await.expect_err("never staged there");
        assert_eq!(error.kind, StoreErrorKind::NotFound);
        let again = store.stage(&slot(n + 1), "token", vec![bytes]).await.expect("stage");
        assert_eq!(store.publish(&again).await.expect("publish"), PutOutcome::Created);
    }
}

#[tokio::test]
async fn a_small_object_is_one_request_while_there_is_room_to_hold_it_and_blocks_beyond() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    let block = Bytes::from(vec![7; SINGLE_PUT_MAX]);
    let room = HELD_BYTES_MAX / SINGLE_PUT_MAX;
    let mut staged = Vec::new();
    for n in 0..=room {
        staged.push(store.stage(&slot(n as u64), "token", vec![block.clone()]).await.expect("stage"));
    }
    assert_eq!(mock.count("PUT block"), 1, "for the one that there was no room for");
    for staged in staged {
        assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created);
    }
    assert_eq!((mock.count("PUT"), mock.count("PUT blocklist")), (room, 1));
    assert_eq!(store.get(&slot(0)).await.expect("get").0, block);
    let held = store.stage(&slot(99), "token", vec![block]).await.expect("stage");
    assert!(held.held().is_some(), "there is room again");
}

#[tokio::test]
async fn throttling_is_waited_for_as_long_as_the_service_asks() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    mock.fault("PUT", Fault::Status(503, Some(1)));
    mock.fault("PUT", Fault::Status(429, Some(1)));
    let begun = Instant::now();
    assert_eq!(store.put_if_absent(&slot(1), "t", text("x")).await.expect("put"), PutOutcome::Created);
    assert!(begun.elapsed() >= Duration::from_secs(2), "twice a second was asked for");
    assert_eq!(mock.count("PUT"), 3);
}

#[tokio::test]
async fn a_service_that_stays_busy_is_left_alone_after_the_last_try() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    (0..50).for_each(|_| mock.fault("GET", Fault::Status(503, None)));
    let error = store.get(&slot(1)).await.expect_err("busy");
    assert_eq!(error.kind, StoreErrorKind::Unavailable);
    assert!(error.to_string().contains("503 ServerBusy"), "{error}");
    assert_eq!(mock.count("GET"), limits().tries_max as usize, "the SDK retries nothing beside us");
    mock.fault("HEAD", Fault::Status(503, Some(600)));
    let begun = Instant::now();
    store.head(&slot(1)).await.expect_err("nobody waits ten minutes");
    assert!(mock.count("HEAD") == 1 && begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn bytes_that_were_changed_on_their_way_are_sent_again() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    for (n, kind, bytes, requests) in [(1, "PUT block", large(), 4), (2, "PUT", text("what was meant"), 2)] {
        mock.fault(kind, Fault::Corrupt);
        let staged = store.stage(&slot(n), "token", vec![bytes.clone()]).await.expect("stage");
        assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created);
        assert_eq!(mock.count(kind), requests, "one of them twice");
        assert_eq!(store.get(&slot(n)).await.expect("get").0, bytes);
    }
}

#[tokio::test]
async fn a_link_that_hangs_is_given_up_and_the_next_try_goes_through() {
    let mock = Mock::start().await;
    let store = open(&mock, RetryLimits { stall: Duration::from_millis(300), ..limits() });
    mock.fault("PUT", Fault::Hang);
    mock.fault("GET", Fault::Hang);
    assert_eq!(store.put_if_absent(&slot(1), "t", text("x")).await.expect("put"), PutOutcome::Created);
    assert_eq!(store.get(&slot(1)).await.expect("get").0, "x");
}

#[tokio::test]
async fn credentials_that_are_refused_are_not_tried_again_and_not_repeated() {
    let mock = Mock::start().await;
    let place = AzurePlace::parse("azblob://devstoreaccount1/vault", Some(&mock.endpoint())).expect("a place");
    let credential = AzureCredential::sas("sv=1&sig=topsecret").expect("a SAS");
    let store = AzureStore::new(place, &credential, limits(), Handle::current()).expect("a store");
    mock.fault("GET", Fault::Status(403, None));
    let error = store.get(&slot(1)).await.expect_err("refused");
    assert_eq!((error.kind, mock.count("GET")), (StoreErrorKind::Denied, 1));
    drop(mock);
    let away = store.get(&slot(1)).await.expect_err("nobody listens");
    for shown in [error.to_string(), format!("{error:?}"), away.to_string(), format!("{away:?} {store:?}")] {
        assert!(!shown.contains("topsecret"), "{shown}");
    }
}

#[tokio::test]
async fn pages_go_on_from_the_services_marker_and_a_listing_without_one_from_the_name() {
    let mock = Mock::start().await;
    let store = open(&mock, limits());
    for n in 0..25 {
        store.put_if_absent(&slot(n), "t", text("x")).await.expect("put");
    }
    let before = mock.count("GET list");
    let mut after = None;
    for page in 0..5 {
        let found = store.list("machines/", after.as_ref(), 5).await.expect("list");
        assert_eq!(found[0].name, slot(page * 5));
        after = found.last().map(|listed| listed.name.clone());
    }
    assert_eq!(mock.count("GET list") - before, 5, "one request a page");
    let before = mock.count("GET list");
    let found = store.list("machines/", Some(&slot(12)), 3).await.expect("list");
    assert_eq!(found.iter().map(|listed| listed.name.clone()).collect::<Vec<_>>(), [slot(13), slot(14), slot(15)]);
    assert_eq!(mock.count("GET list") - before, 1);
}

#[tokio::test]
async fn what_is_never_written_again_is_kept_from_everybody_where_the_container_can() {
    let mock = Mock::start().await;
    let keep = Duration::from_secs(15 * 86_400);
    let store = |locked| open(&mock, limits()).immutable(Immutability { keep, as_wanted: locked, locked });
    let error = store(true).prepare().await.expect_err("this container cannot");
    assert_eq!(error.kind, StoreErrorKind::Unsuitable);
    assert!(error.to_string().contains("--enable-vlw"), "{error}");
    mock.allow_immutability();
    let (locked, unlocked) = (store(true), store(false));
    locked.prepare().await.expect("this one can");
    let staged = locked.stage(&slot(1), "token", vec![large()]).await.expect("stage");
    assert_eq!(locked.publish(&staged).await.expect("publish"), PutOutcome::Created);
    unlocked.put_if_absent(&slot(2), "t", text("fence")).await.expect("put");
    let years = Duration::from_secs(3 * 365 * 86_400);
    [&locked, &unlocked].iter().for_each(|store| store.wanted_for(MachineId([7; 16]), years));
    locked.wanted_for(MachineId([1; 16]), Duration::from_secs(60));
    let of_other = ObjectName::log(MachineId([7; 16]), TimelineId([2; 8]), Slot(4));
    locked.put_if_absent(&of_other, "t", text("wanted for years")).await.expect("put");
    let part = ObjectName::run_part(MachineId([1; 16]), TimelineId([2; 8]), crate::ids::RunId([3; 8]), 0);
    locked.put_if_absent(&part, "t", text("run")).await.expect("put");
    for name in [ObjectName::manifest(MachineId([1; 16]), TimelineId([2; 8])), ObjectName::keys(1)] {
        let SwapOutcome::Swapped(etag) = locked.put_if_match(&name, None, text("one")).await.expect("swap") else {
            panic!("nothing was there")
        };
        locked.put_if_match(&name, Some(&etag), text("two")).await.expect("it changes as ever");
    }
    let found = mock.policies();
    let modes: Vec<_> =
        found.iter().map(|(name, _, mode)| (name.rsplit('/').next().expect("a part"), &**mode)).collect();
    let wanted = [
        ("0000000000000001", "locked"),
        ("0000000000000002", "unlocked"),
        ("0000000000000000", "locked"),
        ("0000000000000004", "locked"),
    ];
    assert_eq!(modes, wanted);
    for (name, until, _) in &found {
        let until = azure_core::time::parse_rfc7231(until).expect("a time");
        let left = until - azure_core::time::OffsetDateTime::now_utc();
        let keep = if name.ends_with("4") { years } else { keep };
        assert!((keep.as_secs_f64() - left.as_seconds_f64()).abs() < 120.0, "{name} is kept for {left}");
    }
    let error = locked.delete(&slot(1)).await.expect_err("not before the policy ends");
    assert!(
        error.kind == StoreErrorKind::Immutable && error.to_string().contains("BlobImmutableDueToPolicy"),
        "{error}"
    );
    assert_eq!(locked.put_if_absent(&slot(1), "t", text("x")).await.expect("put"), PutOutcome::AlreadyExists);
}
