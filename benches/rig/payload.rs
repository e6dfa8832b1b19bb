//! Bytes to write.

/// A write, in bytes.
pub const WRITE_BYTES: usize = 4096;

/// So many bytes, in whole writes, like a disk's: text that compresses to about half, with a page in eight that does not compress.
pub fn payload(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let words: Vec<String> = (0..512).map(|_| format!("{:x}", next() % 0xff_ffff)).collect();
    let mut bytes = Vec::with_capacity(len + WRITE_BYTES);
    while bytes.len() < len {
        let page_end = bytes.len() + WRITE_BYTES;
        let random = next() % 8 == 0;
        while bytes.len() < page_end {
            match random {
                true => bytes.extend_from_slice(&next().to_le_bytes()),
                false => {
                    bytes.extend_from_slice(words[(next() % 512) as usize].as_bytes());
                    bytes.push(b' ');
                }
            }
        }
        bytes.truncate(page_end);
    }
    bytes
}
