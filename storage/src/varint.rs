//! Numbers in as many bytes as they need: LEB128, as in protobuf.
//!
//! **Owns**: putting one behind bytes, taking one from their front.
//! **Does not own**: the encoding (`integer-encoding`), which fields are such (each format).

use bytes::{BufMut, BytesMut};
use integer_encoding::VarInt;

/// Bytes of the longest.
pub(crate) const VARINT_BYTES_MAX: usize = 10;

pub(crate) fn put_varint(buffer: &mut BytesMut, number: u64) {
    let mut bytes = [0; VARINT_BYTES_MAX];
    let len = number.encode_var(&mut bytes);
    buffer.put_slice(&bytes[..len]);
}

/// The number at the front, which is then gone; `None` if there is none.
pub(crate) fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let (number, len) = u64::decode_var(bytes)?;
    *bytes = &bytes[len..];
    Some(number)
}
