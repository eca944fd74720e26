//! Tests of snapshots as files: golden bytes, every flipped bit, cut off everywhere.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{
    AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, PartitionId, RegionId, RequestId,
    Seq,
};

use super::file::{SnapshotReader, SnapshotWriter, path_of};
use super::format::{
    BLOCK_BYTES, Block, BlockHead, HEADER_BYTES, KeptRequest, SnapshotHeader, SnapshotOrigin,
};
use super::set::SnapshotSet;
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::error::StoreError;
use crate::options::OnDamage;

const DIR: &str = "/data/snapshots";

fn node() -> NodeId {
    NodeId::new(3).unwrap()
}

fn partition() -> PartitionId {
    PartitionId {
        keyspace: KeyspaceId::new(1),
        region: RegionId::new(7).unwrap(),
        bucket: Bucket::new(2),
    }
}

fn epoch(counter: u64) -> Epoch {
    Epoch {
        counter,
        node: node(),
    }
}

fn header(seq: u64) -> SnapshotHeader {
    SnapshotHeader {
        node: node(),
        origin: SnapshotOrigin::Taken,
        partition: partition(),
        epoch: epoch(2),
        seq: Seq::new(seq),
        chain: ChainHash::from_bits(0x0102_0304_0506_0708),
        newest_seq: Seq::new(seq + 2),
        blocks: 0,
        cells: 0,
        file_bytes: 0,
        taken_at_ms: 1_700_000_000_000,
    }
}

fn requests(count: u64) -> Vec<KeptRequest> {
    let request = |number| KeptRequest {
        request_id: RequestId::new(u128::from(number)).unwrap(),
        seq: Seq::new(number),
        fingerprint: 0xfeed,
        hlc: Hlc::from_bits(9),
        level: AckLevel::Async,
    };
    (1..=count).map(request).collect()
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk
}

fn write(disk: &MemoryDisk, seq: u64, cells: &[(&str, usize)]) -> SnapshotHeader {
    let reigns = [(epoch(1), Seq::new(1)), (epoch(2), Seq::new(3))];
    let (shared, dir) = (Arc::new(disk.clone()), Path::new(DIR));
    let mut writer =
        SnapshotWriter::begin(shared, dir, partition(), &reigns, &requests(2)).unwrap();
    for (key, len) in cells {
        writer.push(key.as_bytes(), &vec![b'v'; *len]).unwrap();
    }
    writer.finish(header(seq)).unwrap()
}

fn read(disk: &MemoryDisk, seq: u64) -> Result<Vec<Block>, StoreError> {
    let path = path_of(Path::new(DIR), partition(), Seq::new(seq));
    let mut reader = SnapshotReader::open(disk, &path, node())?;
    let mut blocks = Vec::new();
    while let Some(block) = reader.next()? {
        blocks.push(block);
    }
    Ok(blocks)
}

