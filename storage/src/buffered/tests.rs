//! The buffer through restarts, losses of power and damage.
//!
//! **Owns**: what must be found again, and what must be named as damage.
//! **Does not own**: the disk in memory and its faults (`disk`).

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::hostile::{Target, seal_end, unsealed};
use domicile_proto::record::RecordBody;
use domicile_proto::{
    Bucket, Epoch, KeyspaceId, NodeId, Operation, PartitionId, Position, RegionId, RequestId, Seq,
};

use super::entry::{BufferEvent, BufferNumber, NewBuffered, RefusedWrite};
use super::file::WriteBuffer;
use super::frame::{FILE_HEAD_BYTES, FileHead};
use crate::disk::{Disk, MemoryDisk, OpenMode};
use crate::error::StoreError;

const DIR: &str = "/data/buffer";
const PATH: &str = "/data/buffer/writes";

fn node() -> NodeId {
    NodeId::new(7).unwrap()
}

fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/data")).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    disk
}

fn open(disk: &MemoryDisk) -> WriteBuffer {
    WriteBuffer::open(Arc::new(disk.clone()), Path::new(DIR), node()).unwrap()
}

fn new(id: u64, value_bytes: usize) -> NewBuffered {
    let operation = Operation::Put {
        key: Bytes::from(format!("k/{id}")),
        value: Bytes::from(vec![id as u8; value_bytes]),
        expiry: None,
    };
    let epoch = Epoch {
        counter: 3,
        node: node(),
    };
    NewBuffered {
        partition: PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(2).unwrap(),
            bucket: Bucket::new(4),
        },
        request_id: RequestId::new(id.into()).unwrap(),
        accepted_at_ms: 1000 + id,
        log_end: (id % 2 == 1).then_some(Position {
            epoch,
            seq: Seq::new(id),
        }),
        body: RecordBody::encode(&[operation]).unwrap(),
    }
}

fn accepted(id: u64, value_bytes: usize) -> BufferEvent {
    BufferEvent::Accepted(BufferNumber::new(id), new(id, value_bytes))
}

fn settled(id: u64) -> BufferEvent {
    BufferEvent::Settled(BufferNumber::new(id))
}

fn refused(id: u64) -> BufferEvent {
    let refused = RefusedWrite {
        reason: "REQUEST_ID_REUSED".to_owned(),
        message: "it was used".to_owned(),
    };
    BufferEvent::Refused(BufferNumber::new(id), refused)
}

fn numbers(buffer: &WriteBuffer) -> Vec<u64> {
    buffer.writes().map(|write| write.number.get()).collect()
}

/// What is kept is what was accepted, byte for byte.
fn check_whole(buffer: &WriteBuffer, value_bytes: usize) {
    for write in buffer.writes() {
        let id = write.number.get();
        let told = new(id, value_bytes);
        let body = buffer.body(write.number).unwrap().unwrap();
        assert_eq!(
            (write.partition, write.request_id, write.accepted_at_ms),
            (told.partition, told.request_id, told.accepted_at_ms)
        );
        assert_eq!((write.log_end, body), (told.log_end, told.body));
    }
}

#[test]
fn what_was_accepted_is_there_again_until_it_is_settled() {
    let disk = disk();
    let mut buffer = open(&disk);
    assert_eq!(
        (numbers(&buffer), disk.exists(Path::new(DIR))),
        (vec![], false)
    );
    buffer.add(&[accepted(1, 10), accepted(2, 10)]).unwrap();
    buffer.add(&[accepted(3, 10)]).unwrap();
    buffer.add(&[settled(2), refused(3)]).unwrap();
    for again in [buffer, open(&disk), open(&disk.power_loss(1))] {
        assert_eq!(numbers(&again), [1, 3]);
        check_whole(&again, 10);
        let why = again.write(BufferNumber::new(3)).unwrap().refused.clone();
        assert_eq!(why.unwrap().reason, "REQUEST_ID_REUSED");
        assert_eq!(again.next_number().get(), 4);
    }
}

