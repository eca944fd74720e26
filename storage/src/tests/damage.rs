//! Torn tails are cut, corruption is named and left alone.
//!
//! **Owns**: tests with bytes changed behind the store's back.
//! **Does not own**: tests of power loss, which damages by itself.

use std::path::Path;
use std::sync::Arc;

use super::fixture::*;
use crate::disk::{Disk, OpenMode};
use crate::{MemoryDisk, OnDamage, Place, StoreError, verify};

/// Three frames in the first file: where each begins, and the end.
fn three_frames() -> (MemoryDisk, Author, Vec<Place>) {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    let mut places = vec![store.durable_end()];
    for round in 0..3_u8 {
        for bucket in 0..2 {
            author
                .write(&store, partition(bucket), &[round + 1; 20])
                .unwrap();
        }
        author.commit(&store).unwrap();
        places.push(store.durable_end());
    }
    (disk.crash(), author, places)
}

fn report(disk: &MemoryDisk) -> crate::VerifyReport {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    verify(&disk, Path::new(DIR)).unwrap()
}

#[test]
fn a_tail_torn_at_every_byte_is_cut() {
    let (disk, author, places) = three_frames();
    let (from, upto) = (places[2].offset, places[3].offset);
    let whole = file_bytes(&disk, FIRST_FILE);
    let last_nonzero = (from..upto)
        .rev()
        .find(|at| whole[*at as usize] != 0)
        .unwrap();
    for cut in from..=upto {
        for truncated in [false, true] {
            let disk = disk.crash();
            let file = disk
                .open(Path::new(FIRST_FILE), OpenMode::ReadWrite)
                .unwrap();
            file.set_len(cut).unwrap();
            if !truncated {
                file.set_len(whole.len() as u64).unwrap();
            }
            let torn = report(&disk).torn_tail;
            let (store, recovery) = open(&disk);
            let is_whole = cut == upto || (!truncated && cut > last_nonzero);
            assert_eq!(torn, recovery.torn_tail);
            assert_eq!(
                torn.is_some(),
                cut > from && !is_whole,
                "cut at {cut}: {torn:?}"
            );
            if let Some(torn) = torn {
                assert_eq!(torn.place, places[2]);
                assert_eq!(torn.path, Path::new(FIRST_FILE));
            }
            let mut author = author.clone();
            author.forget_after(&recovery);
            let kept = if is_whole { 3 } else { 2 };
            assert_eq!(author.last_seq(partition(0)).get(), kept, "cut at {cut}");
            author.check(&store);
            author.write(&store, partition(1), b"goes on").unwrap();
            author.commit(&store).unwrap();
            store.close().unwrap();
            drop(store);
            let (store, recovery) = open(&disk);
            assert_eq!(recovery.torn_tail, None);
            author.check(&store);
        }
    }
}

#[test]
fn a_tail_of_garbage_is_cut_and_stays_cut() {
    let (disk, author, places) = three_frames();
    for offset in [
        places[3].offset,
        places[3].offset + 5,
        places[3].offset + 40_000,
    ] {
        let disk = disk.crash();
        overwrite(&disk, FIRST_FILE, offset, &[0xa5; 3000]);
        let (store, recovery) = open(&disk);
        let torn = recovery.torn_tail.unwrap();
        assert_eq!(torn.place, places[3]);
        assert_eq!(torn.place.offset + torn.bytes, offset + 3000);
        author.check(&store);
        drop(store);
        let (_, recovery) = open(&disk.power_loss(1));
        assert_eq!(recovery.torn_tail, None);
    }
}

#[test]
pub(super) fn a_flipped_bit_before_an_intact_frame_is_corruption() {
    let (disk, author, places) = three_frames();
    let whole = file_bytes(&disk, FIRST_FILE);
    for at in places[0].offset..places[2].offset {
        let disk = disk.crash();
        let flipped = whole[at as usize] ^ (1 << (at % 8));
        overwrite(&disk, FIRST_FILE, at, &[flipped]);
        let before = file_bytes(&disk, FIRST_FILE);
        let error = try_open(&disk, options()).expect_err("corruption was accepted");
        let StoreError::Corrupt { path, offset, .. } = &error else {
            panic!("at {at}: {error}")
        };
        assert_eq!(path, Path::new(FIRST_FILE));
        let frame = if at < places[1].offset { 0 } else { 1 };
        let named = places[frame].offset..=at;
        assert!(named.contains(offset), "at {at}: {error}");
        assert_eq!(
            file_bytes(&disk, FIRST_FILE),
            before,
            "corruption was written to"
        );
        let report = report(&disk);
        assert_eq!(report.damage.unwrap().to_string(), error.to_string());
        assert_eq!(report.frames, frame as u64);
        // The bit flipped back, everything is there again.
        overwrite(&disk, FIRST_FILE, at, &[whole[at as usize]]);
        author.check(&open(&disk).0);
    }
}

