//! A connected socket of either family, and the buffer that requests are read through.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Size of a connection's read buffer, in bytes. Chosen: takes 16 requests of 4 KiB and more with one system call; a
/// quarter of it costs a system call for every few requests, four times as much no longer fits a core's cache.
const INBOX_BYTES: usize = 256 << 10;
/// A payload of which more than this is missing is read past the buffer, straight to where it belongs, in bytes.
const DIRECT_BYTES: usize = 64 << 10;

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub(crate) fn read(&self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Self::Unix(stream) => (&*stream).read(out),
                Self::Tcp(stream) => (&*stream).read(out),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    pub(crate) fn write_all(&self, data: &[u8]) -> io::Result<()> {
        match self {
            Self::Unix(stream) => (&*stream).write_all(data),
            Self::Tcp(stream) => (&*stream).write_all(data),
        }
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        // Fails only where the peer is gone already, which is what is wanted.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        };
    }

    /// How long reads and writes may wait; `None` for ever.
    pub(crate) fn set_timeouts(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write)),
            Self::Tcp(stream) => stream.set_read_timeout(read).and_then(|()| stream.set_write_timeout(write)),
        }
    }
}

/// The read side of a connection: fixed memory, few system calls. Every method that may wait for the peer calls
/// `before_wait` first, each time: the place to send what the peer may be waiting for, and to check the clock.
#[derive(Debug)]
pub(crate) struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Inbox {
    pub(crate) fn new() -> Self {
        Self { buffer: vec![0; INBOX_BYTES].into_boxed_slice(), start: 0, end: 0 }
    }

    /// Reads until `need` bytes are buffered. False where the peer closed at a clean border, before the first of them.
    pub(crate) fn fill(
        &mut self,
        socket: &Socket,
        need: usize,
        before_wait: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<bool> {
        assert!(need <= self.buffer.len(), "longer messages are read past the buffer");
        while self.end - self.start < need {
            if self.buffer.len() - self.start < need || self.start == self.end {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            before_wait()?;
            match socket.read(&mut self.buffer[self.end..])? {
                0 if self.start == self.end => return Ok(false),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.end += count,
            }
        }
        Ok(true)
    }

    /// The next `N` bytes, which [`Inbox::fill`] has made sure of.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let out = *self.buffer[self.start..self.end].first_chunk::<N>().expect("filled before it is taken from");
        self.start += N;
        out
    }

    /// The next four bytes as a number, left in place; [`Inbox::fill`] has made sure of them.
    pub(crate) fn peek_u32(&self) -> u32 {
        let bytes = self.buffer[self.start..self.end].first_chunk().expect("filled before it is looked at");
        u32::from_be_bytes(*bytes)
    }

    /// Fills `out`, waiting where needed.
    pub(crate) fn read_exact(
        &mut self,
        socket: &Socket,
        mut out: &mut [u8],
        before_wait: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        while !out.is_empty() {
            let ready = (self.end - self.start).min(out.len());
            if ready > 0 {
                let (head, rest) = std::mem::take(&mut out).split_at_mut(ready);
                head.copy_from_slice(&self.buffer[self.start..self.start + ready]);
                self.start += ready;
                out = rest;
            } else if out.len() > DIRECT_BYTES {
                before_wait()?;
                match socket.read(out)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => out = &mut std::mem::take(&mut out)[count..],
                }
            } else if !self.fill(socket, 1, before_wait)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Throws `count` bytes away, however many, in fixed memory.
    pub(crate) fn discard(
        &mut self,
        socket: &Socket,
        mut count: u64,
        before_wait: &mut impl FnMut() -> io::Result<()>,
    ) -> io::Result<()> {
        while count > 0 {
            if !self.fill(socket, 1, before_wait)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let here = ((self.end - self.start) as u64).min(count);
            self.start += here as usize;
            count -= here;
        }
        Ok(())
    }
}