#[test]
fn numbers_are_not_used_again_and_room_is_given_back() {
    let disk = disk();
    let mut buffer = open(&disk);
    let size = 200 << 10;
    for id in 1..=12 {
        buffer.add(&[accepted(id, size)]).unwrap();
    }
    buffer.add(&[refused(12)]).unwrap();
    let file = || disk.open(Path::new(PATH), OpenMode::Read).unwrap();
    let full = file().len().unwrap();
    for id in 1..=11 {
        buffer.add(&[settled(id)]).unwrap();
    }
    let left = file().len().unwrap();
    assert!(left * 2 < full, "{left} of {full} bytes");
    for again in [&buffer, &open(&disk)] {
        assert_eq!(numbers(again), [12]);
        check_whole(again, size);
        let write = again.write(BufferNumber::new(12)).unwrap();
        assert!(write.refused.is_some());
    }
    buffer.add(&[settled(12)]).unwrap();
    // Nothing of the last file names a write, and its numbers are still not used again.
    for id in 13..=20 {
        buffer.add(&[accepted(id, size), settled(id)]).unwrap();
    }
    assert_eq!(open(&disk).next_number().get(), 21);
}

/// Dies at every operation of `last`, after `before`: what was told is found, and nothing else.
fn dies_at_every_operation(before: &[BufferEvent], last: &[BufferEvent], value_bytes: usize) {
    let prepared = || {
        let disk = disk();
        for event in before {
            open(&disk).add(std::slice::from_ref(event)).unwrap();
        }
        disk
    };
    let whole = prepared();
    let (start, were) = (whole.operations(), numbers(&open(&whole)));
    open(&whole).add(last).unwrap();
    let (operations, will_be) = (whole.operations() - start, numbers(&open(&whole)));
    assert!(operations >= 2, "{operations} operations");
    for dies_at in 1..=operations {
        let disk = prepared();
        let mut buffer = open(&disk);
        disk.freeze_at_operation(dies_at);
        let told = buffer.add(last);
        if told.is_err() {
            assert!(buffer.add(&[settled(1)]).is_err(), "it goes on");
        }
        let ends = (0..16).map(|seed| disk.power_loss(seed));
        for left in ends.chain([disk.crash()]) {
            let mut found = open(&left);
            assert_eq!(found.damaged(), None, "at {dies_at}");
            let is_one = numbers(&found) == will_be || (told.is_err() && numbers(&found) == were);
            assert!(is_one, "{:?} at {dies_at}", numbers(&found));
            check_whole(&found, value_bytes);
            let next = found.next_number();
            let added = BufferEvent::Accepted(next, new(next.get(), value_bytes));
            found.add(&[added]).unwrap();
            let again = open(&left.power_loss(3));
            assert_eq!(numbers(&again).last(), Some(&next.get()));
        }
    }
}

#[test]
fn an_end_at_every_operation_keeps_what_was_told() {
    dies_at_every_operation(&[], &[accepted(1, 3000), accepted(2, 3000)], 3000);
    let before = [accepted(1, 3000), accepted(2, 3000)];
    dies_at_every_operation(&before, &[settled(1), accepted(3, 3000)], 3000);
}

#[test]
fn an_end_at_every_operation_of_a_rewrite_keeps_what_was_told() {
    let size = 300 << 10;
    let before: Vec<_> = (1..=4).map(|id| accepted(id, size)).collect();
    let last = [settled(1), settled(2), settled(3), accepted(5, size)];
    dies_at_every_operation(&before, &last, size);
}

#[test]
fn after_a_failed_sync_nothing_is_added_until_it_is_opened_anew() {
    let disk = disk();
    let mut buffer = open(&disk);
    buffer.add(&[accepted(1, 10)]).unwrap();
    disk.fail_sync(1);
    assert!(buffer.add(&[accepted(2, 10)]).is_err());
    let refused = buffer.add(&[accepted(2, 10)]).unwrap_err();
    assert!(matches!(refused, StoreError::Poisoned { .. }), "{refused}");
    assert_eq!(numbers(&buffer), [1]);
    let mut again = open(&disk.power_loss(1));
    let next = again.next_number();
    again
        .add(&[BufferEvent::Accepted(next, new(9, 10))])
        .unwrap();
}

