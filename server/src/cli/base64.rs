//! Bytes as text where text is all there is: base64 of RFC 4648, with padding.
//!
//! **Owns**: both directions.
//! **Does not own**: when bytes are shown like that (`cell`, `import_rows`).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The text of `bytes`.
pub(crate) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place)) & 63;
            let symbol = char::from(ALPHABET[index as usize]);
            text.push(if place > chunk.len() { '=' } else { symbol });
        }
    }
    text
}

/// The bytes of `text`.
///
/// # Errors
/// Anything that [`encode`] does not write.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(4) {
        return Err(format!(
            "base64 of {} characters, a multiple of 4 expected",
            bytes.len()
        ));
    }
    let mut decoded = Vec::with_capacity(bytes.len() / 4 * 3);
    for (number, group) in bytes.chunks(4).enumerate() {
        let last = (number + 1) * 4 == bytes.len();
        let padding = group
            .iter()
            .rev()
            .take_while(|symbol| **symbol == b'=')
            .count();
        if padding > 2 || (padding > 0 && !last) {
            return Err(format!(
                "base64 with padding at character {}",
                number * 4 + 1
            ));
        }
        let mut bits = 0;
        for symbol in &group[..4 - padding] {
            bits = bits << 6
                | value(*symbol).ok_or_else(|| format!("base64 with {:?}", char::from(*symbol)))?;
        }
        bits <<= 6 * padding;
        let [_, one, two, three] = bits.to_be_bytes();
        let whole = [one, two, three];
        if whole[3 - padding..].iter().any(|rest| *rest != 0) {
            return Err("base64 with bits after its end".to_owned());
        }
        decoded.extend_from_slice(&whole[..3 - padding]);
    }
    Ok(decoded)
}

fn value(symbol: u8) -> Option<u32> {
    let offset = match symbol {
        b'A'..=b'Z' => symbol - b'A',
        b'a'..=b'z' => symbol - b'a' + 26,
        b'0'..=b'9' => symbol - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(offset.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_standard_hold() {
        let examples = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (plain, text) in examples {
            assert_eq!(encode(plain.as_bytes()), text);
            assert_eq!(decode(text).unwrap(), plain.as_bytes());
        }
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decode(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in [
            "Z", "Zg=", "Zg==Zg==", "Z===", "====", "Zh==", "Zm9", "Zm 9", "Zm-9",
        ] {
            assert!(decode(bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// A text that is taken is the one that is written for its bytes.
    #[test]
    fn fuzz_texts() {
        let valid = [&b""[..], b"a", b"ab", b"abc"].map(|bytes| encode(bytes).into_bytes());
        crate::fuzz_tests::attack(&valid, &|bytes| {
            let text = String::from_utf8_lossy(bytes);
            if let Ok(bytes) = decode(&text) {
                assert_eq!(encode(&bytes), text);
            }
        });
    }
}
