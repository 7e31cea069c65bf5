//! Deterministic draws: the same seed, identity and salt give the same number on every machine.
//! Only `uuid` is random, since ids must differ between runs.

/// Identity of a request: a 64-bit hash of its last user text.
pub fn identity(text: &str) -> u64 {
    let mut hash = mix(text.len() as u64);
    let mut words = text.as_bytes().chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("chunks are eight bytes"));
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for &byte in words.remainder() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    mix(hash)
}

/// A number in 0..1 from a seed, an identity and a salt.
pub fn unit(seed: u64, identity: u64, salt: u64) -> f64 {
    let bits = mix(mix(mix(seed) ^ identity) ^ salt);
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// A standard normal number (Box and Muller, 1958).
pub fn normal(seed: u64, identity: u64) -> f64 {
    let radius = (-2.0 * (1.0 - unit(seed, identity, u64::MAX)).ln()).sqrt();
    radius * (std::f64::consts::TAU * unit(seed, identity, u64::MAX - 1)).cos()
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A random version-4 UUID as text.
pub fn uuid() -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bits = fastrand::u128(..) & !(0xf << 76) & !(0b11 << 62) | (4 << 76) | (0b10 << 62);
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            *byte = HEX[(bits >> shift) as usize & 0xf];
        }
    }
    text
}
