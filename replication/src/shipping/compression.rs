//! Compressing segments on the wire when the link is what holds them up.
//!
//! **Owns**: the choice whether to compress, zstd itself.
//! **Does not own**: the bytes of segments, which are the same again after it.

use bytes::Bytes;
use domicile_proto::WireError;
use domicile_proto::v1::{Compression, Segments};

/// zstd level: the fastest that still halves text. Higher levels cost cores that writers need.
const LEVEL: i32 = 1;

/// Frames below this are sent as they are: the frame overhead eats the gain.
const COMPRESS_BYTES_MIN: usize = 4096;

/// After a frame that did not shrink to 7/8, this many are sent as they are before trying again.
const SKIP_AFTER_POOR: u32 = 32;

/// Decides frame by frame.
#[derive(Debug, Default)]
pub(super) struct Compressor {
    skip: u32,
}

impl Compressor {
    /// One frame. `link_is_slow`: the frame before had to wait for the link; otherwise compressing
    /// would only cost time.
    pub(super) fn frame(&mut self, plain: Bytes, link_is_slow: LinkPace) -> Segments {
        let plain_len = plain.len() as u32;
        let none = |bytes| Segments {
            bytes,
            compression: Compression::None.into(),
            plain_len,
            older: Vec::new(),
        };
        if link_is_slow == LinkPace::Free || plain.len() < COMPRESS_BYTES_MIN {
            return none(plain);
        }
        if self.skip > 0 {
            self.skip -= 1;
            return none(plain);
        }
        match zstd::bulk::compress(&plain, LEVEL) {
            Ok(packed) if packed.len() < plain.len() / 8 * 7 => Segments {
                bytes: packed.into(),
                compression: Compression::Zstd.into(),
                plain_len,
                older: Vec::new(),
            },
            _ => {
                self.skip = SKIP_AFTER_POOR;
                none(plain)
            }
        }
    }
}

/// Whether the link kept up with the frames before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPace {
    /// Frames leave at once.
    Free,
    /// Frames wait for the link.
    Slow,
}

/// The plain bytes of a frame, at most `bytes_max`.
pub(super) fn plain_bytes(frame: Segments, bytes_max: usize) -> Result<Bytes, WireError> {
    let len = frame.plain_len as usize;
    if len > bytes_max {
        return Err(WireError::TooLarge {
            what: "segments frame",
            actual: len,
            limit: bytes_max,
        });
    }
    match Compression::try_from(frame.compression) {
        Ok(Compression::None) => Ok(frame.bytes),
        Ok(Compression::Zstd) => {
            let invalid = WireError::Invalid {
                what: "zstd frame of plain length",
                actual: len as u64,
            };
            match zstd::bulk::decompress(&frame.bytes, len) {
                Ok(plain) if plain.len() == len => Ok(plain.into()),
                _ => Err(invalid),
            }
        }
        Err(_) => {
            let actual = u64::from(frame.compression.unsigned_abs());
            Err(WireError::Invalid {
                what: "compression",
                actual,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_lies_are_refused() {
        let plain = Bytes::from(b"all work and no play ".repeat(1000));
        let mut compressor = Compressor::default();
        let frame = compressor.frame(plain.clone(), LinkPace::Slow);
        assert_eq!(frame.compression, i32::from(Compression::Zstd));
        assert_eq!(plain_bytes(frame.clone(), 1 << 20), Ok(plain.clone()));
        let lying = Segments {
            plain_len: 5,
            ..frame.clone()
        };
        assert!(plain_bytes(lying, 1 << 20).is_err());
        assert!(plain_bytes(frame, 1000).is_err());
        let untouched = compressor.frame(plain.clone(), LinkPace::Free);
        assert_eq!(untouched.bytes, plain);
    }

    /// The frame's own fields before its bytes: compression, length as it says.
    #[test]
    fn fuzz_frames() {
        use crate::fuzz_tests::{FRAME_BYTES_MAX, attack};
        let plain = Bytes::from(b"all work and no play ".repeat(300));
        let valid = [LinkPace::Slow, LinkPace::Free].map(|pace| {
            let frame = Compressor::default().frame(plain.clone(), pace);
            let head = [
                frame.compression.to_le_bytes(),
                frame.plain_len.to_le_bytes(),
            ];
            [
                &head.concat()[..],
                &frame.bytes[..frame.bytes.len().min(400)],
            ]
            .concat()
        });
        attack(&valid, &|bytes| {
            let Some((head, bytes)) = bytes.split_first_chunk::<8>() else {
                return;
            };
            let [c0, c1, c2, c3, l0, l1, l2, l3] = *head;
            let frame = Segments {
                bytes: Bytes::copy_from_slice(bytes),
                compression: i32::from_le_bytes([c0, c1, c2, c3]),
                plain_len: u32::from_le_bytes([l0, l1, l2, l3]),
                older: Vec::new(),
            };
            if let Ok(plain) = plain_bytes(frame, FRAME_BYTES_MAX) {
                assert!(plain.len() <= FRAME_BYTES_MAX.max(bytes.len()));
            }
        });
    }
}
