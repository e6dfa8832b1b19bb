//! The bytes of every message (version 1). Drawings are in docs/PROTOCOL.md, golden files in
//! `tests/golden/protocol`.
//!
//! Texts have a u16 length in front; lists a u32 count; options a byte 0 or 1. A batch's sections lie behind its fields,
//! one after the other, so that they are attached when sending and sliced when receiving, never copied.

use bytes::Bytes;

use crate::batch::Batch;
use crate::codec::{Malformed, Put, Take};
use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, MachineId, MarkId, TimelineId, Timestamp};
use crate::record::{
    DISKS_MAX, DiskInfo, GapReason, MarkKind, NAME_BYTES_MAX, RECORD_BYTES_MIN, Record, put_records, take_records,
};
use crate::vault::state::LogState;

use super::compare::{Digests, Part};
use super::frame::{Frame, FrameBuilder, FrameError, Message};
use super::message::{
    ADDRESSES_MAX, AgentMessage, Hello, HelloKey, LINEAGE_MAX, MarkRequest, Redirect, Refusal, RefusalCode, Reset,
    ServerMessage, TEXT_BYTES_MAX, Welcome,
};

mod kind {
    pub(super) const HELLO: u8 = 0x01;
    pub(super) const BATCH: u8 = 0x02;
    pub(super) const IDLE: u8 = 0x03;
    pub(super) const PING: u8 = 0x04;
    pub(super) const AGENT_BYE: u8 = 0x05;
    pub(super) const COMPARE: u8 = 0x06;
    pub(super) const WELCOME: u8 = 0x41;
    pub(super) const REFUSED: u8 = 0x42;
    pub(super) const DURABLE: u8 = 0x43;
    pub(super) const COMMITTED: u8 = 0x44;
    pub(super) const CREDIT: u8 = 0x45;
    pub(super) const REDIRECT: u8 = 0x46;
    pub(super) const MARK_NOW: u8 = 0x47;
    pub(super) const PONG: u8 = 0x48;
    pub(super) const SERVER_BYE: u8 = 0x49;
    pub(super) const DIGESTS: u8 = 0x4a;
}

/// Most records in one batch. Chosen: a gap opened and one closed on each of 256 disks, eight times over.
pub const BATCH_RECORDS_MAX: usize = 4096;
/// One row of a batch's section table, in bytes.
const SECTION_ROW_BYTES: usize = 8;

/// Shortest description of a disk, in bytes.
const DISK_BYTES_MIN: usize = 16;

/// What a batch costs in credit, on both sides: what it holds in memory, the lists and texts of its records included, so
/// that no agent makes a server hold more than the credit says (I10).
pub fn batch_cost_bytes(batch: &Batch) -> u64 {
    let attached = |record: &Record| match record {
        Record::Mark(mark) => mark.members.len() * MachineId::BYTES + mark.label.len(),
        Record::DiskAdded(info) => info.name.len(),
        _ => 0,
    };
    let attached: usize = batch.records.iter().map(|at| attached(&at.record)).sum();
    (batch.weight_bytes() + attached) as u64
}

impl Message for AgentMessage {
    fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::Hello(hello) => build(kind::HELLO, |out| put_hello(hello, out)),
            Self::Batch(batch) => encode_batch(batch),
            Self::Idle { lsn, at } => build(kind::IDLE, |out| {
                out.u64(lsn.0).i64(at.0);
            }),
            Self::Compare(part) => build(kind::COMPARE, |out| part.put(out)),
            Self::Ping => build(kind::PING, |_| {}),
            Self::Bye { reason } => build(kind::AGENT_BYE, |out| put_text(reason, TEXT_BYTES_MAX, out)),
        }
    }

    fn decode(frame: &Frame) -> Result<Self, FrameError> {
        match frame.kind {
            kind::HELLO => read("Hello", frame, |input| Ok(Self::Hello(Box::new(take_hello(input)?)))),
            kind::BATCH => {
                decode_batch(&frame.body).map(Self::Batch).map_err(|cause| FrameError::Body { name: "Batch", cause })
            }
            kind::IDLE => read("Idle", frame, |input| {
                Ok(Self::Idle { lsn: Lsn(input.u64("idle LSN")?), at: Timestamp(input.i64("idle time")?) })
            }),
            kind::COMPARE => read("Compare", frame, |input| Part::take(input).map(Self::Compare)),
            kind::PING => read("Ping", frame, |_| Ok(Self::Ping)),
            kind::AGENT_BYE => {
                read("Bye", frame, |input| Ok(Self::Bye { reason: input.text(TEXT_BYTES_MAX, "reason")? }))
            }
            kind => Err(FrameError::Kind { kind }),
        }
    }
}

