//! Frames: how a record lies in the file, and where in damaged bytes the next whole one begins. Pure.
//!
//! ```text
//! frame = crc SP length SP payload LF      crc: CRC-32C (RFC 3720) of "length SP payload", 8 lower-case hex digits
//!                                          length: of the payload in bytes, decimal, without leading zeros
//! ```
//!
//! Invariant: a frame that was cut short, or has any single bit changed, is not taken for a frame. The payload is one
//! line of JSON, so `grep` and `jq` can be turned on a journal (`cut -d' ' -f3-`).

/// A payload is never longer: replies are capped far below.
const PAYLOAD_BYTES_MAX: usize = 1 << 30;
const CRC_DIGITS: usize = 8;
/// The CRC, a blank, up to ten digits, a blank.
pub const HEAD_BYTES_MAX: usize = CRC_DIGITS + 1 + 10 + 1;

/// Appends one frame; `write` appends its payload, which must be one line.
pub fn push(frames: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    let start = frames.len();
    // The length stands before the payload and its digits are not known yet: room for the longest, closed up below.
    frames.extend_from_slice(&[b' '; HEAD_BYTES_MAX]);
    let payload_start = frames.len();
    write(frames);
    let length = frames.len() - payload_start;
    debug_assert!(length <= PAYLOAD_BYTES_MAX && memchr::memchr(b'\n', &frames[payload_start..]).is_none());
    let digits = length.to_string();
    let covered_start = payload_start - 1 - digits.len();
    frames[covered_start..payload_start - 1].copy_from_slice(digits.as_bytes());
    let crc = format!("{:08x}", crc32c::crc32c(&frames[covered_start..]));
    let frame_start = covered_start - 1 - CRC_DIGITS;
    frames[frame_start..covered_start - 1].copy_from_slice(crc.as_bytes());
    frames.push(b'\n');
    frames.drain(start..frame_start);
}

/// What lies at the start of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A whole frame: its payload, and its length with everything.
    Frame(&'a str, usize),
    /// Nothing wrong so far, but so many bytes are needed to know.
    Short(usize),
    /// No frame.
    Nothing,
}

/// Reads the frame at the start of `bytes`.
pub fn read(bytes: &[u8]) -> Found<'_> {
    let head = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(blank) = memchr::memchr(b' ', head.get(CRC_DIGITS + 1..).unwrap_or_default()) else {
        return if head.len() < HEAD_BYTES_MAX && could_be_head(head) {
            Found::Short(HEAD_BYTES_MAX)
        } else {
            Found::Nothing
        };
    };
    let payload_start = CRC_DIGITS + 1 + blank + 1;
    let (Some(crc), Some(length)) = (crc_of(head), length_of(&head[CRC_DIGITS + 1..payload_start - 1])) else {
        return Found::Nothing;
    };
    let end = payload_start + length;
    let Some(frame) = bytes.get(..=end) else { return Found::Short(end + 1) };
    if frame[end] != b'\n' || crc32c::crc32c(&frame[CRC_DIGITS + 1..end]) != crc {
        return Found::Nothing;
    }
    simdutf8::basic::from_utf8(&frame[payload_start..end])
        .map_or(Found::Nothing, |payload| Found::Frame(payload, end + 1))
}

/// Whether these few bytes may be the beginning of a head.
fn could_be_head(head: &[u8]) -> bool {
    head.iter().enumerate().all(|(index, byte)| match index {
        0..CRC_DIGITS => is_hex(*byte),
        CRC_DIGITS => *byte == b' ',
        _ => byte.is_ascii_digit(),
    })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn crc_of(head: &[u8]) -> Option<u32> {
    let digits = head.get(..CRC_DIGITS)?;
    if head.get(CRC_DIGITS) != Some(&b' ') || !digits.iter().all(|byte| is_hex(*byte)) {
        return None;
    }
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn length_of(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || (digits[0] == b'0' && digits.len() > 1) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|length| *length <= PAYLOAD_BYTES_MAX)
}

/// Where in `bytes`, at `from` or later, a frame may begin: a place at which [`read`] is worth its while.
pub fn next_candidate(bytes: &[u8], from: usize) -> Option<usize> {
    // Every frame has the blank behind its CRC; the digits before it are looked at only there.
    memchr::memchr_iter(b' ', bytes.get(from..)?)
        .filter_map(|blank| (from + blank).checked_sub(CRC_DIGITS).filter(|start| *start >= from))
        .find(|start| crc_of(&bytes[*start..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        push(&mut bytes, |out| out.extend_from_slice(payload.as_bytes()));
        bytes
    }

    #[test]
    fn a_frame_looks_as_documented() {
        assert_eq!(
            frame("{\"fresh\":{}}"),
            format!("{:08x} 12 {{\"fresh\":{{}}}}\n", crc32c::crc32c(b"12 {\"fresh\":{}}")).as_bytes()
        );
    }

    #[test]
    fn every_cut_and_every_flip_is_seen() {
        let bytes = frame("{\"line\":17,\"text\":\"an answer, with blanks and 0123abcd 12 in it\"}");
        for cut in 0..bytes.len() {
            assert!(matches!(read(&bytes[..cut]), Found::Short(_)), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                assert!(!matches!(read(&flipped), Found::Frame(..)), "byte {at}, bit {bit}");
            }
        }
    }

    proptest! {
        #[test]
        fn frames_are_read_back_and_found_behind_garbage(payload in "[ -~é]{0,300}", garbage in prop::collection::vec(any::<u8>(), 0..40), rest in prop::collection::vec(any::<u8>(), 0..9)) {
            let whole = frame(&payload);
            let mut bytes = whole.clone();
            bytes.extend_from_slice(&rest);
            prop_assert_eq!(read(&bytes), Found::Frame(&payload, whole.len()));
            let mut behind = garbage.clone();
            behind.extend_from_slice(&bytes);
            let mut at = 0;
            while let Some(start) = next_candidate(&behind, at) {
                if let Found::Frame(..) = read(&behind[start..]) {
                    prop_assert_eq!(start, garbage.len());
                    return Ok(());
                }
                at = start + 1;
            }
            prop_assert!(false, "the frame was not found");
        }
    }
}