#[test]
fn a_zeroed_frame_before_an_intact_one_is_corruption() {
    let (disk, _, places) = three_frames();
    for (from, upto) in [(0, 1), (1, 2), (0, 2)] {
        let disk = disk.crash();
        let (from, upto) = (places[from].offset, places[upto].offset);
        overwrite(&disk, FIRST_FILE, from, &vec![0; (upto - from) as usize]);
        let message = refusal(&disk);
        let expected = format!("corrupt file {FIRST_FILE} at offset {from}: zeros where a frame");
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn damage_in_a_file_that_is_followed_by_another_is_corruption() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    let mut last_in_first = store.durable_end();
    while store.durable_end().file.get() < 3 {
        if store.durable_end().file.get() == 1 {
            last_in_first = store.durable_end();
        }
        author.write(&store, partition(0), &[1; 9_000]).unwrap();
        author.commit(&store).unwrap();
    }
    // The last frame of the first file begins where its last but one ended.
    let frame = store
        .records(partition(0), domicile_proto::Seq::FIRST)
        .count();
    assert!(frame > 10);
    let offset = last_in_first.offset - 100;
    drop(store);
    let damaged = disk.crash();
    overwrite(&damaged, FIRST_FILE, offset, &[0xff]);
    assert!(
        refusal(&damaged).contains("a further file follows"),
        "{}",
        refusal(&damaged)
    );

    let damaged = disk.crash();
    overwrite(&damaged, "/data/journal/0000000002.journal", 8, &[0xff]);
    let message = refusal(&damaged);
    assert!(
        message.contains("0000000002.journal at offset 0: checksum"),
        "{message}"
    );

    let missing = disk.crash();
    missing
        .remove_file(Path::new("/data/journal/0000000002.journal"))
        .unwrap();
    let message = refusal(&missing);
    assert!(
        message.contains("0000000002.journal at offset 0: journal file missing"),
        "{message}"
    );

    // The last file is in use, so its header was durable: damage to it is corruption as well.
    let damaged = disk.crash();
    overwrite(&damaged, "/data/journal/0000000003.journal", 8, &[0xff]);
    let message = refusal(&damaged);
    assert!(
        message.contains("0000000003.journal at offset 0: checksum"),
        "{message}"
    );
    author.check(&open(&disk.crash()).0);
}

#[test]
fn a_last_file_that_was_never_used_is_begun_anew() {
    let (disk, mut author, places) = three_frames();
    let second = Path::new("/data/journal/0000000002.journal");
    for bytes in [&b""[..], &[0; 5000], &[0xa5; 100]] {
        let disk = disk.crash();
        let file = disk.open(second, OpenMode::CreateNew).unwrap();
        file.write_at(bytes, 0).unwrap();
        let (store, recovery) = open(&disk);
        let torn = recovery.torn_tail.unwrap();
        assert_eq!((torn.path.as_path(), torn.place.offset), (second, 0));
        assert_eq!(recovery.durable_end, places[3]);
        assert!(!disk.exists(second));
        author.check(&store);
        drop(store);
    }
    // A file with a header and no frame is fine.
    let (store, _) = open(&disk);
    while store.durable_end().file.get() < 2 {
        author.write(&store, partition(0), &[1; 9_000]).unwrap();
        author.commit(&store).unwrap();
    }
    drop(store);
    overwrite(&disk, second.to_str().unwrap(), 4096, &vec![0; 20_000]);
    let (store, recovery) = open(&disk);
    assert_eq!(
        recovery.durable_end,
        Place {
            file: crate::FileNumber::new(2),
            offset: 4096
        }
    );
    author.forget_after(&recovery);
    author.check(&store);
}

#[test]
fn a_frame_inside_a_value_is_not_taken_for_a_frame() {
    let (disk, mut author, places) = three_frames();
    let whole = file_bytes(&disk, FIRST_FILE);
    let journal = &whole[places[0].offset as usize..places[3].offset as usize];
    let (store, _) = open(&disk);
    author.write(&store, partition(0), journal).unwrap();
    author.commit(&store).unwrap();
    let end = store.durable_end().offset;
    drop(store);
    // The frame with the copy is torn in its header: what follows it is only a value.
    let torn = disk.crash();
    overwrite(&torn, FIRST_FILE, places[3].offset, &[0; 32]);
    let (store, recovery) = open(&torn);
    assert_eq!(recovery.torn_tail.as_ref().unwrap().place, places[3]);
    author.forget_after(&recovery);
    author.check(&store);
    assert!(end > places[3].offset + journal.len() as u64);
}

#[test]
fn a_sound_directory_is_reported_in_full() {
    let (disk, author, places) = three_frames();
    let operations = disk.operations();
    let report = report(&disk);
    assert!(report.is_sound() && report.torn_tail.is_none());
    assert_eq!((report.files, report.frames, report.segments), (1, 3, 6));
    assert_eq!((report.records(), report.end), (6, places[3]));
    assert_eq!(report.node_id, node(1));
    for found in &report.partitions {
        assert_eq!(
            (found.first_seq.get(), found.last_seq),
            (1, author.last_seq(found.partition))
        );
        assert_eq!((found.records, found.epoch), (3, epoch(1)));
        assert!(found.bytes > 300);
    }
    assert_eq!(
        disk.operations(),
        operations,
        "verification changed the disk"
    );
    let (store, _) = open(&disk);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    assert!(matches!(
        verify(&shared, Path::new(DIR)),
        Err(StoreError::Locked { .. })
    ));
    drop(store);
}

fn quarantining() -> crate::StoreOptions {
    crate::StoreOptions {
        on_damage: OnDamage::Quarantine,
        ..options()
    }
}

/// Nothing that was acknowledged is missing from a partition that is served; whoever lost something
/// is named; and what is whole goes on.
#[test]
fn damage_costs_only_the_partitions_whose_it_is() {
    let (disk, author, places) = three_frames();
    let whole = file_bytes(&disk, FIRST_FILE);
    let (mut one, mut both, mut unknown) = (0, 0, 0);
    for at in places[0].offset..places[2].offset {
        let disk = disk.crash();
        let flipped = whole[at as usize] ^ (1 << (at % 8));
        overwrite(&disk, FIRST_FILE, at, &[flipped]);
        let (store, recovery) = try_open(&disk, quarantining()).unwrap();
        let damaged: Vec<_> = recovery.damaged.iter().map(|(id, _)| *id).collect();
        match damaged.as_slice() {
            [] => panic!("damage at {at} cost nobody anything: {recovery:?}"),
            [_] => one += 1,
            _ => both += 1,
        }
        unknown += u32::from(recovery.unknown_damage.is_some());
        let mut served = author.clone();
        served.written.retain(|id, _| !damaged.contains(id));
        served.check(&store);
        for (id, error) in &recovery.damaged {
            assert!(!store.cells(*id).is_readable(), "{id} is served");
            assert!(error.to_string().contains(FIRST_FILE), "{error}");
        }
        if let Some(whole) = served.written.keys().next().copied() {
            served.write(&store, whole, b"goes on").unwrap();
            served.commit(&store).unwrap();
            store.close().unwrap();
            drop(store);
            let (store, _) = try_open(&disk, quarantining()).unwrap();
            served.check(&store);
        }
    }
    assert!(
        one > 100 && both > 0 && unknown > 0,
        "{one} {both} {unknown}"
    );
}

/// The frame that is lost may have been the last of a partition: without a gap nobody would notice.
#[test]
fn a_partition_whose_end_may_be_lost_is_not_served() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    let mut places = Vec::new();
    for bucket in [0, 1, 0, 0] {
        places.push(store.durable_end());
        author.write(&store, partition(bucket), &[1; 20]).unwrap();
        author.commit(&store).unwrap();
    }
    drop(store);
    // The second frame, of partition 1 alone, is gone with its header.
    let lost = disk.crash();
    overwrite(&lost, FIRST_FILE, places[1].offset, &[0xff; 4]);
    let (store, recovery) = try_open(&lost, quarantining()).unwrap();
    assert!(recovery.unknown_damage.is_some(), "{recovery:?}");
    assert!(recovery.damaged.is_empty(), "{recovery:?}");
    let served = recovery.partitions.iter().map(|each| each.partition);
    assert_eq!(served.collect::<Vec<_>>(), [partition(0)]);
    author.check_cells(&store, partition(0), domicile_proto::Seq::new(3));
    drop(store);
    // The third: partition 0 goes on with a gap, partition 1 may have been in it.
    let lost = disk.crash();
    overwrite(&lost, FIRST_FILE, places[2].offset, &[0xff; 4]);
    let (_, recovery) = try_open(&lost, quarantining()).unwrap();
    assert_eq!(recovery.damaged.len(), 2, "{recovery:?}");
}