impl Message for ServerMessage {
    fn encode(&self) -> Vec<Bytes> {
        match self {
            Self::Welcome(welcome) => build(kind::WELCOME, |out| put_welcome(welcome, out)),
            Self::Refused(refusal) => build(kind::REFUSED, |out| put_refusal(refusal, out)),
            Self::Durable { epoch, session, lsn } => build(kind::DURABLE, |out| {
                out.u64(epoch.0).u64(*session).u64(lsn.0);
            }),
            Self::Committed { epoch, session, lsn } => build(kind::COMMITTED, |out| {
                out.u64(epoch.0).u64(*session).u64(lsn.0);
            }),
            Self::Credit { bytes } => build(kind::CREDIT, |out| {
                out.u64(*bytes);
            }),
            Self::Redirect(redirect) => build(kind::REDIRECT, |out| put_redirect(redirect, out)),
            Self::MarkNow(request) => build(kind::MARK_NOW, |out| {
                out.slice(&request.id.0).u8(request.kind.code());
                put_text(&request.label, NAME_BYTES_MAX, out);
            }),
            Self::Digests(digests) => build(kind::DIGESTS, |out| digests.put(out)),
            Self::Pong => build(kind::PONG, |_| {}),
            Self::Bye { reason } => build(kind::SERVER_BYE, |out| put_text(reason, TEXT_BYTES_MAX, out)),
        }
    }

    fn decode(frame: &Frame) -> Result<Self, FrameError> {
        let ack = |input: &mut Take<'_>| {
            let (epoch, session) = (Epoch(input.u64("epoch")?), input.u64("session")?);
            Ok::<_, Malformed>((epoch, session, Lsn(input.u64("acknowledged LSN")?)))
        };
        match frame.kind {
            kind::WELCOME => read("Welcome", frame, |input| Ok(Self::Welcome(Box::new(take_welcome(input)?)))),
            kind::REFUSED => read("Refused", frame, |input| Ok(Self::Refused(Box::new(take_refusal(input)?)))),
            kind::DURABLE => read("Durable", frame, |input| {
                ack(input).map(|(epoch, session, lsn)| Self::Durable { epoch, session, lsn })
            }),
            kind::COMMITTED => read("Committed", frame, |input| {
                ack(input).map(|(epoch, session, lsn)| Self::Committed { epoch, session, lsn })
            }),
            kind::CREDIT => read("Credit", frame, |input| Ok(Self::Credit { bytes: input.u64("credit")? })),
            kind::REDIRECT => read("Redirect", frame, |input| take_redirect(input).map(Self::Redirect)),
            kind::MARK_NOW => read("MarkNow", frame, |input| {
                Ok(Self::MarkNow(MarkRequest {
                    id: MarkId(input.array("mark id")?),
                    kind: MarkKind::from_code(input.u8("mark kind")?)?,
                    label: input.text(NAME_BYTES_MAX, "mark label")?,
                }))
            }),
            kind::DIGESTS => read("Digests", frame, |input| Ok(Self::Digests(Box::new(Digests::take(input)?)))),
            kind::PONG => read("Pong", frame, |_| Ok(Self::Pong)),
            kind::SERVER_BYE => {
                read("Bye", frame, |input| Ok(Self::Bye { reason: input.text(TEXT_BYTES_MAX, "reason")? }))
            }
            kind => Err(FrameError::Kind { kind }),
        }
    }
}

fn build(kind: u8, fields: impl FnOnce(&mut Put)) -> Vec<Bytes> {
    let mut builder = FrameBuilder::new(kind);
    fields(builder.body());
    builder.finish()
}

fn read<T>(
    name: &'static str,
    frame: &Frame,
    fields: impl FnOnce(&mut Take<'_>) -> Result<T, Malformed>,
) -> Result<T, FrameError> {
    let mut input = Take::new(&frame.body);
    fields(&mut input)
        .and_then(|message| input.end(name).map(|()| message))
        .map_err(|cause| FrameError::Body { name, cause })
}

/// A text, cut at a character border where it is too long: reasons are for people.
fn put_text(text: &str, max: usize, out: &mut Put) {
    let end = (0..=text.len().min(max)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    out.text(&text[..end]);
}

fn take_flag(input: &mut Take<'_>, what: &'static str) -> Result<bool, Malformed> {
    match input.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Malformed::Value { what, value: other.into() }),
    }
}

