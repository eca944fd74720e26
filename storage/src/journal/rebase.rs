//! A partition's log that begins anew at a snapshot, as an entry of the journal.
//!
//! **Owns**: the entry's bytes.
//! **Does not own**: the snapshot (`snapshot`), when it is installed (the node).
//!
//! ```text
//!  0 magic "DRBS" u32    4 version u16    6 zeros u16    8 partition (8)
//! 16 seq u64            24 chain u64     32 reigns u32  36 crc32 of all but itself
//! 40 per reign: epoch counter, epoch node, first seq: u64 each
//! ```
//! Little-endian. What the journal has of the partition before it counts for nothing: its state at
//! `seq` is in a snapshot, and its log goes on with the record after.

use bytes::{Buf, BufMut, Bytes};
use domicile_proto::{ChainHash, Epoch, NodeId, PartitionId, Segment, Seq};

use super::cut::Cut;
use super::tails::{EPOCH_HISTORY_MAX, PartitionTail};

/// The first bytes of the entry.
pub(crate) const REBASE_MAGIC: [u8; 4] = *b"DRBS";
const VERSION: u16 = 1;
/// Bytes before the reigns: the layout above.
pub(crate) const REBASE_HEAD_BYTES: usize = 40;
/// Bytes of a reign: the layout above.
const REIGN_BYTES: usize = 24;
/// Where the checksum lies.
const CRC_AT: usize = 36;

/// A partition's log begins anew after `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rebase {
    pub(crate) partition: PartitionId,
    /// The last record that is in the snapshot and not in the log.
    pub(crate) seq: Seq,
    /// The hash over the history up to it.
    pub(crate) chain: ChainHash,
    /// Every reign up to it, with its first record; at least one.
    pub(crate) reigns: Vec<(Epoch, Seq)>,
}

/// What a frame holds.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    /// Records.
    Segment(Segment),
    /// A log that begins anew.
    Rebase(Rebase),
    /// A log that goes back to a fork.
    Cut(Cut),
}

impl Rebase {
    /// The end of the log right after it.
    pub(crate) fn tail(&self) -> PartitionTail {
        let (epoch, _) = self.reigns.last().copied().expect("at least one reign");
        PartitionTail {
            epoch,
            last_seq: self.seq,
            chain: self.chain,
            visible_upto: self.seq,
            epoch_history: self.reigns.clone(),
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        assert!(!self.reigns.is_empty(), "{self:?} without a reign");
        let mut bytes = Vec::with_capacity(REBASE_HEAD_BYTES + REIGN_BYTES * self.reigns.len());
        bytes.put_slice(&REBASE_MAGIC);
        bytes.put_u16_le(VERSION);
        bytes.put_u16_le(0);
        bytes.put_slice(&self.partition.to_bytes());
        bytes.put_u64_le(self.seq.get());
        bytes.put_u64_le(self.chain.bits());
        bytes.put_u32_le(self.reigns.len() as u32);
        bytes.put_u32_le(0);
        for (epoch, first_seq) in &self.reigns {
            bytes.put_u64_le(epoch.counter);
            bytes.put_u64_le(epoch.node.get());
            bytes.put_u64_le(first_seq.get());
        }
        let crc = checksum(&bytes);
        bytes[CRC_AT..REBASE_HEAD_BYTES].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Whether it can be read back once it is written.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.reigns.is_empty() {
            return Err(format!("snapshot of {} without a reign", self.partition));
        }
        Self::decode_front(&mut Bytes::from(self.encode())).map(drop)
    }

    /// How many bytes an entry has whose head is at the front of `bytes`; `None` if the head is not
    /// whole, or says what cannot be.
    pub(crate) fn len_of(bytes: &[u8]) -> Option<usize> {
        let mut count = bytes.get(32..36)?;
        let reigns = count.get_u32_le() as usize;
        let fits = bytes.len() >= REBASE_HEAD_BYTES && (1..=EPOCH_HISTORY_MAX).contains(&reigns);
        fits.then_some(REBASE_HEAD_BYTES + REIGN_BYTES * reigns)
    }

    /// Takes one entry off the front of `bytes`.
    ///
    /// # Errors
    /// What is wrong with it; `bytes` is then as it was.
    pub(crate) fn decode_front(bytes: &mut Bytes) -> Result<Self, String> {
        let len = Self::len_of(bytes).filter(|len| *len <= bytes.len());
        let Some(len) = len else {
            return Err(format!("no whole rebase in {} bytes", bytes.len()));
        };
        let entry = &bytes[..len];
        if entry[..4] != REBASE_MAGIC {
            return Err(format!("bad magic of a rebase: {:02x?}", &entry[..4]));
        }
        let mut stored = &entry[CRC_AT..REBASE_HEAD_BYTES];
        let (stored, computed) = (stored.get_u32_le(), checksum(entry));
        if stored != computed {
            return Err(format!(
                "checksum mismatch of a rebase: stored {stored:#010x}, computed {computed:#010x}"
            ));
        }
        let mut fields = &entry[4..];
        let (version, zeros) = (fields.get_u16_le(), fields.get_u16_le());
        if (version, zeros) != (VERSION, 0) {
            return Err(format!(
                "rebase of version {version}, flags {zeros:#x}; supported {VERSION}, 0"
            ));
        }
        let rebase = Self::decode_fields(fields);
        let rebase = rebase.ok_or("rebase whose checksum holds and whose fields do not")?;
        bytes.advance(len);
        Ok(rebase)
    }

    fn decode_fields(mut fields: &[u8]) -> Option<Self> {
        let mut partition = [0; PartitionId::BYTES];
        fields.copy_to_slice(&mut partition);
        let partition = PartitionId::from_bytes(partition).ok()?;
        let seq = Seq::new(fields.get_u64_le());
        let chain = ChainHash::from_bits(fields.get_u64_le());
        fields.advance(8);
        let mut reigns = Vec::with_capacity(fields.len() / REIGN_BYTES);
        while fields.has_remaining() {
            let counter = fields.get_u64_le();
            let node = NodeId::new(fields.get_u64_le()).ok()?;
            reigns.push((Epoch { counter, node }, Seq::new(fields.get_u64_le())));
        }
        let in_order = reigns.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1);
        let reaches = reigns.last().is_some_and(|(_, first)| *first <= seq);
        (in_order && reaches && seq > Seq::NONE && seq < Seq::new(u64::MAX)).then_some(Self {
            partition,
            seq,
            chain,
            reigns,
        })
    }
}

