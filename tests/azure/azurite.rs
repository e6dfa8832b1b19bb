//! Azurite, Azure's emulator of Blob Storage, as a process of the test's own: fresh directory, own port, ended by SIGTERM
//! (it loses acknowledged writes when it is killed).

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// The emulator's one account.
pub(crate) const ACCOUNT: &str = "devstoreaccount1";
/// Its well-known key.
pub(crate) const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Time for it to start or stop; it is Node on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The running emulator.
pub(crate) struct Azurite {
    child: Child,
    scheme: &'static str,
    port: u16,
    dir: TempDir,
}

impl Azurite {
    /// Starts it. `None` where it is not installed: a failure in CI, a named skip elsewhere.
    pub(crate) fn start(test: &str) -> Option<Self> {
        Self::start_with(test, None)
    }

    /// The same over https, with this certificate and key: then it takes tokens of Entra ID, by their contents.
    #[allow(dead_code, reason = "the tests of whole installations need no tokens")]
    pub(crate) fn start_https(test: &str, certificate: &Path, key: &Path) -> Option<Self> {
        Self::start_with(test, Some((certificate, key)))
    }

    fn start_with(test: &str, tls: Option<(&Path, &Path)>) -> Option<Self> {
        let main = program();
        if !main.is_file() {
            assert!(std::env::var_os("CI").is_none(), "{test} needs Azurite: run scripts/setup.sh");
            if let Some(path) = std::env::var_os("FARSHORE_SKIPS") {
                let mut file = fs::OpenOptions::new().append(true).create(true).open(path).expect("open the skips");
                writeln!(file, "{test} (needs Azurite: scripts/setup.sh)").expect("note the skip");
            }
            eprintln!("skipped: {test} needs Azurite: scripts/setup.sh");
            return None;
        }
        // Another process may take the port in between: then the next one is tried.
        (0..5).find_map(|_| Self::try_start(&main, tls)).or_else(|| panic!("Azurite did not start"))
    }

    fn try_start(main: &Path, tls: Option<(&Path, &Path)>) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("az").tempdir().expect("temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let log = File::create(dir.path().join("azurite.log")).expect("a log");
        let mut command = Command::new("node");
        command.arg(main).args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--location"]);
        command.arg(dir.path().join("data")).args(["--skipApiVersionCheck", "--disableTelemetry", "--silent"]);
        if let Some((certificate, key)) = tls {
            command.args(["--oauth", "basic", "--cert"]).arg(certificate).arg("--key").arg(key);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share a log")).stderr(log);
        let child = command.spawn().expect("start node");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut azurite = Self { child, scheme, port, dir };
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if !matches!(azurite.child.try_wait(), Ok(None)) {
                return None;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(azurite);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }

    /// Its address.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Its port.
    #[allow(dead_code, reason = "the tests of whole installations need only the address")]
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("azurite.log")).unwrap_or_default();
            eprintln!("--- Azurite said:\n{log}");
        }
    }
}

fn program() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    root.join("target/azurite/node_modules/azurite/dist/src/blob/main.js")
}