fn take_list_count(input: &mut Take<'_>, bytes: usize, max: usize, what: &'static str) -> Result<usize, Malformed> {
    match input.count(bytes, what)? {
        count if count > max => Err(Malformed::Value { what, value: count as u64 }),
        count => Ok(count),
    }
}

fn encode_batch(batch: &Batch) -> Vec<Bytes> {
    let mut builder = FrameBuilder::new(kind::BATCH);
    let out = builder.body();
    out.u64(batch.first.0).u64(batch.last.0);
    put_records(&batch.records, out);
    out.count(batch.sections.len());
    for (disk, section) in &batch.sections {
        out.u16(disk.0).u16(0).count(section.len());
    }
    batch.sections.iter().for_each(|(_, section)| builder.attach(section.clone()));
    builder.finish()
}

fn decode_batch(body: &Bytes) -> Result<Batch, Malformed> {
    let mut input = Take::new(body);
    let (first, last) = (Lsn(input.u64("first LSN")?), Lsn(input.u64("last LSN")?));
    if first == Lsn::ZERO || last < first {
        return Err(Malformed::Value { what: "LSN run", value: last.0 });
    }
    // A record takes more memory than bytes on the wire; its number is bounded before any is read.
    if input.clone().count(RECORD_BYTES_MIN, "records")? > BATCH_RECORDS_MAX {
        return Err(Malformed::Value { what: "records", value: BATCH_RECORDS_MAX as u64 + 1 });
    }
    let records = take_records(&mut input)?;
    let count = take_list_count(&mut input, SECTION_ROW_BYTES, DISKS_MAX, "sections")?;
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let disk = DiskNo(input.u16("disk number")?);
        input.u16("section row")?;
        rows.push((disk, input.u32("section length")? as usize));
    }
    let mut at = body.len() - input.rest().len();
    let mut sections = Vec::with_capacity(count);
    for (disk, bytes) in rows {
        input.bytes(bytes, "section")?;
        sections.push((disk, body.slice(at..at + bytes)));
        at += bytes;
    }
    input.end("Batch")?;
    Ok(Batch { first, last, sections, records })
}

fn put_hello(hello: &Hello, out: &mut Put) {
    out.u16(hello.version).u8(hello.trusted.into());
    out.slice(&hello.machine.0).slice(&hello.timeline.0).slice(&hello.incarnation.0);
    out.u64(hello.first_lsn.0).u64(hello.epoch_known.0).slice(hello.data_key.bytes());
    out.u8(hello.reset.is_some().into());
    if let Some(reset) = &hello.reset {
        out.slice(&reset.log_incarnation.0).u8(reset.reason.code());
    }
    out.count(hello.lineage.len());
    for life in &hello.lineage {
        out.slice(&life.0);
    }
    out.count(hello.disks.len());
    hello.disks.iter().for_each(|disk| disk.put(out));
    put_text(&hello.agent, NAME_BYTES_MAX, out);
}

fn take_hello(input: &mut Take<'_>) -> Result<Hello, Malformed> {
    let version = input.u16("protocol version")?;
    let trusted = take_flag(input, "trusted flag")?;
    let machine = MachineId(input.array("machine")?);
    let timeline = TimelineId(input.array("timeline")?);
    let incarnation = IncarnationId(input.array("incarnation")?);
    let first_lsn = Lsn(input.u64("first LSN")?);
    let epoch_known = Epoch(input.u64("epoch")?);
    let data_key = HelloKey::new(input.array("data key")?);
    let reset = if take_flag(input, "reset flag")? {
        let log_incarnation = IncarnationId(input.array("incarnation to reset")?);
        Some(Reset { log_incarnation, reason: GapReason::from_code(input.u8("reset reason")?)? })
    } else {
        None
    };
    let count = take_list_count(input, IncarnationId::BYTES, LINEAGE_MAX, "lineage")?;
    let lineage = (0..count).map(|_| input.array("lineage").map(IncarnationId)).collect::<Result<_, _>>()?;
    let count = take_list_count(input, DISK_BYTES_MIN, DISKS_MAX, "disks")?;
    let disks = (0..count).map(|_| DiskInfo::take(input)).collect::<Result<_, _>>()?;
    let agent = input.text(NAME_BYTES_MAX, "agent version")?;
    Ok(Hello {
        version,
        machine,
        timeline,
        incarnation,
        lineage,
        trusted,
        reset,
        epoch_known,
        first_lsn,
        data_key,
        agent,
        disks,
    })
}