fn checksum(entry: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry[..CRC_AT]);
    hasher.update(&entry[REBASE_HEAD_BYTES..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Bucket, KeyspaceId, RegionId};
    use proptest::prelude::*;

    use super::*;

    fn rebase() -> Rebase {
        let epoch = |counter, node| Epoch {
            counter,
            node: NodeId::new(node).unwrap(),
        };
        Rebase {
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: RegionId::new(2).unwrap(),
                bucket: Bucket::new(3),
            },
            seq: Seq::new(0x0506),
            chain: ChainHash::from_bits(0x0708),
            reigns: vec![(epoch(1, 9), Seq::FIRST), (epoch(4, 10), Seq::new(11))],
        }
    }

    #[test]
    fn it_comes_back_and_every_flipped_bit_is_noticed() {
        let bytes = rebase().encode();
        let mut front = Bytes::from([&bytes[..], b"more"].concat());
        assert_eq!(Rebase::decode_front(&mut front).unwrap(), rebase());
        assert_eq!(front, &b"more"[..]);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let mut flipped = Bytes::from(flipped);
            assert!(Rebase::decode_front(&mut flipped).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            let mut cut = Bytes::copy_from_slice(&bytes[..len]);
            assert!(Rebase::decode_front(&mut cut).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let golden = [
            &b"DRBS\x01\0\0\0\0\0\0\x01\0\x02\0\x03"[..],
            &b"\x06\x05\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\x02\0\0\0"[..],
        ];
        let bytes = rebase().encode();
        assert_eq!(bytes[..CRC_AT], golden.concat());
        assert_eq!(bytes.len(), 40 + 2 * 24);
    }

    proptest! {
        /// Whoever can write a checksum can write anything around it.
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            reigns in 0..4_u32,
        ) {
            let _ = Rebase::decode_front(&mut Bytes::from(bytes.clone()));
            let mut entry = bytes;
            entry.resize(REBASE_HEAD_BYTES + REIGN_BYTES * reigns as usize, 1);
            entry[..8].copy_from_slice(b"DRBS\x01\0\0\0");
            entry[32..36].copy_from_slice(&reigns.to_le_bytes());
            let crc = checksum(&entry).to_le_bytes();
            entry[CRC_AT..REBASE_HEAD_BYTES].copy_from_slice(&crc);
            if let Ok(rebase) = Rebase::decode_front(&mut Bytes::from(entry.clone())) {
                prop_assert_eq!(rebase.encode(), entry);
            }
        }
    }
}