fn flip(disk: &MemoryDisk, offset: u64) -> MemoryDisk {
    let left = disk.crash();
    let file = left.open(Path::new(PATH), OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_at(&mut byte, offset).unwrap();
    file.write_at(&[byte[0] ^ 1], offset).unwrap();
    left
}

#[test]
fn damage_before_the_end_is_named_and_never_taken_for_an_empty_buffer() {
    let disk = disk();
    let mut buffer = open(&disk);
    let mut ends = Vec::new();
    for id in 1..=3 {
        buffer.add(&[accepted(id, 40)]).unwrap();
        let file = disk.open(Path::new(PATH), OpenMode::Read).unwrap();
        ends.push(file.len().unwrap());
    }
    for offset in FILE_HEAD_BYTES as u64..ends[2] {
        let mut found = open(&flip(&disk, offset));
        match offset < ends[1] {
            true => {
                let problem = found.damaged().expect("damage is named").to_owned();
                assert!(problem.contains(PATH), "{problem}");
                assert!(found.add(&[accepted(4, 1)]).is_err(), "it goes on");
                let intact = if offset < ends[0] { vec![] } else { vec![1] };
                assert_eq!(numbers(&found), intact);
            }
            // As an end in the midst of the last frame would leave it.
            false => assert_eq!((found.damaged(), numbers(&found)), (None, vec![1, 2])),
        }
    }
    for offset in 0..FILE_HEAD_BYTES as u64 {
        let disk = Arc::new(flip(&disk, offset));
        let refused = WriteBuffer::open(disk, Path::new(DIR), node());
        assert!(refused.is_err(), "{offset}");
    }
    let other = NodeId::new(8).unwrap();
    let foreign = WriteBuffer::open(Arc::new(disk), Path::new(DIR), other).unwrap_err();
    assert!(
        matches!(foreign, StoreError::ForeignNode { .. }),
        "{foreign}"
    );
}

#[test]
fn a_value_that_looks_like_a_frame_is_none() {
    let head = FileHead {
        node: node(),
        file_number: 1,
        next_write: BufferNumber::FIRST,
    };
    // As whoever knows the node but not where its bytes will lie.
    let (frame, _) = head.frame(FILE_HEAD_BYTES as u64, &[accepted(9, 4)]);
    let mut write = new(1, 0);
    let operation = Operation::Put {
        key: Bytes::from_static(b"k"),
        value: frame.into(),
        expiry: None,
    };
    write.body = RecordBody::encode(&[operation]).unwrap();
    let disk = disk();
    let event = BufferEvent::Accepted(BufferNumber::FIRST, write);
    open(&disk).add(&[event]).unwrap();
    let torn = open(&flip(&disk, FILE_HEAD_BYTES as u64 + 14));
    assert_eq!((torn.damaged(), numbers(&torn)), (None, vec![]));
}

#[test]
fn the_layout_is_pinned() {
    let head = FileHead {
        node: node(),
        file_number: 2,
        next_write: BufferNumber::new(5),
    };
    let (frame, places) = head.frame(36, &[settled(3), accepted(5, 1), refused(5)]);
    assert_eq!(places[0], (48, 9));
    let crc = crc32fast::hash(&[head.encode(), frame].concat());
    assert_eq!(crc, GOLDEN, "the bytes on disk changed: {crc:#010x}");
}

/// Of a header and a frame with one event of each kind. Another one needs another format version.
const GOLDEN: u32 = 0xce35_f2ed;

fn held(run: &mut dyn FnMut()) -> u64 {
    allocation_counter::measure(run).bytes_max
}

#[test]
fn fuzz_files() {
    let disk = disk();
    let mut buffer = open(&disk);
    buffer.add(&[accepted(1, 20), accepted(2, 20)]).unwrap();
    buffer.add(&[settled(1), refused(2)]).unwrap();
    let file = disk.open(Path::new(PATH), OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    let target = Target {
        command: "cargo test -p domicile-storage fuzz_files",
        cases: 2_000,
        valid: &[bytes],
        seal: &seal_end,
        memory_per_byte: 64,
        memory_flat: 2 << 20,
    };
    let mut events = Vec::new();
    for event in [settled(1), accepted(1, 20), refused(2)] {
        event.encode(&mut events);
    }
    let inside = Target {
        valid: &[events],
        seal: &unsealed,
        ..target
    };
    inside.attack(held, &|bytes| {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() && BufferEvent::decode(&mut rest).is_ok() {}
    });
    target.attack(held, &|bytes| {
        let disk = MemoryDisk::new();
        disk.create_dir_all(Path::new(DIR)).unwrap();
        let file = disk.open(Path::new(PATH), OpenMode::CreateNew).unwrap();
        file.write_at(bytes, 0).unwrap();
        if let Ok(buffer) = WriteBuffer::open(Arc::new(disk), Path::new(DIR), node()) {
            for number in numbers(&buffer) {
                let _ = buffer.body(BufferNumber::new(number));
            }
        }
    });
}