fn put_welcome(welcome: &Welcome, out: &mut Put) {
    out.u64(welcome.epoch.0).u64(welcome.session).u64(welcome.committed.0).u64(welcome.durable.0);
    out.u64(welcome.credit_bytes);
    welcome.log.put(out);
}

fn take_welcome(input: &mut Take<'_>) -> Result<Welcome, Malformed> {
    let welcome = Welcome {
        epoch: Epoch(input.u64("epoch")?),
        session: input.u64("session")?,
        committed: Lsn(input.u64("committed LSN")?),
        durable: Lsn(input.u64("durable LSN")?),
        credit_bytes: input.u64("credit")?,
        log: LogState::take(input)?,
    };
    if welcome.committed > welcome.durable || welcome.durable > welcome.log.last_lsn {
        return Err(Malformed::Value { what: "durable LSN", value: welcome.durable.0 });
    }
    Ok(welcome)
}

fn put_refusal(refusal: &Refusal, out: &mut Put) {
    out.u16(refusal.code.code()).u64(refusal.log_last.0).u8(refusal.log_incarnation.is_some().into());
    if let Some(id) = &refusal.log_incarnation {
        out.slice(&id.0);
    }
    put_text(&refusal.text, TEXT_BYTES_MAX, out);
    out.u8(refusal.redirect.is_some().into());
    if let Some(redirect) = &refusal.redirect {
        put_redirect(redirect, out);
    }
}

fn take_refusal(input: &mut Take<'_>) -> Result<Refusal, Malformed> {
    let code = RefusalCode::from_code(input.u16("refusal code")?)?;
    let log_last = Lsn(input.u64("last LSN of the log")?);
    let log_incarnation = if take_flag(input, "incarnation flag")? {
        Some(IncarnationId(input.array("incarnation of the log")?))
    } else {
        None
    };
    let text = input.text(TEXT_BYTES_MAX, "refusal text")?;
    let redirect = if take_flag(input, "redirect flag")? { Some(take_redirect(input)?) } else { None };
    Ok(Refusal { code, text, log_incarnation, log_last, redirect })
}

fn put_redirect(redirect: &Redirect, out: &mut Put) {
    let addresses = &redirect.addresses[..redirect.addresses.len().min(ADDRESSES_MAX)];
    out.u64(redirect.epoch.0).count(addresses.len());
    addresses.iter().for_each(|address| put_text(address, NAME_BYTES_MAX, out));
}

fn take_redirect(input: &mut Take<'_>) -> Result<Redirect, Malformed> {
    let epoch = Epoch(input.u64("epoch")?);
    let count = take_list_count(input, 2, ADDRESSES_MAX, "addresses")?;
    let addresses = (0..count).map(|_| input.text(NAME_BYTES_MAX, "address")).collect::<Result<_, _>>()?;
    Ok(Redirect { addresses, epoch })
}

impl RefusalCode {
    /// The number that stands for it in messages and logs.
    pub fn code(self) -> u16 {
        match self {
            Self::IncarnationUnknown => 1,
            Self::WrongMachine => 2,
            Self::WrongTimeline => 3,
            Self::NotOwner => 4,
            Self::VersionUnknown => 5,
            Self::VaultLocked => 6,
            Self::Malformed => 7,
            Self::SecondAgent => 8,
            Self::ShuttingDown => 9,
            Self::LsnTaken => 10,
            Self::NotReady => 11,
        }
    }

    fn from_code(code: u16) -> Result<Self, Malformed> {
        Ok(match code {
            1 => Self::IncarnationUnknown,
            2 => Self::WrongMachine,
            3 => Self::WrongTimeline,
            4 => Self::NotOwner,
            5 => Self::VersionUnknown,
            6 => Self::VaultLocked,
            7 => Self::Malformed,
            8 => Self::SecondAgent,
            9 => Self::ShuttingDown,
            10 => Self::LsnTaken,
            11 => Self::NotReady,
            _ => return Err(Malformed::Value { what: "refusal code", value: code.into() }),
        })
    }
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
