//! The rules of the house that no compiler holds: which crate may know which, what the profiles must say, whose
//! licences we take, which words the documents promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn host() -> String {
    let output = Command::new("rustc").arg("-vV").output().expect("run rustc");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        // Crates of other platforms need not be there.
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"])
        .arg(host())
        .current_dir(root())
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata speaks JSON")
}

fn sources(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("read {}: {error}", dir.display())) {
        let path = entry.expect("directory entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

/// src → web → actors → engine, and never back; who may use which framework.
#[test]
fn dependency_arrows_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("farshore", &["farshore-web", "farshore-actors", "farshore-engine"][..]),
        ("farshore-web", &["farshore-actors", "farshore-engine"][..]),
        ("farshore-actors", &["farshore-engine"][..]),
        ("farshore-engine", &[][..]),
    ]);
    let forbidden: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("farshore-engine", &["actix", "actix-rt", "actix-web", "sled", "utoipa", "hyper"][..]),
        ("farshore-actors", &["actix-web", "utoipa", "reqwest"][..]),
    ]);
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let Some(may_use) = allowed.get(name) else { continue };
        seen.insert(name);
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let wanted = dependency["name"].as_str().expect("dependency name");
            let own = allowed.contains_key(wanted);
            assert!(!own || may_use.contains(&wanted), "{name} must not know {wanted}");
            if let Some(not) = forbidden.get(name) {
                assert!(!not.contains(&wanted), "{name} must not use {wanted}");
            }
        }
    }
    assert_eq!(seen.len(), allowed.len(), "every crate of the house was looked at");
}

/// The engine speaks HTTP in one room only: the vault's client for Azure.
#[test]
fn only_the_azure_store_of_the_engine_knows_http() {
    let mut files = Vec::new();
    sources(&root().join("engine/src"), &mut files);
    let azure = root().join("engine/src/vault/store/azure");
    assert!(files.iter().any(|file| file.starts_with(&azure)), "the room was found");
    for file in files.iter().filter(|file| !file.starts_with(&azure)) {
        let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        for word in ["reqwest::", "azure_core::", "azure_storage_blob::", "azure_identity::"] {
            assert!(!text.contains(word), "{} uses {word}", file.display());
        }
    }
}

/// Pure code gets time and chance from its caller.
#[test]
fn the_pure_cores_have_no_clock_and_no_chance_of_their_own() {
    let pure = ["log", "protocol", "record.rs", "section.rs", "vault/segment", "vault/state.rs"];
    let mut files = Vec::new();
    for room in pure {
        let path = root().join("engine/src").join(room);
        if path.is_dir() { sources(&path, &mut files) } else { files.push(path) }
    }
    files.retain(|path| !path.components().any(|part| part.as_os_str().to_string_lossy().contains("tests")));
    assert!(files.len() >= 8, "the rooms were found");
    for file in files {
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()));
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["SystemTime::now", "Instant::now", "rand::", "thread_rng", "std::fs", "std::net", "tokio::"] {
            assert!(!code.contains(word), "{} uses {word}", file.display());
        }
    }
}

/// Supervision lives on unwinding.
#[test]
fn no_profile_aborts_on_panic() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).expect("read the workspace manifest");
    assert!(!manifest.contains("\"abort\""), "a panic must end one actor, not the process (docs/adr/0002)");
    assert_eq!(manifest.matches("panic = \"unwind\"").count(), 2, "dev and release say so");
}

/// What we ship must be free to ship.
#[test]
fn no_dependency_has_a_licence_that_we_cannot_take() {
    let fine = [
        "MIT",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "0BSD",
        "Unicode-3.0",
        "CC0-1.0",
        "MIT-0",
        "BSL-1.0",
        "Unlicense",
        "OpenSSL",
        "CDLA-Permissive-2.0",
        "MPL-2.0",
    ];
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name");
        let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
        // A licence expression is fine where one alternative of each part is.
        let ok = licence
            .replace('/', " OR ")
            .split(" AND ")
            .all(|part| part.split(" OR ").any(|one| fine.contains(&one.trim_matches(|c: char| "() ".contains(c)))));
        assert!(ok, "{name} is under {licence}");
    }
}

/// The same for what the dashboard is made of and built with. `OFL-1.1` is the font's.
#[test]
fn no_package_of_the_dashboard_has_a_licence_that_we_cannot_take() {
    let fine = ["MIT", "Apache-2.0", "BSD-3-Clause", "ISC", "0BSD", "Python-2.0", "MPL-2.0", "OFL-1.1", "CC0-1.0"];
    for room in ["web/dashboard", "tests/browser"] {
        let path = root().join(room).join("package-lock.json");
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        let lock: Value = serde_json::from_str(&text).expect("the lock file is JSON");
        let packages = lock["packages"].as_object().expect("packages");
        assert!(packages.len() > 2, "{room} uses packages");
        for (name, package) in packages.iter().filter(|(name, _)| !name.is_empty()) {
            let licence = package["license"].as_str().unwrap_or_else(|| panic!("{name} names no licence"));
            let one = |one: &str| fine.contains(&one.trim_matches(|c: char| "() ".contains(c)));
            assert!(licence.split(" OR ").any(one), "{name} is under {licence}");
            assert!(package["resolved"].is_null(), "{name} is tied to one registry");
        }
    }
}

/// The defaults in the manual are the ones in the code.
#[test]
fn the_manual_shows_the_defaults_of_the_code() {
    let manual = fs::read_to_string(root().join("docs/operations.md")).expect("read docs/operations.md");
    for (name, value, unit) in farshore_engine::defaults::TABLE {
        let row = format!("| {name} | {value} | {unit} |");
        assert!(manual.contains(&row), "docs/operations.md lacks the row: {row}");
    }
}

/// A test that the page of invariants names exists.
#[test]
fn each_invariant_names_tests_that_exist() {
    let mut rust = Vec::new();
    for dir in ["src", "engine", "actors", "web", "tests", "benches"] {
        sources(&root().join(dir), &mut rust);
    }
    let code: String = rust.iter().map(|path| fs::read_to_string(path).expect("read source")).collect();
    let invariants = fs::read_to_string(root().join("docs/INVARIANTS.md")).expect("read docs/INVARIANTS.md");
    let mut named = 0;
    for word in invariants.split('`').skip(1).step_by(2).filter(|word| word.contains("::")) {
        let test = word.rsplit("::").next().unwrap_or_default();
        assert!(code.contains(&format!("fn {test}(")), "docs/INVARIANTS.md names {word}, which does not exist");
        named += 1;
    }
    assert!(named >= 11, "each invariant names a test that holds it");
}