/// What the checkpoint of an intact engine covers is not read again, and costs nobody anything.
#[test]
fn damage_before_what_the_engine_has_is_found_only_when_it_is_needed() {
    let (disk, mut author, places) = three_frames();
    let engine: Arc<crate::engine::MemoryEngine> = Arc::default();
    let given = || crate::StoreOptions {
        engine: crate::EngineChoice::Given(Arc::clone(&engine) as _),
        ..quarantining()
    };
    let (store, _) = try_open(&disk, given()).unwrap();
    author.make_visible(&store, &[]);
    for bucket in 0..2 {
        let last = author.last_seq(partition(bucket));
        store.cells(partition(bucket)).advance(last);
    }
    store.flush_once().unwrap();
    author.write(&store, partition(0), b"later").unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let disk = disk.crash();
    overwrite(&disk, FIRST_FILE, places[1].offset + 100, &[0xff; 4]);
    let (store, recovery) = try_open(&disk, given()).unwrap();
    assert!(recovery.damaged.is_empty(), "{recovery:?}");
    author.check_cells(&store, partition(0), author.last_seq(partition(0)));
    drop(store);
    let (_, recovery) = try_open(&disk, quarantining()).unwrap();
    assert!(!recovery.damaged.is_empty(), "{recovery:?}");
}

