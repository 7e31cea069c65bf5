//! Keys: what an answer is the answer to. Pure.
//!
//! A key is the SHA-256 of the request after defaults, before dialect and streaming, and for equal requests of one
//! input the how-manyth it is. So an answer stays good when lines are moved, added or taken away, when the service is
//! upgraded, and when another server is asked.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The SHA-256 of a request.
pub type Hash = [u8; 32];

/// What spreads the occurrences of one request over the table; any odd number will do.
const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;

/// A request, and which occurrence of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The request.
    pub hash: Hash,
    /// Its occurrence among equal requests in the order of the input, from 0.
    pub nth: u32,
}

impl Key {
    /// What the index knows a key by. Two keys may share it, though nobody has found two yet: whoever reads a record
    /// compares its whole key.
    pub fn prefix(&self) -> u128 {
        let (first, _) = self.hash.split_at(16);
        let first = u128::from_le_bytes(first.try_into().expect("sixteen bytes"));
        first.wrapping_add(u128::from(self.nth).wrapping_mul(STEP))
    }
}

/// The hash of a request in canonical form.
pub fn of_request(canonical: &[u8]) -> Hash {
    Sha256::digest(canonical).into()
}

/// The hash of a record of which no request can be made. It can equal no request's: those begin with a brace.
pub fn of_bad_record(record: &[u8]) -> Hash {
    Sha256::new().chain_update(b"\0bad record\0").chain_update(record).finalize().into()
}

/// Appends the 64 hex digits of a hash.
pub fn push_hex(text: &mut Vec<u8>, hash: &Hash) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    text.extend(hash.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]));
}

/// Reads 64 lower-case hex digits.
pub fn parse_hex(text: &str) -> Option<Hash> {
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.as_chunks::<2>().0) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(hash)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A hash as people see it.
pub fn hex(hash: &Hash) -> String {
    hash.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_goes_both_ways() {
        let hash = of_request(b"{}");
        let mut digits = Vec::new();
        push_hex(&mut digits, &hash);
        let text = String::from_utf8(digits).expect("digits");
        assert_eq!(text, hex(&hash));
        assert_eq!(text, "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(parse_hex(&text), Some(hash));
        assert_eq!(parse_hex(&text.to_uppercase()), None);
        assert_eq!(parse_hex(&text[1..]), None);
    }

    #[test]
    fn occurrences_have_prefixes_of_their_own_and_bad_records_are_no_requests() {
        let hash = of_request(b"{}");
        let prefixes: std::collections::HashSet<u128> = (0..1000).map(|nth| Key { hash, nth }.prefix()).collect();
        assert_eq!(prefixes.len(), 1000);
        assert_ne!(of_bad_record(b"{}"), hash);
    }
}
