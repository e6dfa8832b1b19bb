//! Messages over a byte stream: whole messages in, whole messages out.
//!
//! Both halves of a connection must be driven at the same time (two tasks, or one `select!`): two ends that both only
//! write would wait for each other once the sockets' buffers are full.
//!
//! Reading and writing are cancel-safe: what a dropped future had read or not yet written is still there for the
//! next call, so both may stand in a `select!`.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::protocol::frame::{BODY_BYTES_MAX, Decoder, FrameError, Message};

use super::tls::TlsFault;

/// Queued bytes after which [`FramedWriter::is_full`] says so. Chosen: one batch of target size on its way and one
/// waiting; more is memory without speed.
pub const QUEUE_BYTES_TARGET: usize = 1 << 20;
/// Most parts given to the system at once.
const SLICES_MAX: usize = 64;

/// Why a connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// What arrived is no message.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The stream failed.
    #[error(transparent)]
    Stream(#[from] TlsFault),
    /// The other side is gone in the middle of a message.
    #[error("the connection ended inside a message")]
    Cut,
}

/// The reading half.
#[derive(Debug)]
pub struct FramedReader<R> {
    io: R,
    decoder: Decoder,
}

impl<R: AsyncRead + Unpin> FramedReader<R> {
    /// Reads messages of any allowed length.
    pub fn new(io: R) -> Self {
        Self::with_limit(io, BODY_BYTES_MAX)
    }

    /// Reads messages whose bodies are at most so long.
    pub fn with_limit(io: R, body_bytes_max: usize) -> Self {
        Self { io, decoder: Decoder::new(body_bytes_max) }
    }

    /// The next message; `None` where the other side has ended the connection between two messages.
    pub async fn read<M: Message>(&mut self) -> Result<Option<M>, LinkError> {
        loop {
            if let Some(message) = self.decoder.message()? {
                return Ok(Some(message));
            }
            let count = match self.io.read_buf(self.decoder.space()).await {
                Ok(count) => count,
                // TLS without a goodbye: as good as an end where no message is cut.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Err(error) => return Err(TlsFault::explain(&error).into()),
            };
            if count == 0 {
                return if self.decoder.pending_bytes() == 0 { Ok(None) } else { Err(LinkError::Cut) };
            }
        }
    }

    /// The next message that has arrived already, without waiting.
    pub fn buffered<M: Message>(&mut self) -> Result<Option<M>, LinkError> {
        Ok(self.decoder.message()?)
    }
}

/// The writing half. Messages are queued as parts that share their payload's memory.
#[derive(Debug)]
pub struct FramedWriter<W> {
    io: W,
    queue: VecDeque<Bytes>,
    queued_bytes: usize,
}

impl<W: AsyncWrite + Unpin> FramedWriter<W> {
    /// Writes to `io`.
    pub fn new(io: W) -> Self {
        Self { io, queue: VecDeque::new(), queued_bytes: 0 }
    }

    /// Queues a message; [`FramedWriter::flush`] sends it.
    pub fn queue<M: Message>(&mut self, message: &M) {
        for part in message.encode().into_iter().filter(|part| !part.is_empty()) {
            self.queued_bytes += part.len();
            self.queue.push_back(part);
        }
    }

    /// Bytes that are queued.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Whether enough is queued to flush before more is added.
    pub fn is_full(&self) -> bool {
        self.queued_bytes >= QUEUE_BYTES_TARGET
    }

    /// Sends everything that is queued.
    pub async fn flush(&mut self) -> Result<(), LinkError> {
        self.write_queue().await.map_err(|error| TlsFault::explain(&error).into())
    }

    /// Queues a message and sends everything.
    pub async fn send<M: Message>(&mut self, message: &M) -> Result<(), LinkError> {
        self.queue(message);
        self.flush().await
    }

    /// Sends everything that is queued and ends this direction.
    pub async fn close(&mut self) -> Result<(), LinkError> {
        self.flush().await?;
        self.io.shutdown().await.map_err(|error| TlsFault::explain(&error).into())
    }

    async fn write_queue(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let count = self.queue.len().min(SLICES_MAX);
                slices.iter_mut().zip(&self.queue).for_each(|(slice, part)| *slice = IoSlice::new(part));
                self.io.write_vectored(&slices[..count]).await?
            };
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        self.io.flush().await
    }

    fn advance(&mut self, mut written: usize) {
        self.queued_bytes -= written;
        while let Some(part) = self.queue.front_mut().filter(|_| written > 0) {
            let step = written.min(part.len());
            part.advance(step);
            written -= step;
            if part.is_empty() {
                self.queue.pop_front();
            }
        }
    }
}

/// Both halves over one stream.
pub fn framed<IO: AsyncRead + AsyncWrite>(
    io: IO,
) -> (FramedReader<tokio::io::ReadHalf<IO>>, FramedWriter<tokio::io::WriteHalf<IO>>) {
    let (read, write) = tokio::io::split(io);
    (
        FramedReader { io: read, decoder: Decoder::default() },
        FramedWriter { io: write, queue: VecDeque::new(), queued_bytes: 0 },
    )
}