/// Everything that is whole is shown, and everything that is not.
#[test]
fn an_inspection_goes_on_behind_damage() {
    let (disk, _, places) = three_frames();
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let shown = |disk: &Arc<dyn Disk>| {
        let (mut records, mut damaged) = (0, Vec::new());
        crate::inspect(disk, Path::new(DIR), &mut |found| {
            match found {
                crate::Inspected::Segment { records: more, .. } => records += more.len(),
                crate::Inspected::Damage { partition, .. } => damaged.push(partition),
                other => panic!("{other:?}"),
            }
            Ok(())
        })
        .unwrap();
        (records, damaged)
    };
    assert_eq!(shown(&shared), (6, vec![]));
    // In the last byte of the second frame: its second segment.
    overwrite(&disk, FIRST_FILE, places[2].offset - 1, &[0xff]);
    assert_eq!(shown(&shared), (5, vec![Some(partition(1))]));
    overwrite(&disk, FIRST_FILE, places[0].offset, &[0xff]);
    assert_eq!(shown(&shared), (3, vec![None, Some(partition(1))]));
}

/// Regression: what stands for a page that cannot be read was cut as a torn tail, with all the
/// acknowledged writes that were in it.
#[test]
fn a_page_that_cannot_be_read_at_the_end_is_no_torn_tail() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    for round in 0..100_u8 {
        author.write(&store, partition(0), &[round; 20]).unwrap();
        author.commit(&store).unwrap();
    }
    let end = store.durable_end().offset as usize;
    drop(store);
    let whole = file_bytes(&disk, FIRST_FILE);
    for page in [end - 1, end - 4096, 100] {
        let disk = disk.crash();
        disk.spoil(Path::new(FIRST_FILE), page..page + 1);
        match try_open(&disk.crash(), quarantining()) {
            Err(error) => assert!(error.to_string().contains(FIRST_FILE), "{error}"),
            // Frames follow: it is known whose it is.
            Ok((_, recovery)) => assert_eq!(recovery.damaged.len(), 1, "page {page}"),
        }
        let error = try_open(&disk, options()).unwrap_err();
        assert!(error.to_string().contains(FIRST_FILE), "{error}");
        let page = page / 4096 * 4096;
        // The device reads it again: nothing was lost, nothing was written.
        overwrite(&disk, FIRST_FILE, page as u64, &whole[page..page + 4096]);
        assert_eq!(file_bytes(&disk, FIRST_FILE), whole);
        author.check(&open(&disk).0);
    }
}

