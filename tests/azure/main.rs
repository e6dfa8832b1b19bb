//! A vault in Azure Blob Storage, held against Azure's own emulator: the port's promises with each kind of credential,
//! rivals on one log, answers that get lost on the way.

mod authority;
mod azurite;
mod proxy;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use farshore_engine::ids::{Epoch, MachineId, Slot, TimelineId};
use farshore_engine::vault::keys::print_key_file;
use farshore_engine::vault::layout::ObjectName;
use farshore_engine::vault::read::test_log::TestLog;
use farshore_engine::vault::store::azure::{
    AzureCredential, AzurePages, AzurePlace, AzureStore, Immutability, RetryLimits,
};
use farshore_engine::vault::store::folder::FolderStore;
use farshore_engine::vault::store::pages::{PAGE_BYTES, PageTarget, PagesCreated};
use farshore_engine::vault::store::{ObjectStore, PutOutcome, StoreErrorKind, SwapOutcome, conformance};
use tokio::runtime::Handle;

use crate::authority::{Authority, SECRET};
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
/// In a process of its own, which trusts the test's certificate and asks the test's authority for tokens.
#[tokio::test(flavor = "multi_thread")]
async fn an_application_with_a_secret_does_all_of_it_over_https_and_a_wrong_secret_nothing() {
    const NAME: &str = "an_application_with_a_secret_does_all_of_it_over_https_and_a_wrong_secret_nothing";
    if let Ok(endpoint) = std::env::var("FARSHORE_TEST_AZURITE_HTTPS") {
        let by_secret = |secret| {
            let credential = AzureCredential::client_secret("tenant".into(), "application".into(), secret);
            open(&endpoint, "by-token", &credential)
        };
        let store = by_secret(SECRET);
        store.prepare().await.expect("a token may make a container");
        conformance::run(&store).await;
        let error = by_secret("not-the-secret").get(&slot(1)).await.expect_err("no token for that");
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert!(!format!("{error} {error:?}").contains("not-the-secret"), "{error:?}");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    std::fs::write(&certificate, made.cert.pem()).expect("the certificate");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("its key");
    let Some(azurite) = Azurite::start_https("azure::https", &certificate, &key) else { return };
    let authority = Authority::start(&certificate, &key);
    let mut child = Command::new(std::env::current_exe().expect("it runs"));
    child.args(["--exact", NAME, "--nocapture"]).env("FARSHORE_TEST_AZURITE_HTTPS", azurite.endpoint());
    child.env("SSL_CERT_FILE", &certificate).env("AZURE_AUTHORITY_HOST", authority.address());
    let done = tokio::task::block_in_place(|| child.output().expect("it runs"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{}\n{}", said(&done.stdout), said(&done.stderr));
    assert!(said(&done.stdout).contains("1 passed"), "the child ran: {}", said(&done.stdout));
}

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

#[tokio::test(flavor = "multi_thread")]
async fn immutability_is_refused_where_the_store_cannot_do_it() {
    let Some(azurite) = Azurite::start("azure::immutable") else { return };
    let key = AzureCredential::shared_key(KEY).expect("a key");
    let keep = Immutability { keep: std::time::Duration::from_secs(86_400), as_wanted: false, locked: false };
    let error =
        open(&azurite.endpoint(), "worm", &key).immutable(keep).prepare().await.expect_err("the emulator cannot");
    assert!(error.kind == StoreErrorKind::Unsuitable && error.to_string().contains("immutability"), "{error}");
}

fn page_blob(endpoint: &str, blob: &str) -> AzurePages {
    let place = AzurePlace::parse(&format!("azblob://{ACCOUNT}/disks/{blob}"), Some(endpoint)).expect("a place");
    let key = AzureCredential::shared_key(KEY).expect("a key");
    AzurePages::new(place, &key, RetryLimits::default(), Handle::current()).expect("a page blob")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_blob_is_written_by_the_owner_of_the_highest_epoch_alone() {
    let Some(azurite) = Azurite::start("azure::pages") else { return };
    let pages = page_blob(&azurite.endpoint(), "a/disk.vhd");
    pages.prepare().await.expect("the container is made");
    let size = (1 << 20) + PAGE_BYTES;
    assert_eq!(pages.create(size, Epoch(5), false).await.expect("create"), PagesCreated::Created);
    assert_eq!(pages.create(size, Epoch(9), false).await.expect("create"), PagesCreated::AlreadyExists);
    let data = |byte: u8, pages: usize| Bytes::from(vec![byte; pages * 512]);
    pages.write(0, data(1, 8), Epoch(5)).await.expect("write");
    pages.write(1 << 20, data(2, 1), Epoch(5)).await.expect("the last page");
    assert_eq!(pages.ranges().await.expect("ranges"), [0..4096, 1 << 20..size]);
    assert_eq!(pages.page(1 << 20).await.expect("a page"), Some(data(2, 1)));
    assert_eq!(pages.page(8192).await.expect("a page"), Some(data(0, 1)), "one that nobody wrote");
    assert_eq!(pages.page(1 << 22).await.expect("no page"), None, "past the end");
    assert_eq!(page_blob(&azurite.endpoint(), "none").page(0).await.expect("no blob"), None);
    pages.clear(512..2048, Epoch(5)).await.expect("clear");
    assert_eq!(pages.ranges().await.expect("ranges"), [0..512, 2048..4096, 1 << 20..size]);
    for (offset, bytes) in [(1, data(3, 1)), (0, Bytes::from_static(b"half a page")), (0, data(3, (8 << 20) / 512))] {
        let error = pages.write(offset, bytes, Epoch(5)).await.expect_err("no whole pages, or too many");
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    }
    // A later owner: by claiming it, then by making it anew.
    pages.claim(Epoch(6)).await.expect("claim");
    for epoch in [5, 7] {
        let error = pages.write(0, data(4, 1), Epoch(epoch)).await.expect_err("not the owner");
        assert!(error.kind == StoreErrorKind::Refused && error.to_string().contains("somebody else"), "{error}");
        let error = pages.clear(0..512, Epoch(epoch)).await.expect_err("not the owner");
        assert_eq!(error.kind, StoreErrorKind::Refused, "{error}");
    }
    pages.claim(Epoch(5)).await.expect_err("a higher one has it");
    pages.write(0, data(6, 1), Epoch(6)).await.expect("the owner");
    assert_eq!(pages.create(size, Epoch(8), true).await.expect("replace"), PagesCreated::Created);
    assert_eq!(pages.ranges().await.expect("ranges"), [], "zero all over");
    pages.write(0, data(7, 1), Epoch(6)).await.expect_err("its blob is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_point_is_exported_to_a_page_blob_as_the_fixed_vhd_of_a_file() {
    let Some(azurite) = Azurite::start("azure::export") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    let mut log = TestLog::new(&[(9 << 20) + 4096]).await;
    for n in 1..=3_u8 {
        log.write(0, u64::from(n) << 21, &vec![n; 300_000]);
        log.mark();
        log.end_segment().await;
    }
    let key = log.wrap_in_vault("m").await;
    std::fs::write(path("key"), print_key_file(&key).as_bytes()).expect("the key");
    std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(0o600)).expect("its mode");
    for line in log.store.list("", None, 1000).await.expect("it lists") {
        let file = path("vault").join(line.name.as_str());
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        std::fs::write(file, log.object(&line.name).await).expect("an object");
    }
    let (endpoint, key_file, vault) = (azurite.endpoint(), path("key"), path("vault"));
    let export = |more: Vec<String>| {
        let mut farshore = Command::new(env!("CARGO_BIN_EXE_farshore"));
        farshore.env_clear().env("FARSHORE_AZURE_ACCOUNT_KEY", KEY).args(["vault", "export", "--machine", "m"]);
        farshore.args(["--format", "vhd-fixed", "--vault"]).arg(&vault).arg("--key-file").arg(&key_file).args(more);
        tokio::task::block_in_place(|| farshore.output().expect("farshore runs"))
    };
    let file = export(vec!["--to".into(), path("files").display().to_string()]);
    assert!(file.status.success(), "{}", String::from_utf8_lossy(&file.stderr));
    let url = format!("azblob://{ACCOUNT}/disks/restored");
    let to_blob = |more: &[&str]| {
        let line = ["--to", &url, "--to-endpoint", &endpoint];
        export(line.iter().chain(more).map(|word| (*word).to_owned()).collect())
    };
    let sent = to_blob(&[]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let again = to_blob(&[]);
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
    let replaced = to_blob(&["--force"]);
    assert!(replaced.status.success(), "{}", String::from_utf8_lossy(&replaced.stderr));

    let place = AzurePlace::parse(&format!("azblob://{ACCOUNT}/disks"), Some(&endpoint)).expect("a place");
    let key = AzureCredential::shared_key(KEY).expect("a key");
    let store = AzureStore::new(place, &key, RetryLimits::default(), Handle::current()).expect("a store");
    let (blob, _) = store.get(&ObjectName::listed("restored").expect("a name")).await.expect("the blob");
    let files: Vec<_> = std::fs::read_dir(path("files")).expect("a folder").collect();
    let file = std::fs::read(files[0].as_ref().expect("one file").path()).expect("the file");
    assert!(blob == file, "byte for byte: {} and {}", blob.len(), file.len());
    assert_eq!((blob.len() as u64 - PAGE_BYTES) % (1 << 20), 0, "Azure wants whole MiB and a footer");
    let pages = page_blob(&endpoint, "restored").ranges().await.expect("ranges");
    assert!(pages.iter().map(|range| range.end - range.start).sum::<u64>() < 2 << 20, "zeroes take no room: {pages:?}");
}
