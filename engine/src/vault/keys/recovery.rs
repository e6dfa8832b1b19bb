//! The recovery key: 256 random bits that open the vault when everything else is lost, printed once, to be kept on
//! paper. 56 characters in eight groups of seven, as in
//!
//! ```text
//!   0123456-789ABCD-EFGHJKM-NPQRSTV-WXYZ012-3456789-ABCDEFG-HJKMNPQ
//! ```
//!
//! Crockford's base32 over 32 bytes of key and 3 of checksum (BLAKE3): no letter that looks like a digit, and a
//! mistyped key is told apart from a wrong one.

use std::fmt;
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::ids::Chance;

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const KEY_BYTES: usize = 32;
const SUM_BYTES: usize = 3;
const CHARS: usize = (KEY_BYTES + SUM_BYTES) * 8 / 5;
const GROUP_CHARS: usize = 7;

/// A key that opens the vault beside the vault key.
#[derive(Clone)]
pub struct RecoveryKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for RecoveryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecoveryKey(..)")
    }
}

/// Why a text is no recovery key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRecoveryKey {
    /// Not the right number of characters.
    #[error("a recovery key has {CHARS} letters and digits, this has {0}")]
    Length(usize),
    /// A character that none has.
    #[error("a recovery key holds no '{0}'")]
    Character(char),
    /// The checksum does not match.
    #[error("the recovery key is mistyped: its checksum does not match")]
    Checksum,
}

fn checksum(key: &[u8; KEY_BYTES]) -> [u8; SUM_BYTES] {
    let mut hash = blake3::Hasher::new();
    hash.update(b"farshore/1 recovery checksum").update(key);
    let mut sum = [0; SUM_BYTES];
    sum.copy_from_slice(&hash.finalize().as_bytes()[..SUM_BYTES]);
    sum
}

impl RecoveryKey {
    /// A fresh key.
    pub fn draw(chance: &mut dyn Chance) -> Self {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        chance.fill(&mut *key);
        Self(key)
    }

    pub(super) fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// The key as it is shown, once.
    pub fn print(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(self.0.to_vec());
        bytes.extend_from_slice(&checksum(&self.0));
        let mut text = Zeroizing::new(String::with_capacity(CHARS + CHARS / GROUP_CHARS));
        for n in 0..CHARS {
            if n > 0 && n % GROUP_CHARS == 0 {
                text.push('-');
            }
            let value = (0..5).fold(0, |value, bit| {
                let at = n * 5 + bit;
                value << 1 | usize::from(bytes[at / 8] >> (7 - at % 8) & 1)
            });
            text.push(char::from(ALPHABET[value]));
        }
        text
    }
}

impl FromStr for RecoveryKey {
    type Err = BadRecoveryKey;

    /// Reads a key as people type it: any case, groups or none, O for 0, I and L for 1.
    fn from_str(text: &str) -> Result<Self, BadRecoveryKey> {
        let mut bytes = Zeroizing::new([0_u8; KEY_BYTES + SUM_BYTES]);
        let typed = text.chars().filter(|c| !c.is_whitespace() && *c != '-');
        let count = typed.clone().count();
        if count != CHARS {
            return Err(BadRecoveryKey::Length(count));
        }
        for (n, typed) in typed.enumerate() {
            let letter = match typed.to_ascii_uppercase() {
                'O' => '0',
                'I' | 'L' => '1',
                other => other,
            };
            let value = ALPHABET.iter().position(|c| char::from(*c) == letter);
            let value = value.ok_or(BadRecoveryKey::Character(typed))?;
            for bit in (0..5).filter(|bit| value >> (4 - bit) & 1 == 1) {
                let at = n * 5 + bit;
                bytes[at / 8] |= 1 << (7 - at % 8);
            }
        }
        let (key, sum) = bytes.split_first_chunk::<KEY_BYTES>().ok_or(BadRecoveryKey::Length(count))?;
        if checksum(key) != sum {
            return Err(BadRecoveryKey::Checksum);
        }
        Ok(Self(Zeroizing::new(*key)))
    }
}