/// Regression: what stands for a page that cannot be read was written in its place.
#[test]
fn a_page_that_cannot_be_read_is_not_written_to() {
    let disk = MemoryDisk::new();
    let engine: Arc<crate::engine::MemoryEngine> = Arc::default();
    let given = || crate::StoreOptions {
        engine: crate::EngineChoice::Given(Arc::clone(&engine) as _),
        ..quarantining()
    };
    let (store, _) = try_open(&disk, given()).unwrap();
    let mut author = Author::default();
    for round in 0..3_u8 {
        author.write(&store, partition(0), &[round; 9_000]).unwrap();
        author.commit(&store).unwrap();
    }
    store.flush_once().unwrap();
    let end = store.durable_end().offset as usize;
    drop(store);
    let whole = file_bytes(&disk, FIRST_FILE);
    let disk = disk.crash();
    disk.spoil(Path::new(FIRST_FILE), end - 5_000..end - 4_999);
    drop(try_open(&disk, given()));
    let (page, upto) = ((end - 5_000) / 4096 * 4096, end / 4096 * 4096);
    let disk = disk.crash();
    let file = disk.open(Path::new(FIRST_FILE), OpenMode::Read).unwrap();
    let still = file.read_at(&mut [0; 4096], page as u64).unwrap_err();
    assert_eq!(still.raw_os_error(), Some(5), "it was written to");
    assert!(page < upto && whole[page..upto].iter().any(|byte| *byte != 0));
}

/// A device that cannot read a page has lost what is in it, and nothing else: EIO is damage with a
/// place, for the open, for whoever reads and for the scrub, and a copy has what is missing.
#[test]
fn a_page_that_cannot_be_read_costs_only_the_partitions_whose_it_is() {
    let disk = MemoryDisk::new();
    let (store, _) = open(&disk);
    let mut author = Author::default();
    let from = store.durable_end().offset;
    let mut upto = from;
    for round in 0..8_u8 {
        upto = store.durable_end().offset;
        let bucket = (round % 2).into();
        author
            .write(&store, partition(bucket), &[round; 9_000])
            .unwrap();
        author.commit(&store).unwrap();
    }
    // While the store is open: the reader is told where, the scrub whose, and writes go on.
    let path = Path::new(FIRST_FILE);
    let open_disk = disk.clone();
    let spoiled = 16_500;
    open_disk.spoil(path, spoiled..spoiled + 1);
    let read: Result<Vec<_>, _> = store
        .records(partition(1), domicile_proto::Seq::FIRST)
        .collect();
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    let scrubbed = store.scrub_journal(&mut |_| true).unwrap();
    assert_eq!(scrubbed.damage.len(), 1, "{scrubbed:?}");
    assert_eq!(scrubbed.damage[0].lost.unwrap().0, partition(1));
    author.write(&store, partition(0), b"goes on").unwrap();
    author.commit(&store).unwrap();
    drop(store);
    let whole = disk.crash();
    for page in (from..upto).step_by(4096) {
        let disk = whole.crash();
        let page = page as usize;
        disk.spoil(path, page..page + 1);
        let message = refusal(&disk);
        assert!(
            message.starts_with(&format!("corrupt file {FIRST_FILE} at offset")),
            "{message}"
        );
        assert_eq!(report(&disk).damage.unwrap().to_string(), message);
        let (store, recovery) = try_open(&disk, quarantining()).unwrap();
        assert!(!recovery.damaged.is_empty(), "page {page}: {recovery:?}");
        let mut served = author.clone();
        for (id, _) in &recovery.damaged {
            served.written.remove(id);
        }
        served.check(&store);
    }
}
