//! How an object becomes blocks: cut, named, and found again from the token that a stage hands out.
//!
//! A block's id is `<tag><index>`, 40 characters: `tag` (32 hex digits) is the digest of name, length and the caller's token,
//! which names epoch, writer and content, so that rivals' blocks never mix; `index` has 8 hex digits. All ids of a blob have
//! one length, as Azure wants.

use bytes::{Bytes, BytesMut};

use super::super::super::layout::ObjectName;

/// The size of a block. Azure takes up to 4000 MiB; at 4 MiB four in parallel fill a link and a lost one costs little.
pub(super) const BLOCK_BYTES: usize = 4 << 20;
/// Most blocks of a blob (Azure: "Scalability and performance targets for Blob storage").
pub(super) const BLOCKS_MAX: u64 = 50_000;
/// The largest object, which follows.
pub(super) const OBJECT_BYTES_MAX: u64 = BLOCKS_MAX * BLOCK_BYTES as u64;

/// What a staged object's blocks are called, as text between stage and publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocks {
    /// Tells what was staged from all else; it is written into the blob's metadata.
    pub(super) tag: String,
    /// How many there are.
    pub(super) count: u32,
}

impl Blocks {
    /// Names the blocks of an object of `bytes` bytes.
    pub(super) fn of(name: &ObjectName, token: &str, bytes: u64, count: u32) -> Self {
        let mut hash = blake3::Hasher::new();
        for text in [name.as_str(), token] {
            hash.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        hash.update(&bytes.to_le_bytes());
        Self { tag: hash.finalize().to_hex()[..32].to_owned(), count }
    }

    /// The id of one block.
    pub(super) fn id(&self, index: u32) -> Vec<u8> {
        format!("{}{index:08x}", self.tag).into_bytes()
    }

    /// All ids, in order.
    pub(super) fn ids(&self) -> Vec<Vec<u8>> {
        (0..self.count).map(|index| self.id(index)).collect()
    }

    /// As the token of what is staged.
    pub(super) fn print(&self) -> String {
        format!("{}-{:08x}", self.tag, self.count)
    }

    /// From that token; `None` for one that was not handed out here.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (tag, count) = text.split_once('-')?;
        let hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let shaped = tag.len() == 32 && count.len() == 8 && hex(tag) && hex(count);
        let count = u32::from_str_radix(count, 16).ok().filter(|count| u64::from(*count) <= BLOCKS_MAX)?;
        shaped.then(|| Self { tag: tag.to_owned(), count })
    }
}

/// Cuts parts into blocks; bytes are copied only where a block spans parts.
pub(super) fn cut(parts: &[Bytes]) -> Vec<Bytes> {
    let (mut blocks, mut open, mut open_bytes) = (Vec::new(), Vec::<Bytes>::new(), 0);
    for part in parts {
        let mut left = part.clone();
        while !left.is_empty() {
            let piece = left.split_to(left.len().min(BLOCK_BYTES - open_bytes));
            open_bytes += piece.len();
            open.push(piece);
            if open_bytes == BLOCK_BYTES {
                blocks.push(join(std::mem::take(&mut open)));
                open_bytes = 0;
            }
        }
    }
    if !open.is_empty() {
        blocks.push(join(open));
    }
    blocks
}

/// Parts as one piece.
pub(super) fn join(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.remove(0);
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    parts.iter().for_each(|part| whole.extend_from_slice(part));
    whole.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_full_but_for_the_last_and_hold_the_parts_in_order() {
        let byte = |n: usize| (n % 251) as u8;
        for sizes in [vec![0], vec![1], vec![BLOCK_BYTES], vec![3, BLOCK_BYTES, 5], vec![BLOCK_BYTES * 2 + 1, 0, 7]] {
            let mut at = 0;
            let parts: Vec<Bytes> = sizes
                .iter()
                .map(|size| {
                    at += size;
                    (at - size..at).map(byte).collect::<Vec<_>>().into()
                })
                .collect();
            let blocks = cut(&parts);
            assert!(blocks.iter().rev().skip(1).all(|block| block.len() == BLOCK_BYTES), "{sizes:?}");
            assert_eq!(join(blocks), join(parts), "{sizes:?}");
        }
    }

    #[test]
    fn rivals_blocks_have_other_names_of_the_same_length() {
        let name = ObjectName::keys(1);
        let one = Blocks::of(&name, "epoch 1", 7, 2);
        let two = Blocks::of(&name, "epoch 2", 7, 2);
        let other = Blocks::of(&ObjectName::keys(2), "epoch 1", 7, 2);
        assert!(one.tag != two.tag && one.tag != other.tag);
        assert!(one.ids().iter().chain(&two.ids()).all(|id| id.len() == 40), "Azure takes 64 at most, all alike");
        assert_eq!(Blocks::parse(&one.print()), Some(one));
        for bad in ["", "../../escape", "-", "0123456789abcdef0123456789abcdef-ffffffff", "é-1"] {
            assert_eq!(Blocks::parse(bad), None, "{bad}");
        }
    }
}
