//! The bench image: an ext4 filesystem with real files; its blocks; and restic beside it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use farshore_engine::batch::BATCH_PAYLOAD_BYTES_TARGET;

use super::process::{run, text};
use super::report::folder;
use super::sized;

const BLOCK: usize = 4096;

/// Collects regular files below `dir`, in order of names, as long as they fit into `bytes` together.
fn collect(dir: &Path, bytes: &mut u64, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    paths.sort();
    for path in paths {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        if *bytes == 0 {
            return;
        }
        if meta.is_dir() {
            collect(&path, bytes, files);
        } else if meta.is_file() && (1..=*bytes).contains(&meta.len()) {
            *bytes -= meta.len();
            files.push(path);
        }
    }
}

/// An ext4 image with real files of /usr; which, is kept beside the figures.
pub fn image(dir: &Path) -> PathBuf {
    let (mut left, size) = sized((48 << 20, "256M"), (820 << 20, "2G"));
    let mut files = Vec::new();
    for top in ["/usr/lib", "/usr/share", "/usr/bin"] {
        collect(Path::new(top), &mut left, &mut files);
    }
    let list: String = files.iter().map(|file| format!("{}\n", file.display())).collect();
    fs::write(folder().join("replication-files.txt"), list).expect("keep the list of files");
    let tree = dir.join("tree");
    for file in &files {
        let to = tree.join(file.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("a folder")).expect("make a folder");
        if fs::hard_link(file, &to).is_err() {
            fs::copy(file, &to).expect("copy a file");
        }
    }
    let image = dir.join("image");
    run("mke2fs", &["-q", "-t", "ext4", "-d", text(&tree), text(&image), size]);
    fs::remove_dir_all(&tree).expect("the tree goes");
    File::open(&image).and_then(|file| file.sync_all()).expect("synced");
    image
}

/// The blocks of the image that are not zero, in pieces of a batch.
pub fn pieces(image: &Path) -> Vec<Vec<u8>> {
    let file = File::open(image).expect("open the image");
    let blocks = file.metadata().expect("measure it").len() / BLOCK as u64;
    let mut pieces = vec![Vec::with_capacity(BATCH_PAYLOAD_BYTES_TARGET)];
    let mut block = [0; BLOCK];
    for at in 0..blocks {
        file.read_exact_at(&mut block, at * BLOCK as u64).expect("read the image");
        if block.iter().all(|byte| *byte == 0) {
            continue;
        }
        if pieces.last().is_some_and(|piece| piece.len() >= BATCH_PAYLOAD_BYTES_TARGET) {
            pieces.push(Vec::with_capacity(BATCH_PAYLOAD_BYTES_TARGET));
        }
        pieces.last_mut().expect("one at least").extend_from_slice(&block);
    }
    pieces
}

/// A restic repository (version 2, which compresses) in a directory of its own.
pub struct Restic {
    repository: PathBuf,
    password: PathBuf,
    cache: PathBuf,
}

impl Restic {
    pub fn new(dir: &Path) -> Self {
        let path = |name| dir.join(name);
        let made = Self { repository: path("r"), password: path("password"), cache: path("c") };
        fs::write(&made.password, "bench").expect("write a password");
        made.run(&["init", "--repository-version", "2"]);
        made
    }

    /// Runs restic to its end.
    pub fn run(&self, args: &[&str]) {
        let common = ["-q", "-r", text(&self.repository), "-p", text(&self.password), "--cache-dir", text(&self.cache)];
        run("restic", &[&common[..], args].concat());
    }

    /// Bytes of the repository.
    pub fn bytes(&self) -> u64 {
        tree_bytes(&self.repository)
    }
}

/// Bytes of the regular files below `dir`.
pub fn tree_bytes(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("read {}: {error}", dir.display()));
    let size = |entry: fs::DirEntry| {
        let meta = entry.metadata().expect("look at a file");
        if meta.is_dir() { tree_bytes(&entry.path()) } else { meta.len() }
    };
    entries.map(|entry| size(entry.expect("an entry"))).sum()
}
