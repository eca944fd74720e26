//! A place in memory: what an interrupted backup leaves, two at the same time, damage.

use bytes::Bytes;
use domicile_proto::{Name, NodeId};
use domicile_storage::backup::{BackupFile, BackupManifest, BackupNumber, FileStep, checksum};

use super::place::Place;
use super::{BackupFault, PlaceUse, check};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A backup of one file and no partition.
fn manifest(number: BackupNumber, file: &str, bytes: &[u8]) -> BackupManifest {
    BackupManifest {
        number,
        created_at_ms: 1,
        node: NodeId::new(7).unwrap(),
        cluster: name("test"),
        region: name("eu"),
        place_region: name("eu"),
        keyspaces: Vec::new(),
        files: vec![BackupFile {
            name: file.to_owned(),
            bytes: bytes.len() as u64,
            crc32: checksum(bytes),
        }],
        partitions: Vec::new(),
    }
}

async fn write(place: &Place, file: &str, bytes: &Bytes) {
    let mut writer = place.writer();
    let (head, tail) = (bytes.slice(..1), bytes.slice(1..));
    for step in [
        FileStep::Begin(file.to_owned()),
        FileStep::Write(head),
        FileStep::Write(tail),
        FileStep::End,
    ] {
        writer.step(step).await.unwrap();
    }
}

/// In memory, and in a directory.
fn places() -> (Vec<Place>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made").join("for it");
    let local = Place::open(path.to_str().unwrap(), PlaceUse::Write).unwrap();
    (vec![Place::in_memory(), local], directory)
}

#[tokio::test]
async fn a_backup_exists_from_its_manifest_on() {
    let (places, _directory) = places();
    for place in places {
        let bytes = Bytes::from(vec![7; 12 << 20]);
        write(&place, "data/0000000001-a/x.archive", &bytes).await;
        assert!(
            place.numbers().await.unwrap().is_empty(),
            "without a manifest"
        );
        assert_eq!(place.unfinished(&[]).await.unwrap(), ["data/0000000001-a"]);
        let first = manifest(BackupNumber::FIRST, "data/0000000001-a/x.archive", &bytes);
        place.put_manifest(&first).await.unwrap();
        assert_eq!(place.numbers().await.unwrap(), [BackupNumber::FIRST]);
        assert_eq!(place.manifest(BackupNumber::FIRST).await.unwrap(), first);
        assert!(
            place
                .unfinished(std::slice::from_ref(&first))
                .await
                .unwrap()
                .is_empty()
        );

        // The next one ends in the midst of a file.
        let mut writer = place.writer();
        let begin = FileStep::Begin("data/0000000002-b/y.archive".to_owned());
        writer.step(begin).await.unwrap();
        writer.step(FileStep::Write(bytes.clone())).await.unwrap();
        drop(writer);
        assert_eq!(place.numbers().await.unwrap(), [BackupNumber::FIRST]);
        assert!(check(&place, &first, &|_| ()).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn of_two_made_at_the_same_time_one_exists() {
    let (places, _directory) = places();
    for place in places {
        let bytes = Bytes::from_static(b"bytes");
        let [one, other] = ["data/0000000001-a/x", "data/0000000001-b/x"];
        for file in [one, other] {
            write(&place, file, &bytes).await;
        }
        let first = manifest(BackupNumber::FIRST, one, &bytes);
        place.put_manifest(&first).await.unwrap();
        let second = manifest(BackupNumber::FIRST, other, &bytes);
        let refused = place.put_manifest(&second).await.unwrap_err();
        assert!(
            refused.to_string().contains("0000000001.manifest"),
            "{refused}"
        );
        assert_eq!(place.manifest(BackupNumber::FIRST).await.unwrap(), first);
        let unfinished = place.unfinished(&[first]).await.unwrap();
        assert_eq!(unfinished, ["data/0000000001-b"]);
    }
}

#[tokio::test]
async fn what_is_missing_or_damaged_is_named() {
    let place = Place::in_memory();
    let bytes = Bytes::from_static(b"bytes");
    write(&place, "data/0000000001-a/x", &bytes).await;
    for (file, content) in [
        ("data/0000000001-a/x", &b"Bytes"[..]),
        ("data/0000000001-a/x", b"byte"),
        ("data/0000000001-a/x", b"bytes more"),
        ("data/0000000001-a/gone", b"bytes"),
    ] {
        let manifest = manifest(BackupNumber::FIRST, file, content);
        let damaged = check(&place, &manifest, &|_| ()).await.unwrap();
        assert!(
            damaged.len() == 1 && damaged[0].contains(file),
            "{damaged:?}"
        );
    }
    let missing = place.manifest(BackupNumber::new(4)).await.unwrap_err();
    assert!(
        missing.to_string().contains("0000000004.manifest"),
        "{missing}"
    );
    // A manifest under the number of another one.
    write(
        &place,
        "manifests/0000000003.manifest",
        &Bytes::from(manifest(BackupNumber::FIRST, "data/0000000001-a/x", &bytes).encode()),
    )
    .await;
    let refused = place.manifest(BackupNumber::new(3)).await.unwrap_err();
    assert!(
        refused.to_string().contains("that of backup 1"),
        "{refused}"
    );
}

#[test]
fn places_that_cannot_be_reached_are_refused() {
    for (url, expected) in [
        ("s3://bucket", "\"s3\""),
        ("file://here", "absolute"),
        ("", "without a path"),
        ("file:///nowhere/at/all", "no directory"),
    ] {
        let refused = Place::open(url, PlaceUse::Read).err();
        let refused = refused.unwrap_or_else(|| panic!("{url} was opened"));
        assert!(refused.to_string().contains(expected), "{refused}");
        assert!(!matches!(refused, BackupFault::Place { .. }));
    }
}
