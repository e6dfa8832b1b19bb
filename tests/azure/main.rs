//! A vault in Azure Blob Storage, held against Azure's own emulator: the port's promises with each kind of credential,
//! rivals on one log, answers that get lost on the way.

mod azurite;
mod proxy;

use std::collections::HashMap;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use farshore_engine::ids::{MachineId, Slot, TimelineId};
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::store::azure::{AzureCredential, AzurePlace, AzureStore, RetryLimits};
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::{ObjectStore, PutOutcome, StoreErrorKind, SwapOutcome, conformance};
use tokio::runtime::Handle;

use crate::azurite::{ACCOUNT, Azurite, KEY};
use crate::proxy::Proxy;

fn open(endpoint: &str, container: &str, credential: &AzureCredential) -> AzureStore {
    let url = format!("azblob://{ACCOUNT}/{container}/site");
    let place = AzurePlace::parse(&url, Some(endpoint)).expect("a place");
    AzureStore::new(place, credential, RetryLimits::default(), Handle::current()).expect("a store")
}

async fn with_key(endpoint: &str, container: &str) -> AzureStore {
    let store = open(endpoint, container, &AzureCredential::shared_key(KEY).expect("a key"));
    store.prepare().await.expect("the container is made where it is missing");
    store
}

fn slot(n: u64) -> ObjectName {
    ObjectName::log(MachineId([1; 16]), TimelineId([2; 8]), Slot(n))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_emulator_does_what_the_port_promises_with_a_shared_key() {
    let Some(azurite) = Azurite::start("azure::shared_key") else { return };
    let store = with_key(&azurite.endpoint(), "shared-key").await;
    conformance::run(&store).await;
    store.prepare().await.expect("a container that is there is fine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sas_opens_its_container_and_a_forged_one_is_refused() {
    let Some(azurite) = Azurite::start("azure::sas") else { return };
    drop(with_key(&azurite.endpoint(), "by-sas").await);
    let token = sas("by-sas", "racwdl");
    conformance::run(&open(&azurite.endpoint(), "by-sas", &AzureCredential::sas(&token).expect("a SAS"))).await;
    let forged = token.replace("sp=racwdl", "sp=rl");
    let refused = open(&azurite.endpoint(), "by-sas", &AzureCredential::sas(&forged).expect("a SAS"));
    let error = refused.get(&slot(1)).await.expect_err("forged");
    assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
    let elsewhere = open(&azurite.endpoint(), "elsewhere", &AzureCredential::shared_key(KEY).expect("a key"));
    let error = elsewhere.get(&slot(1)).await.expect_err("no such container");
    assert_eq!(error.kind, StoreErrorKind::Unavailable, "an absent container is no absent object: {error}");
}

/// Sixteen owners, each with a client of its own, all for the same slots: whole segments in blocks, or small records.
#[tokio::test(flavor = "multi_thread")]
async fn sixteen_rival_owners_fill_each_slot_exactly_once() {
    const OWNERS: u8 = 16;
    const SLOTS: u64 = 12;
    let Some(azurite) = Azurite::start("azure::rivals") else { return };
    let endpoint = azurite.endpoint();
    let mut owners = Vec::new();
    for owner in 0..OWNERS {
        let store = with_key(&endpoint, "rivals").await;
        owners.push(tokio::spawn(async move {
            let mut won = Vec::new();
            for n in 0..SLOTS {
                let (content, token) = (Bytes::from(vec![owner; 3000 + usize::from(owner)]), format!("owner {owner}"));
                let outcome = match n % 2 {
                    0 => store.put_if_absent(&slot(n), &token, content).await.expect("put"),
                    // Rivals' blocks are lost once one of them is published: then they bring them again.
                    _ => loop {
                        let staged = store.stage(&slot(n), &token, vec![content.clone()]).await.expect("stage");
                        match store.publish(&staged).await {
                            Ok(outcome) => break outcome,
                            Err(error) => assert_eq!(error.kind, StoreErrorKind::NotFound, "{error}"),
                        }
                    },
                };
                if outcome == PutOutcome::Created {
                    won.push(n);
                }
            }
            won
        }));
    }
    let mut winners: HashMap<u64, Vec<u8>> = HashMap::new();
    for (owner, task) in owners.into_iter().enumerate() {
        for n in task.await.expect("no owner panics") {
            winners.entry(n).or_default().push(owner as u8);
        }
    }
    let store = with_key(&endpoint, "rivals").await;
    for n in 0..SLOTS {
        let won = winners.get(&n).cloned().unwrap_or_default();
        assert_eq!(won.len(), 1, "slot {n} was won by {won:?}"); // I4
        let (bytes, _) = store.get(&slot(n)).await.expect("filled");
        assert!(bytes.len() == 3000 + usize::from(won[0]) && bytes.iter().all(|byte| *byte == won[0]), "slot {n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_behind_a_proxy_are_neither_lost_writes_nor_refusals() {
    let Some(azurite) = Azurite::start("azure::lost_answers") else { return };
    drop(with_key(&azurite.endpoint(), "lossy").await);
    let proxy = Proxy::start(azurite.port()).await;
    let store = with_key(&proxy.endpoint(), "lossy").await;
    for n in 0..6 {
        let content = Bytes::from(format!("segment {n}"));
        proxy.lose_answers(1);
        let staged = store.stage(&slot(n), "mine", vec![content.clone()]).await.expect("stage");
        proxy.lose_answers(1);
        assert_eq!(store.publish(&staged).await.expect("publish"), PutOutcome::Created, "slot {n} is ours");
        assert_eq!(store.get(&slot(n)).await.expect("get").0, content);
    }
    let name = ObjectName::manifest(MachineId([1; 16]), TimelineId([2; 8]));
    proxy.lose_answers(1);
    let swapped = store.put_if_match(&name, None, Bytes::from_static(b"one")).await.expect("swap");
    let SwapOutcome::Swapped(etag) = swapped else { panic!("nothing was there") };
    proxy.lose_answers(2);
    let swapped = store.put_if_match(&name, Some(&etag), Bytes::from_static(b"two")).await.expect("swap");
    assert!(matches!(swapped, SwapOutcome::Swapped(_)));
    assert!(proxy.lost() >= 15, "the faults took place: {}", proxy.lost());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_copied_object_by_object_lists_and_reads_alike() {
    let Some(azurite) = Azurite::start("azure::copy") else { return };
    let dir = tempfile::tempdir().expect("temporary directory");
    let folder = FolderStore::open(dir.path(), Handle::current()).expect("a folder");
    let machine = MachineId([7; 16]);
    let mut names: Vec<ObjectName> = (0..30).map(|n| ObjectName::log(machine, TimelineId([2; 8]), Slot(n))).collect();
    names.extend([ObjectName::keys(1), ObjectName::about(machine, 3), ObjectName::catalog(9)]);
    for (n, name) in names.iter().enumerate() {
        folder.put_if_absent(name, "t", Bytes::from(vec![n as u8; n * 100 + 1])).await.expect("put");
    }
    let azure: Arc<dyn ObjectStore> = Arc::new(with_key(&azurite.endpoint(), "copied").await);
    let all = folder.list("", None, 1000).await.expect("list");
    for listed in &all {
        let (bytes, _) = folder.get(&listed.name).await.expect("get");
        azure.put_if_absent(&listed.name, "copy", bytes).await.expect("put");
    }
    assert_eq!(azure.list("", None, 1000).await.expect("list"), all);
    for listed in &all {
        assert_eq!(azure.get(&listed.name).await.expect("get").0, folder.get(&listed.name).await.expect("get").0);
    }
}

/// A service SAS for one container, signed with the tools at hand.
fn sas(container: &str, permissions: &str) -> String {
    let (version, end) = ("2021-08-06", "2099-01-01T00:00:00Z");
    let text =
        format!("{permissions}\n\n{end}\n/blob/{ACCOUNT}/{container}\n\n\nhttps,http\n{version}\nc\n\n\n\n\n\n\n");
    let script = "key=$(printf %s \"$1\" | openssl base64 -d -A | od -An -vtx1 | tr -d ' \\n'); \
                  printf %s \"$2\" | openssl dgst -sha256 -mac HMAC -macopt hexkey:$key -binary | openssl base64 -A";
    let output = Command::new("sh").args(["-c", script, "sh", KEY, &text]).stdin(Stdio::null()).output().expect("sh");
    let signature = String::from_utf8(output.stdout).expect("base64").trim().to_owned();
    assert!(!signature.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let signature = signature.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
    format!("sv={version}&spr=https%2Chttp&se={}&sr=c&sp={permissions}&sig={signature}", end.replace(':', "%3A"))
}
