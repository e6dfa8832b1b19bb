//! What the tests of several files share.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::proto::{self, Request};

/// A client that sends what it is told, right or wrong.
pub(crate) struct RawClient {
    stream: UnixStream,
}

impl RawClient {
    /// Does the handshake by GO.
    pub(crate) fn open(mut stream: UnixStream, name: &str, structured: bool) -> Self {
        let mut greeting = [0; proto::GREETING_BYTES];
        stream.read_exact(&mut greeting).expect("a greeting");
        stream.write_all(&3_u32.to_be_bytes()).expect("sent");
        let mut options = Vec::new();
        let mut option = |option: u32, data: &[u8]| {
            options.extend(proto::OptionHead { option, length: data.len() as u32 }.encode());
            options.extend(data);
        };
        if structured {
            option(proto::option::STRUCTURED_REPLY, &[]);
        }
        option(proto::option::GO, &[&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), &[0, 0]].concat());
        stream.write_all(&options).expect("sent");
        let mut acks = if structured { 2 } else { 1 };
        while acks > 0 {
            let mut head = [0; proto::OPTION_REPLY_HEAD_BYTES];
            stream.read_exact(&mut head).expect("a reply");
            let (kind, len) = (&head[12..16], u32::from_be_bytes([head[16], head[17], head[18], head[19]]));
            stream.read_exact(&mut vec![0; len as usize]).expect("its data");
            acks -= usize::from(kind == [0, 0, 0, 1]);
        }
        Self { stream }
    }

    pub(crate) fn sender(&mut self) -> Self {
        Self { stream: self.stream.try_clone().expect("cloned") }
    }

    pub(crate) fn request(&mut self, command: u16, flags: u16, cookie: u64, offset: u64, length: u32, data: &[u8]) {
        let request = Request { flags, command, cookie, offset, length };
        self.stream.write_all(&[&request.encode()[..], data].concat()).expect("sent");
    }

    /// Error and cookie of the next reply.
    pub(crate) fn simple_reply(&mut self) -> (u32, u64) {
        let mut head = [0; proto::SIMPLE_REPLY_BYTES];
        self.stream.read_exact(&mut head).expect("a reply");
        let mut fields = proto::Fields(&head);
        assert_eq!(fields.u32(), Some(proto::SIMPLE_REPLY_MAGIC));
        (fields.u32().expect("whole"), fields.u64().expect("whole"))
    }
}
