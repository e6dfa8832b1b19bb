//! Control connections over TLS: JSON bodies in the frames that the replication protocol uses as well.
//!
//! ```text
//!   kind 0x81  from a member      kind 0x82  to a member      body: JSON
//! ```

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, ReadHalf, WriteHalf};

use super::link::{Connect, Link, LinkError};
use super::messages::{CONTROL_MESSAGE_BYTES_MAX, FromMember, ToMember, decode, encode};
use crate::protocol::frame::{Frame, FrameBuilder, FrameError, Message};
use crate::transport::framed::{FramedReader, FramedWriter};
use crate::transport::identity::{Fingerprint, Identity};
use crate::transport::tls::{self, Peers, SharedIdentity, TlsFault, Trust};

const FROM_MEMBER: u8 = 0x81;
const TO_MEMBER: u8 = 0x82;

/// A frame whose body is still text.
struct Envelope {
    kind: u8,
    body: Bytes,
}

impl Message for Envelope {
    fn encode(&self) -> Vec<Bytes> {
        let mut frame = FrameBuilder::new(self.kind);
        frame.attach(self.body.clone());
        frame.finish()
    }

    fn decode(frame: &Frame) -> Result<Self, FrameError> {
        match frame.kind {
            FROM_MEMBER | TO_MEMBER => Ok(Self { kind: frame.kind, body: frame.body.clone() }),
            kind => Err(FrameError::Kind { kind }),
        }
    }
}

/// One end's reading half.
#[derive(Debug)]
pub struct ControlReader<R> {
    frames: FramedReader<R>,
    kind: u8,
}

/// One end's writing half.
#[derive(Debug)]
pub struct ControlWriter<W> {
    frames: FramedWriter<W>,
    kind: u8,
}

impl<R: AsyncRead + Unpin> ControlReader<R> {
    async fn read<M: DeserializeOwned>(&mut self) -> Result<Option<M>, LinkError> {
        let envelope: Option<Envelope> = self.frames.read().await.map_err(broken)?;
        let Some(envelope) = envelope else { return Ok(None) };
        if envelope.kind != self.kind {
            return Err(LinkError::Broken(format!(
                "a message of kind {:#04x} came from the wrong side",
                envelope.kind
            )));
        }
        decode(&envelope.body).map(Some).map_err(|error| LinkError::Broken(error.to_string()))
    }

    /// The next message from a member. Dropping the future loses nothing.
    pub async fn from_member(&mut self) -> Result<Option<FromMember>, LinkError> {
        self.read().await
    }
}

impl<W: AsyncWrite + Unpin> ControlWriter<W> {
    async fn write<M: Serialize>(&mut self, message: &M) -> Result<(), LinkError> {
        let body = encode(message).map_err(|error| LinkError::Broken(error.to_string()))?;
        self.frames.send(&Envelope { kind: self.kind, body: body.into() }).await.map_err(broken)
    }

    /// Sends a message to a member.
    pub async fn to_member(&mut self, message: &ToMember) -> Result<(), LinkError> {
        self.write(message).await
    }

    /// Ends this direction once everything is sent.
    pub async fn close(&mut self) -> Result<(), LinkError> {
        self.frames.close().await.map_err(broken)
    }
}

fn broken(error: crate::transport::framed::LinkError) -> LinkError {
    LinkError::Broken(error.to_string())
}

/// The server's halves of a connection.
pub fn server_ends<S: AsyncRead + AsyncWrite>(stream: S) -> (ControlReader<ReadHalf<S>>, ControlWriter<WriteHalf<S>>) {
    ends(stream, FROM_MEMBER, TO_MEMBER)
}

fn ends<S: AsyncRead + AsyncWrite>(
    stream: S,
    read: u8,
    write: u8,
) -> (ControlReader<ReadHalf<S>>, ControlWriter<WriteHalf<S>>) {
    let (reading, writing) = tokio::io::split(stream);
    let frames = FramedReader::with_limit(reading, CONTROL_MESSAGE_BYTES_MAX);
    (ControlReader { frames, kind: read }, ControlWriter { frames: FramedWriter::new(writing), kind: write })
}

struct MemberEnd<S> {
    reader: ControlReader<ReadHalf<S>>,
    writer: ControlWriter<WriteHalf<S>>,
}

#[async_trait]
impl<S: AsyncRead + AsyncWrite + Send> Link for MemberEnd<S> {
    async fn say(&mut self, message: &FromMember) -> Result<(), LinkError> {
        self.writer.write(message).await
    }

    async fn hear(&mut self) -> Result<Option<ToMember>, LinkError> {
        self.reader.read().await
    }
}

/// Connects to the configuration server.
#[derive(Clone)]
pub struct TlsConnect {
    config: Arc<ClientConfig>,
}

impl TlsConnect {
    /// For the first contact: no certificate of one's own, and only a server of the authority with this fingerprint.
    pub fn to_enrol(authority: Fingerprint) -> Result<Self, TlsFault> {
        let config = tls::client_config(None, Trust::Fingerprint(authority), Peers::ConfigServer)?;
        Ok(Self { config })
    }

    /// For sessions: as this member, to its own installation.
    pub fn as_member(identity: &Identity) -> Result<Self, TlsFault> {
        let shared = SharedIdentity::new(identity)?;
        let trust = Trust::Authority(identity.authority().clone());
        let config = tls::client_config(Some(&shared), trust, Peers::ConfigServer)?;
        Ok(Self { config })
    }
}

#[async_trait]
impl Connect for TlsConnect {
    async fn connect(&self, address: &str) -> Result<Box<dyn Link>, LinkError> {
        let secured = tls::connect(address, self.config.clone()).await.map_err(|fault| match fault {
            TlsFault::Broken(cause) => LinkError::Unreachable { address: address.into(), cause },
            TlsFault::Timeout => LinkError::Unreachable { address: address.into(), cause: fault.to_string() },
            _ => LinkError::Untrusted { address: address.into(), cause: fault.to_string() },
        })?;
        let (reader, writer) = ends(secured.stream, TO_MEMBER, FROM_MEMBER);
        Ok(Box::new(MemberEnd { reader, writer }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_cross_a_stream_in_both_directions() {
        let (near, far) = tokio::io::duplex(64);
        let (reader, writer) = ends(near, TO_MEMBER, FROM_MEMBER);
        let mut member = MemberEnd { reader, writer };
        let (mut reader, mut writer) = server_ends(far);
        let server = async {
            let heard = reader.from_member().await.expect("heard");
            writer.to_member(&ToMember::Pong).await.expect("said");
            heard
        };
        let talk = async {
            member.say(&FromMember::Ping).await.expect("said");
            member.hear().await.expect("heard")
        };
        assert_eq!(tokio::join!(server, talk), (Some(FromMember::Ping), Some(ToMember::Pong)));
    }

    #[tokio::test]
    async fn a_message_from_the_wrong_side_or_of_no_kind_ends_the_connection() {
        for (kind, body) in [(TO_MEMBER, &br#"{"message":"pong"}"#[..]), (FROM_MEMBER, b"[]"), (FROM_MEMBER, b"\xff")] {
            let (near, far) = tokio::io::duplex(4096);
            let mut frames = FramedWriter::new(near);
            frames.send(&Envelope { kind, body: Bytes::copy_from_slice(body) }).await.expect("sent");
            let (mut reader, _writer) = server_ends(far);
            assert!(matches!(reader.from_member().await, Err(LinkError::Broken(_))), "{kind:#x}");
        }
    }
}