fn file(disk: &MemoryDisk, seq: u64) -> Vec<u8> {
    let path = path_of(Path::new(DIR), partition(), Seq::new(seq));
    let file = disk.open(&path, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_back_in_blocks() {
    let disk = disk();
    let cells = [
        ("a", 10),
        ("b", 0),
        ("c", BLOCK_BYTES),
        ("d", 1 << 20),
        ("e", 5),
    ];
    let written = write(&disk, 4, &cells);
    assert_eq!((written.cells, written.blocks), (5, 5));
    let blocks = read(&disk, 4).unwrap();
    let reigns = vec![(epoch(1), Seq::new(1)), (epoch(2), Seq::new(3))];
    assert_eq!(blocks[0], Block::Reigns(reigns));
    assert_eq!(blocks[1], Block::Requests(requests(2)));
    let found: Vec<(Bytes, usize)> = blocks[2..]
        .iter()
        .flat_map(|block| match block {
            Block::Cells(cells) => cells.clone(),
            other => panic!("{other:?} behind the first blocks"),
        })
        .map(|(key, value)| (key, value.len()))
        .collect();
    let expected = cells.map(|(key, len)| (Bytes::from_static(key.as_bytes()), len));
    assert_eq!(found, expected);
}

#[test]
fn the_bytes_are_those_that_docs_storage_says() {
    let disk = disk();
    write(&disk, 4, &[("kex", 2), ("key", 1)]);
    let bytes = file(&disk, 4);
    let fields = [
        &b"DOMS\x01\0\0\0"[..],
        &3_u64.to_le_bytes(),
        &partition().to_bytes(),
        &2_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &4_u64.to_le_bytes(),
        &0x0102_0304_0506_0708_u64.to_le_bytes(),
        &6_u64.to_le_bytes(),
        &3_u64.to_le_bytes(),
        &2_u64.to_le_bytes(),
        &(4096_u64 + 16 + 48 + 16 + 82 + 16 + 14).to_le_bytes(),
        &1_700_000_000_000_u64.to_le_bytes(),
    ]
    .concat();
    assert_eq!(bytes[..96], fields);
    assert_eq!(bytes[96..100], crc32fast::hash(&fields).to_le_bytes());
    assert!(bytes[100..4096].iter().all(|byte| *byte == 0));
    assert_eq!(bytes[4096..4108], *b"DOSB\x01\0\0\0\x30\0\0\0");
    let kept = &bytes[4096 + 16 + 48..];
    assert_eq!(kept[..12], *b"DOSB\x03\0\0\0\x52\0\0\0");
    let first = [
        &1_u128.to_le_bytes()[..],
        &1_u64.to_le_bytes(),
        &0xfeed_u64.to_le_bytes(),
        &9_u64.to_le_bytes(),
        &[AckLevel::Async.to_byte()],
    ]
    .concat();
    assert_eq!(kept[16..16 + 41], first);
    let cells = &kept[16 + 82..];
    assert_eq!(cells[..12], *b"DOSB\x04\0\0\0\x0e\0\0\0");
    let payload = b"\0\x03\0\x02kexvv\x02\x01\x01\0y";
    let payload = &payload[..];
    assert_eq!(cells[16..], *payload);
    let crc = crc32fast::hash(&[&b"\x04\0\0\0\x0e\0\0\0"[..], payload].concat());
    assert_eq!(cells[12..16], crc.to_le_bytes());
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let disk = disk();
    write(&disk, 4, &[("key", 20), ("other", 3)]);
    let whole = file(&disk, 4);
    let path = path_of(Path::new(DIR), partition(), Seq::new(4));
    let handle = disk.open(&path, OpenMode::ReadWrite).unwrap();
    let is_covered = |at: &usize| *at < 100 || *at as u64 >= HEADER_BYTES;
    for at in (0..whole.len()).filter(is_covered) {
        for bit in [0, 5] {
            handle
                .write_at(&[whole[at] ^ (1 << bit)], at as u64)
                .unwrap();
            let error = read(&disk, 4).expect_err("a flipped bit");
            assert!(
                error.to_string().contains(path.to_str().unwrap()),
                "byte {at}: {error}"
            );
        }
        handle.write_at(&whole[at..=at], at as u64).unwrap();
    }
    assert!(read(&disk, 4).is_ok());
    for len in (0..whole.len()).filter(is_covered) {
        handle.set_len(len as u64).unwrap();
        assert!(read(&disk, 4).is_err(), "cut at {len}");
        handle.set_len(whole.len() as u64).unwrap();
        handle.write_at(&whole, 0).unwrap();
    }
}

#[test]
fn lengths_that_lie_are_refused_before_memory_is_taken() {
    let mut head = b"DOSB\x02\0\0\0\xff\xff\xff\xff\0\0\0\0".to_vec();
    let error = BlockHead::decode(&head).unwrap_err();
    assert!(
        error.starts_with("block of 4294967295 bytes, limit "),
        "{error}"
    );
    head[8..12].copy_from_slice(&12_u32.to_le_bytes());
    assert_eq!(BlockHead::decode(&head).unwrap().payload_bytes(), 12);
    assert!(BlockHead::decode(&head[..15]).is_err());
}

#[test]
fn an_end_at_every_operation_leaves_the_old_one_or_the_new_one() {
    let prepared = || {
        let disk = disk();
        write(&disk, 4, &[("key", 20)]);
        disk.sync_dir(Path::new("/data")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        disk
    };
    let whole = prepared();
    let before = whole.operations();
    write(&whole, 9, &[("key", 30)]);
    let operations = whole.operations() - before;
    assert!(operations >= 7, "{operations}");
    for dies_at in 1..=operations {
        let disk = prepared();
        disk.freeze_at_operation(dies_at);
        let (mortal, dir) = (Arc::new(disk.clone()), Path::new(DIR));
        let written =
            SnapshotWriter::begin(mortal, dir, partition(), &[(epoch(2), Seq::new(1))], &[])
                .and_then(|mut writer| {
                    writer.push(b"key", &[b'v'; 30])?;
                    writer.finish(header(9))
                });
        for seed in 0..8 {
            let lost = disk.power_loss(seed);
            let shared: Arc<dyn Disk> = Arc::new(lost.clone());
            let set =
                SnapshotSet::open(shared, Path::new("/data"), node(), OnDamage::Refuse).unwrap();
            let found = set.get(partition()).map(|found| found.seq.get());
            let expected: &[u64] = match written {
                Ok(_) => &[9],
                Err(_) => &[4, 9],
            };
            let found = found.expect("the old one, at least");
            assert!(
                expected.contains(&found),
                "{found} at {dies_at}, seed {seed}"
            );
            assert!(
                read(&lost, found).is_ok(),
                "{found} at {dies_at}, seed {seed}"
            );
            let names = lost.list(Path::new(DIR)).unwrap();
            assert_eq!(names.len(), 1, "{names:?} at {dies_at}, seed {seed}");
        }
    }
}

#[test]
fn the_newest_is_kept_and_strangers_are_refused() {
    let disk = disk();
    for seq in [4, 12, 9] {
        write(&disk, seq, &[("key", seq as usize)]);
    }
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let set = SnapshotSet::open(
        Arc::clone(&shared),
        Path::new("/data"),
        node(),
        OnDamage::Refuse,
    )
    .unwrap();
    assert_eq!(set.get(partition()).unwrap().seq, Seq::new(12));
    assert_eq!(disk.list(Path::new(DIR)).unwrap().len(), 1);
    let other = NodeId::new(4).unwrap();
    let error = SnapshotSet::open(shared, Path::new("/data"), other, OnDamage::Refuse).unwrap_err();
    assert!(matches!(error, StoreError::ForeignNode { .. }), "{error}");
}
