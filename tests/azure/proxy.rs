//! A proxy on loopback that loses answers: the request reaches the service and has its effect, the answer never comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// The proxy.
pub(crate) struct Proxy {
    port: u16,
    faults: Arc<Faults>,
    serving: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct Faults {
    to_lose: AtomicU32,
    lost: AtomicU32,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Proxy {
    /// In front of the service at `port`.
    pub(crate) async fn start(service: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let (port, faults) = (listener.local_addr().expect("bound").port(), Arc::new(Faults::default()));
        let shared = faults.clone();
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let faults = shared.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", service)).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    // Whichever direction ends takes the other with it.
                    tokio::select! {
                        () = forward(from_client, to_server) => {}
                        () = answer(from_server, to_client, &faults) => {}
                    }
                });
            }
        });
        Self { port, faults, serving }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The next answers that come are lost.
    pub(crate) fn lose_answers(&self, count: u32) {
        self.faults.to_lose.fetch_add(count, Ordering::SeqCst);
    }

    /// Answers lost so far.
    pub(crate) fn lost(&self) -> u32 {
        self.faults.lost.load(Ordering::SeqCst)
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

async fn answer(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, faults: &Faults) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let lose = faults.to_lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if lose {
            faults.lost.fetch_add(1, Ordering::SeqCst);
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
