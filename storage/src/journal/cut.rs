//! A partition's log that goes back to a fork, as an entry of the journal.
//!
//! **Owns**: the entry's bytes, what the log's end is after it.
//! **Does not own**: sealing what is cut (`orphans`), which segments it makes void (`cuts`).
//!
//! ```text
//!  0 magic "DCUT" u32    4 version u16    6 zeros u16    8 partition (8)
//! 16 fork seq u64       24 chain u64     32 visible upto u64
//! 40 last seq that is cut u64            48 number of its orphan file u64
//! 56 reigns u32         60 crc32 of all but itself
//! 64 per reign: epoch counter, epoch node, first seq: u64 each
//! ```
//! Little-endian. What the journal has of the partition above the fork and before this entry counts
//! for nothing; its log goes on with the record after the fork. A fork of 0, without a reign, says
//! that not one record is shared.

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Seq};

use super::Place;
use super::cuts::{CutMark, OrphanNumber};
use super::tails::{EPOCH_HISTORY_MAX, PartitionTail};

/// The first bytes of the entry.
pub(crate) const CUT_MAGIC: [u8; 4] = *b"DCUT";
const VERSION: u16 = 1;
/// Bytes before the reigns: the layout above.
pub(crate) const CUT_HEAD_BYTES: usize = 64;
/// Bytes of a reign: the layout above.
const REIGN_BYTES: usize = 24;
/// Where the number of reigns lies.
const REIGNS_AT: usize = 56;
/// Where the checksum lies.
const CRC_AT: usize = 60;

/// A partition's log goes back to `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) partition: PartitionId,
    /// The last record that stays; none at all if it is [`Seq::NONE`].
    pub(crate) seq: Seq,
    /// The hash over the history up to it.
    pub(crate) chain: ChainHash,
    /// Up to where records are known to be visible.
    pub(crate) visible_upto: Seq,
    /// The last record that is cut.
    pub(crate) end: Seq,
    /// Which orphan file of the partition has what is cut.
    pub(crate) number: OrphanNumber,
    /// Every reign up to `seq`, with its first record.
    pub(crate) reigns: Vec<(Epoch, Seq)>,
}

impl Cut {
    /// The end of the log right after it; `None` if nothing is left of it.
    pub(crate) fn tail(&self) -> Option<PartitionTail> {
        let (epoch, _) = self.reigns.last().copied()?;
        Some(PartitionTail {
            epoch,
            last_seq: self.seq,
            chain: self.chain,
            visible_upto: self.visible_upto,
            epoch_history: self.reigns.clone(),
        })
    }

