//! The write side of a connection: replies are collected and sent together, whole, in the order they were put.
//!
//! Whoever puts a reply says whether it may wait. The reading thread lets its replies wait until it would itself wait
//! for the next request; workers do not.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::socket::Socket;

/// Replies that may wait are sent once there are this many bytes. Chosen: what a unix socket takes at once by default.
const WAITING_BYTES_MAX: usize = 128 << 10;
/// Data from this length on is sent from where it lies instead of being copied.
const DIRECT_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    socket: Arc<Socket>,
    waiting: Mutex<Vec<u8>>,
}

impl Outbox {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self { socket, waiting: Mutex::new(Vec::with_capacity(WAITING_BYTES_MAX)) }
    }

    /// Puts what `build` appends. Where `build` gives false, nothing is put, and false comes back.
    pub(crate) fn put_if(&self, build: impl FnOnce(&mut Vec<u8>) -> bool) -> io::Result<bool> {
        let mut waiting = self.waiting.lock();
        let before = waiting.len();
        if !build(&mut waiting) {
            waiting.truncate(before);
            return Ok(false);
        }
        if waiting.len() >= WAITING_BYTES_MAX {
            self.send(&mut waiting)?;
        }
        Ok(true)
    }

    /// Puts what `head` appends, then `data`; sends at once where `now`.
    pub(crate) fn put(&self, head: impl FnOnce(&mut Vec<u8>), data: &[u8], now: bool) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        head(&mut waiting);
        if data.len() < DIRECT_BYTES {
            waiting.extend_from_slice(data);
        } else {
            self.send(&mut waiting)?;
            return self.socket.write_all(data);
        }
        if now || waiting.len() >= WAITING_BYTES_MAX { self.send(&mut waiting) } else { Ok(()) }
    }

    /// Sends what waits.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() { Ok(()) } else { self.send(&mut waiting) }
    }

    fn send(&self, waiting: &mut Vec<u8>) -> io::Result<()> {
        let result = self.socket.write_all(waiting);
        waiting.clear();
        result
    }
}
