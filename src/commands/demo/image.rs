//! The demo's system disk: an ext4 image with some hundred files in it.

use std::fs;
use std::path::Path;

use farshore_engine::oracle::Image;

use super::process::{run, tool};
use crate::exit::Failure;

/// Size of the image, in bytes.
const IMAGE_BYTES: u64 = 96 << 20;
/// Files in it.
const FILES: u32 = 300;

/// Makes the image; says what it made.
pub(super) fn make_system(image: &Path, files: &Path) -> Result<String, Failure> {
    let failed = |what: &str, error: &dyn std::fmt::Display| Failure::failed(format!("{what}: {error}"));
    make_files(files).map_err(|error| failed("make the demo's files", &error))?;
    fs::File::create(image)
        .and_then(|file| file.set_len(IMAGE_BYTES))
        .map_err(|error| failed("make the system disk", &error))?;
    let mut mke2fs = tool("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-d"]).args([files, image]);
    run(mke2fs).map_err(|failure| failed("make its filesystem (Debian package e2fsprogs)", &failure.text))?;
    fs::remove_dir_all(files).map_err(|error| failed("clear up", &error))?;
    Ok(format!("{} MiB, an ext4 filesystem with {FILES} documents", IMAGE_BYTES >> 20))
}

/// Name and text of a document: 1 to 200 KiB that compress about as well as documents do.
fn document(number: u32) -> (String, String) {
    let mut text = String::new();
    let mut state = u64::from(number) + 1;
    while text.len() < 1024 * (1 + number as usize * 7 % 200) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.push_str(&format!("line {} of file {number}: {state:016x}\n", text.len()));
    }
    (format!("folder-{:02}/document-{number:03}.txt", number % 12), text)
}

fn make_files(dir: &Path) -> std::io::Result<()> {
    for (name, text) in (0..FILES).map(document) {
        let path = dir.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
    }
    Ok(())
}

/// Whether every document lies below `dir` as it was made; how many there are.
pub(super) fn check_documents(dir: &Path) -> Result<u32, Failure> {
    for (name, text) in (0..FILES).map(document) {
        let path = dir.join(name);
        let found = fs::read(&path).map_err(|error| Failure::failed(format!("read {}: {error}", path.display())))?;
        if found != text.as_bytes() {
            return Err(Failure::failed(format!("the point's {} is not what was written", path.display())));
        }
    }
    Ok(FILES)
}

/// The first byte at which a served disk differs from a file.
pub(super) fn first_difference(file: &Path, image: &mut dyn Image) -> Result<Option<u64>, Failure> {
    use std::os::unix::fs::FileExt as _;
    const PIECE: usize = 1 << 20;
    let source = fs::File::open(file).map_err(|error| Failure::failed(format!("open {}: {error}", file.display())))?;
    let read = |error: std::io::Error| Failure::failed(format!("compare {}: {error}", file.display()));
    let size = image.size_bytes();
    if source.metadata().map_err(read)?.len() != size {
        return Ok(Some(0));
    }
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).map_or(PIECE, |rest| rest.min(PIECE));
        source.read_exact_at(&mut left[..len], at).map_err(read)?;
        image.read(at, &mut right[..len]).map_err(read)?;
        if let Some(place) = (0..len).find(|&place| left[place] != right[place]) {
            return Ok(Some(at + place as u64));
        }
        at += len as u64;
    }
    Ok(None)
}