    /// What is remembered of it; its frame lies at `place`.
    pub(crate) fn mark(&self, place: Place) -> CutMark {
        CutMark {
            partition: self.partition,
            number: self.number,
            seq: self.seq,
            end: self.end,
            place,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CUT_HEAD_BYTES + REIGN_BYTES * self.reigns.len());
        bytes.put_slice(&CUT_MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(0);
        bytes.put_slice(&self.partition.to_bytes());
        bytes.put_u64_le(self.seq.get());
        bytes.put_u64_le(self.chain.bits());
        bytes.put_u64_le(self.visible_upto.get());
        bytes.put_u64_le(self.end.get());
        bytes.put_u64_le(self.number.get());
        bytes.put_u32_le(self.reigns.len() as u32);
        bytes.put_u32_le(0);
        for (epoch, first_seq) in &self.reigns {
            bytes.put_u64_le(epoch.counter);
            bytes.put_u64_le(epoch.node.get());
            bytes.put_u64_le(first_seq.get());
        }
        let crc = checksum(&bytes);
        bytes[CRC_AT..CUT_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether it can be read back once it is written.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        let decoded = Self::decode_front(&mut Bytes::from(self.encode()));
        decoded.map(drop).map_err(|_| format!("no cut: {self:?}"))
    }

    /// How many bytes an entry has whose head is at the front of `bytes`; `None` if the head is not
    /// whole, or says what cannot be.
    pub(crate) fn len_of(bytes: &[u8]) -> Option<usize> {
        let mut count = bytes.get(REIGNS_AT..CRC_AT)?;
        let reigns = count.get_u32_le() as usize;
        let fits = bytes.len() >= CUT_HEAD_BYTES && reigns <= EPOCH_HISTORY_MAX;
        fits.then_some(CUT_HEAD_BYTES + REIGN_BYTES * reigns)
    }

    /// Takes one entry off the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it; `bytes` is then as it was.
    pub(crate) fn decode_front(bytes: &mut Bytes) -> Result<Self, String> {
        let len = Self::len_of(bytes).filter(|len| *len <= bytes.len());
        let Some(len) = len else {
            return Err(format!("no whole cut in {} bytes", bytes.len()));
        };
        let entry = &bytes[..len];
        if entry[..4] != CUT_MAGIC {
            return Err(format!("bad magic of a cut: {:02x?}", &entry[..4]));
        }
        let mut stored = &entry[CRC_AT..CUT_HEAD_BYTES];
        let (stored, computed) = (stored.get_u32_le(), checksum(entry));
        if stored != computed {
            return Err(format!(
                "checksum mismatch of a cut: stored {stored:#010x}, computed {computed:#010x}"
            ));
        }
        let mut fields = &entry[4..];
        let (version, zeros) = (fields.get_u16_le(), fields.get_u16_le());
        if (version, zeros) != (VERSION, 0) {
            return Err(format!(
                "cut of version {version}, flags {zeros:#x}; supported {VERSION}, 0"
            ));
        }
        let cut = Self::decode_fields(fields);
        let cut = cut.ok_or("cut whose checksum holds and whose fields do not")?;
        bytes.advance(len);
        Ok(cut)
    }

    fn decode_fields(mut fields: &[u8]) -> Option<Self> {
        let mut partition = [0; PartitionId::BYTES];
        fields.copy_to_slice(&mut partition);
        let partition = PartitionId::from_bytes(partition).ok()?;
        let seq = Seq::new(fields.get_u64_le());
        let chain = ChainHash::from_bits(fields.get_u64_le());
        let visible_upto = Seq::new(fields.get_u64_le());
        let end = Seq::new(fields.get_u64_le());
        let number = OrphanNumber::new(fields.get_u64_le())?;
        fields.advance(8);
        let mut reigns = Vec::with_capacity(fields.len() / REIGN_BYTES);
        while fields.has_remaining() {
            let counter = fields.get_u64_le();
            let node = NodeId::new(fields.get_u64_le()).ok()?;
            reigns.push((Epoch { counter, node }, Seq::new(fields.get_u64_le())));
        }
        let in_order = reigns.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let reaches = match reigns.last() {
            Some((_, first_seq)) => *first_seq <= seq,
            None => seq == Seq::NONE && chain == ChainHash::START,
        };
        let in_range = visible_upto <= seq && seq < end && end < Seq::new(u64::MAX);
        (in_order && reaches && in_range).then_some(Self {
            partition,
            seq,
            chain,
            visible_upto,
            end,
            number,
            reigns,
        })
    }
}

fn checksum(entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry[..CRC_AT]);
    hasher.update(&entry[CUT_HEAD_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;

    fn cut() -> Cut {
        let epoch = |counter, node| Epoch {
            counter,
            node: NodeId::new(node).unwrap(),
        };
        Cut {
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(2).unwrap(),
                bucket: Bucket::new(3),
            },
            seq: Seq::new(0x0506),
            chain: ChainHash::from_bits(0x0708),
            visible_upto: Seq::new(0x0504),
            end: Seq::new(0x050a),
            number: OrphanNumber::FIRST,
            reigns: vec![(epoch(1, 9), Seq::FIRST), (epoch(4, 10), Seq::new(11))],
        }
    }

    fn cut_to_nothing() -> Cut {
        Cut {
            seq: Seq::NONE,
            chain: ChainHash::START,
            visible_upto: Seq::NONE,
            reigns: Vec::new(),
            ..cut()
        }
    }

    #[test]
    fn it_comes_back_and_every_flipped_bit_is_noticed() {
        for cut in [cut(), cut_to_nothing()] {
            cut.check().unwrap();
            let bytes = cut.encode();
            let mut front = Bytes::from([&bytes[..], b"more"].concat());
            assert_eq!(Cut::decode_front(&mut front).unwrap(), cut);
            assert_eq!(front, &b"more"[..]);
            for bit in 0..bytes.len() * 8 {
                let mut flipped = bytes.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let mut flipped = Bytes::from(flipped);
                assert!(Cut::decode_front(&mut flipped).is_err(), "bit {bit}");
            }
            for len in 0..bytes.len() {
                let mut short = Bytes::copy_from_slice(&bytes[..len]);
                assert!(Cut::decode_front(&mut short).is_err(), "cut at {len}");
            }
        }
        assert_eq!(cut().tail().unwrap().last_seq, Seq::new(0x0506));
        assert_eq!(cut_to_nothing().tail(), None);
    }

    #[test]
    fn a_cut_that_cannot_be_is_refused() {
        let wrong = [
            Cut {
                end: cut().seq,
                ..cut()
            },
            Cut {
                visible_upto: cut().seq.next(),
                ..cut()
            },
            Cut {
                reigns: Vec::new(),
                ..cut()
            },
            Cut {
                chain: ChainHash::from_bits(1),
                ..cut_to_nothing()
            },
        ];
        for cut in wrong {
            assert!(cut.check().is_err(), "{cut:?}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let golden = [
            &b"DCUT\x01\0\0\0\0\0\0\x01\0\x02\0\x03"[..],
            &b"\x06\x05\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\x04\x05\0\0\0\0\0\0"[..],
            &b"\x0a\x05\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0"[..],
            &[0xe1, 0x18, 0x00, 0x31],
            &b"\x01\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0"[..],
            &b"\x04\0\0\0\0\0\0\0\x0a\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0"[..],
        ];
        assert_eq!(cut().encode(), golden.concat(), "{:02x?}", cut().encode());
    }

    proptest! {
        /// Whoever can write a checksum can write anything around it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            reigns in 0..4_u32,
        ) {
            let _ = Cut::decode_front(&mut Bytes::from(bytes.clone()));
            let mut entry = bytes;
            entry.resize(CUT_HEAD_BYTES + REIGN_BYTES * reigns as usize, 1);
            entry[..8].copy_from_slice(b"DCUT\x01\0\0\0");
            entry[REIGNS_AT..CRC_AT].copy_from_slice(&reigns.to_le_bytes());
            let crc = checksum(&entry).to_le_bytes();
            entry[CRC_AT..CUT_HEAD_BYTES].copy_from_slice(&crc);
            if let Ok(cut) = Cut::decode_front(&mut Bytes::from(entry.clone())) {
                prop_assert_eq!(cut.encode(), entry);
            }
        }
    }
}
