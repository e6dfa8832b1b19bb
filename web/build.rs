//! Puts the built dashboard (`dashboard/dist/page`) into the crate. Where it was not built, the crate still compiles and
//! serves a page that says how to build it: no part of the engine, the API or the tools needs Node.
//!
//! Writes `$OUT_DIR/assets.rs`: a table of paths with their bytes, plain and precompressed.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Shown in place of the dashboard where it was not built.
const NOTICE: &str = "dashboard/notice.html";

fn files(dir: &Path, into: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { files(&path, into)? } else { into.push(path) }
    }
    Ok(())
}

/// One line of the table.
fn entry(table: &mut String, path: &str, file: &Path) -> Result<(), Box<dyn Error>> {
    let beside = |suffix: &str| -> String {
        let file = PathBuf::from(format!("{}{suffix}", file.display()));
        if file.exists() { format!("Some(include_bytes!({file:?}))") } else { "None".to_owned() }
    };
    let (gzip, brotli) = (beside(".gz"), beside(".br"));
    let line = format!("Asset {{ path: {path:?}, plain: include_bytes!({file:?}), gzip: {gzip}, brotli: {brotli} }},");
    Ok(writeln!(table, "    {line}")?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let room = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let (dist, notice) = (room.join("dashboard/dist"), room.join(NOTICE));
    // The folder itself is in the repository, so an absent build does not run this script again and again.
    println!("cargo:rerun-if-changed={}", dist.display());
    println!("cargo:rerun-if-changed={}", notice.display());
    let page = dist.join("page");
    let mut table = String::from("/// Everything that the dashboard is made of.\nstatic ASSETS: &[Asset] = &[\n");
    if page.join("index.html").exists() {
        let mut found = Vec::new();
        files(&page, &mut found)?;
        found.sort();
        let compressed = |path: &PathBuf| path.extension().is_some_and(|end| end == "gz" || end == "br");
        for file in found.iter().filter(|path| !compressed(path)) {
            let path =
                file.strip_prefix(&page)?.to_str().ok_or("a file of the dashboard has a name that is no text")?;
            entry(&mut table, path, file)?;
        }
    } else {
        entry(&mut table, "index.html", &notice)?;
    }
    table.push_str("];\n");
    fs::write(PathBuf::from(env::var("OUT_DIR")?).join("assets.rs"), table)?;
    Ok(())
}
