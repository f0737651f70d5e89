//! Masking: every byte from a client is XORed with a key of four.

/// Masks or unmasks `bytes`. The first byte goes with the first byte of `key`.
pub(super) fn unmask(bytes: &mut [u8], key: [u8; 4]) {
    let word = u128::from(u32::from_ne_bytes(key)) * 0x0000_0001_0000_0001_0000_0001_0000_0001;
    let (words, rest) = bytes.as_chunks_mut::<16>();
    for chunk in words {
        *chunk = (u128::from_ne_bytes(*chunk) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key for the bytes behind the first `len`.
pub(super) fn advance(mut key: [u8; 4], len: usize) -> [u8; 4] {
    key.rotate_left(len % 4);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_meets_the_key_byte_of_its_place() {
        let key = [1, 2, 4, 128];
        for len in 0..70 {
            let mut bytes = vec![0; len];
            unmask(&mut bytes, key);
            assert!(
                bytes.iter().enumerate().all(|(index, byte)| *byte == key[index % 4]),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn a_payload_may_be_unmasked_in_two_steps() {
        let key = [9, 8, 7, 6];
        for cut in 0..20 {
            let mut bytes = [0; 40];
            let (front, back) = bytes.split_at_mut(cut);
            unmask(front, key);
            unmask(back, advance(key, cut));
            let mut whole = [0; 40];
            unmask(&mut whole, key);
            assert_eq!(bytes, whole);
        }
    }
}
