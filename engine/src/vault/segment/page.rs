//! Index pages: the rows of one disk, packed. A 16 MiB segment of 4 KiB writes has one or two of them.
//!
//! ```text
//!   first_lsn u64 | frame u32 | payload_at u32 | rows u32       where the first row stands
//!   row := lsn delta | frame delta | kind + 4 * len | place     each a varint (7 bits a byte, low first)
//! ```
//!
//! A row's LSN and frame are told by their distance from the row before (the first row's from the page's head). Its
//! place on the disk is the zigzag distance of its offset from the end of the row before (of the first, from 0), so a
//! sequential stream costs 0. `payload_at` is not written: it grows by each Data row's length and is 0 at each new
//! frame. About 10 bytes a row for random 4 KiB writes.

use super::index::IndexRow;
use crate::codec::{Malformed, Put, Take};
use crate::ids::Lsn;
use crate::section::WriteKind;

/// Most plaintext of one page, in bytes. Chosen: half of it doubles the page table, double of it makes a lookup of
/// one block read twice as much.
pub(super) const PAGE_PLAIN_BYTES_MAX: usize = 64 << 10;
/// Longest row, in bytes: four varints of ten.
const ROW_BYTES_MAX: usize = 40;
const PAGE_HEAD_BYTES: usize = 20;
const WHAT: &str = "index page";

/// Packs rows from the front of `rows` until a page is full; gives the page and how many rows it holds.
pub(super) fn pack(rows: &[IndexRow]) -> (Vec<u8>, usize) {
    let first = rows.first().expect("a page has rows");
    let mut packed = Put::with_capacity(PAGE_PLAIN_BYTES_MAX);
    let mut before = Before { lsn: first.lsn.0, frame: first.frame, end: 0 };
    let mut count = 0;
    for row in rows {
        if packed.len() + PAGE_HEAD_BYTES + ROW_BYTES_MAX > PAGE_PLAIN_BYTES_MAX {
            break;
        }
        put_varint(&mut packed, row.lsn.0 - before.lsn);
        put_varint(&mut packed, u64::from(row.frame - before.frame));
        put_varint(&mut packed, u64::from(row.len) << 2 | u64::from(row.kind.code()));
        put_varint(&mut packed, zigzag(row.offset.wrapping_sub(before.end) as i64));
        before = Before { lsn: row.lsn.0, frame: row.frame, end: row.end() };
        count += 1;
    }
    let mut out = Put::with_capacity(PAGE_HEAD_BYTES + packed.len());
    out.u64(first.lsn.0).u32(first.frame).u32(first.payload_at).count(count).slice(packed.as_slice());
    (out.as_slice().to_vec(), count)
}

struct Before {
    lsn: u64,
    frame: u32,
    end: u64,
}

/// Unpacks a page.
pub(super) fn unpack(bytes: &[u8]) -> Result<Vec<IndexRow>, Malformed> {
    let mut input = Take::new(bytes);
    let mut before = Before { lsn: input.u64(WHAT)?, frame: input.u32(WHAT)?, end: 0 };
    let mut payload_at = input.u32(WHAT)?;
    let count = input.count(4, WHAT)?;
    let wrong = |value| Malformed::Value { what: WHAT, value };
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let lsn = before.lsn.checked_add(take_varint(&mut input)?).ok_or(wrong(before.lsn))?;
        let frame_delta = take_varint(&mut input)?;
        let frame = u32::try_from(frame_delta).ok().and_then(|delta| before.frame.checked_add(delta));
        let frame = frame.ok_or(wrong(frame_delta))?;
        let shape = take_varint(&mut input)?;
        let len = u32::try_from(shape >> 2).ok().filter(|len| *len > 0).ok_or(wrong(shape))?;
        let kind = WriteKind::from_code((shape & 3) as u8)?;
        let offset = before.end.wrapping_add(unzigzag(take_varint(&mut input)?) as u64);
        let end = offset.checked_add(len.into()).ok_or(wrong(offset))?;
        if frame != before.frame {
            payload_at = 0;
        }
        let row = IndexRow { lsn: Lsn(lsn), offset, len, kind, frame, payload_at };
        payload_at = payload_at.checked_add(row.payload_bytes()).ok_or(wrong(len.into()))?;
        rows.push(row);
        before = Before { lsn, frame, end };
    }
    input.end(WHAT)?;
    Ok(rows)
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

fn put_varint(out: &mut Put, mut value: u64) {
    while value >= 0x80 {
        out.u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.u8(value as u8);
}

fn take_varint(input: &mut Take<'_>) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = input.u8(WHAT)?;
        let bits = u64::from(byte & 0x7f);
        // The tenth byte has room for one bit only, and no number is written longer than it is.
        if (shift == 63 && bits > 1) || (shift > 0 && byte == 0) {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed::Value { what: WHAT, value })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rows as an index has them: LSNs and frames never fall, payloads follow each other within a frame.
    fn rows() -> impl Strategy<Value = Vec<IndexRow>> {
        let place = prop_oneof![Just(0), any::<u64>(), (0..1_u64 << 40).prop_map(|n| n * 512)];
        let row = (0..3_u64, 0..2_u32, place, 1..=4_u32 << 20, 1..=3_u8);
        prop::collection::vec(row, 1..400).prop_map(|raw| {
            let (mut lsn, mut frame, mut payload_at) = (7, 0, 0_u32);
            raw.into_iter()
                .map(|(lsn_step, frame_step, offset, len, kind)| {
                    lsn += lsn_step;
                    frame += frame_step;
                    if frame_step > 0 || payload_at > 8 << 20 {
                        payload_at = 0;
                        frame += 1;
                    }
                    let kind = WriteKind::from_code(kind).expect("1 to 3");
                    let offset = offset.min(u64::MAX - u64::from(len));
                    let row = IndexRow { lsn: Lsn(lsn), offset, len, kind, frame, payload_at };
                    payload_at += row.payload_bytes();
                    row
                })
                .collect()
        })
    }

    proptest! {
        #[test]
        fn rows_unpack_as_they_were_packed(rows in rows()) {
            let (mut rest, mut unpacked) = (&rows[..], Vec::new());
            while !rest.is_empty() {
                let (page, count) = pack(rest);
                prop_assert!(count > 0 && page.len() <= PAGE_PLAIN_BYTES_MAX);
                unpacked.extend(unpack(&page).expect("just packed"));
                rest = &rest[count..];
            }
            prop_assert_eq!(unpacked, rows);
        }

        #[test]
        fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn pages_split_within_a_frame_and_stay_within_their_bound() {
        let rows: Vec<_> = (0..20_000_u32)
            .map(|n| IndexRow {
                lsn: Lsn(u64::from(n) + 1),
                offset: u64::from(n.wrapping_mul(2_654_435_761)) << 12,
                len: 4096,
                kind: WriteKind::Data,
                frame: n / 128,
                payload_at: (n % 128) * 4096,
            })
            .collect();
        let (page, count) = pack(&rows);
        assert!(page.len() <= PAGE_PLAIN_BYTES_MAX && count > 5000, "{count} rows in {} bytes", page.len());
        assert_ne!(count % 128, 0, "the example splits within a frame");
        let (second, second_count) = pack(&rows[count..]);
        assert_eq!(unpack(&second).expect("just packed"), rows[count..count + second_count]);
    }
}
