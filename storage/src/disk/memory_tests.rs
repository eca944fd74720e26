use std::io::ErrorKind;
use std::path::Path;

use super::*;

const DIR: &str = "/data";
const FILE: &str = "/data/file";

fn disk_with_file() -> (MemoryDisk, std::sync::Arc<dyn DiskFile>) {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("/")).unwrap();
    let file = disk.open(Path::new(FILE), OpenMode::CreateNew).unwrap();
    (disk, file)
}

fn content(disk: &MemoryDisk, path: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(path), OpenMode::Read).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// All outcomes of losing power now, over many seeds.
fn outcomes<T: Ord>(disk: &MemoryDisk, look: impl Fn(&MemoryDisk) -> T) -> Vec<T> {
    let mut seen: Vec<T> = (0..200).map(|seed| look(&disk.power_loss(seed))).collect();
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn a_name_is_durable_only_once_its_directory_is_synced() {
    let (disk, file) = disk_with_file();
    file.write_at(b"abc", 0).unwrap();
    file.sync_all().unwrap();
    let lost_or_there = [None, Some(b"abc".to_vec())];
    assert_eq!(outcomes(&disk, |after| content(after, FILE)), lost_or_there);
    disk.sync_dir(Path::new(DIR)).unwrap();
    assert_eq!(
        outcomes(&disk, |after| content(after, FILE)),
        [Some(b"abc".to_vec())]
    );

    disk.rename(Path::new(FILE), Path::new("/data/other"))
        .unwrap();
    let names = |after: &MemoryDisk| after.list(Path::new(DIR)).unwrap();
    assert_eq!(
        outcomes(&disk, names),
        [vec!["file".to_owned()], vec!["other".to_owned()]]
    );
    assert_eq!(disk.crash().list(Path::new(DIR)).unwrap(), ["other"]);
}

#[test]
fn what_is_below_a_lost_directory_is_lost() {
    let disk = MemoryDisk::new();
    disk.create_dir_all(Path::new("/a/b")).unwrap();
    disk.sync_dir(Path::new("/a")).unwrap();
    let there = outcomes(&disk, |after| after.exists(Path::new("/a/b")));
    assert_eq!(there, [false, true]);
}

#[test]
fn unsynced_bytes_are_dropped_kept_or_torn_at_a_sector() {
    let (disk, file) = disk_with_file();
    disk.sync_dir(Path::new(DIR)).unwrap();
    file.write_at(&[1; 1024], 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(&[2; 1024], 100).unwrap();
    let seen = outcomes(&disk, |after| content(after, FILE).unwrap());
    assert!(seen.len() >= 4, "{} outcomes", seen.len());
    for bytes in &seen {
        let changes = bytes
            .windows(2)
            .enumerate()
            .filter(|(_, pair)| pair[0] != pair[1]);
        let places: Vec<usize> = changes.map(|(at, _)| at + 1).collect();
        assert!(
            places.iter().all(|at| [100, 512, 1024].contains(at)),
            "torn at {places:?}, {} bytes",
            bytes.len()
        );
    }
    assert_eq!(content(&disk.crash(), FILE).unwrap().len(), 1124);
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, |after| content(after, FILE)).len(), 1);
}

#[test]
fn bytes_that_a_failed_sync_lost_stay_lost() {
    let (disk, file) = disk_with_file();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.fail_sync(1);
    file.write_at(b"abc", 0).unwrap();
    assert!(file.sync_data().unwrap_err().to_string().contains("EIO"));
    file.sync_data().unwrap();
    assert_eq!(
        outcomes(&disk, |after| content(after, FILE)),
        [Some(Vec::new())]
    );
    assert_eq!(content(&disk.crash(), FILE), Some(b"abc".to_vec()));
}

#[test]
fn writes_fail_on_request_and_a_full_disk_says_so() {
    let (disk, file) = disk_with_file();
    disk.fail_write(2);
    file.write_at(b"a", 0).unwrap();
    assert!(file.write_at(b"b", 0).is_err());
    file.write_at(b"c", 0).unwrap();
    disk.set_space_left(Some(10));
    file.write_at(b"d", 0).unwrap();
    file.allocate(8).unwrap();
    assert_eq!(disk.free_bytes(Path::new(DIR)).unwrap(), 3);
    assert_eq!(
        file.write_at(&[0; 100], 0).unwrap_err().kind(),
        ErrorKind::StorageFull
    );
    disk.set_space_left(None);
    file.write_at(&[0; 100], 0).unwrap();
}

#[test]
fn a_dead_machine_answers_nothing_and_its_last_operation_may_have_happened() {
    let (disk, file) = disk_with_file();
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.freeze_at_operation(2);
    file.write_at(b"a", 0).unwrap();
    assert!(file.write_at(b"bb", 0).is_err());
    assert!(file.sync_data().is_err());
    assert!(disk.list(Path::new(DIR)).is_err());
    let seen = outcomes(&disk, |after| content(after, FILE).unwrap());
    for expected in [&b""[..], b"a", b"bb"] {
        assert!(
            seen.iter().any(|bytes| bytes == expected),
            "{expected:?} never seen"
        );
    }
}

#[test]
fn a_lock_is_exclusive_until_dropped_or_the_process_dies() {
    let (disk, _file) = disk_with_file();
    let path = Path::new("/data/lock");
    let lock = disk.lock(path, "first").unwrap();
    match disk.lock(path, "second").unwrap() {
        LockOutcome::Held { holder } => assert_eq!(holder, "first"),
        LockOutcome::Acquired(_) => panic!("locked twice"),
    }
    assert!(matches!(
        disk.crash().lock(path, "third").unwrap(),
        LockOutcome::Acquired(_)
    ));
    drop(lock);
    assert!(matches!(
        disk.lock(path, "fourth").unwrap(),
        LockOutcome::Acquired(_)
    ));
}
