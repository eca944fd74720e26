//! The pieces of a backup on the wire.
//!
//! **Owns**: which message is which piece, both ways, and the checksum of what has none of its own.
//! **Does not own**: what a piece means (storage).

use bytes::Bytes;
use domicile_proto::v1::backup_response::Piece;
use domicile_proto::{ChainHash, Name, NodeId, PartitionId, Seq, v1};
use domicile_storage::SnapshotHeader;
use domicile_storage::backup::{BackupEnd, BackupKeyspace, BackupPiece, BackupSubject, KnownEnd};

/// The message of a piece.
pub(crate) fn response_of(piece: BackupPiece) -> v1::BackupResponse {
    let mut crc32 = 0;
    let piece = match piece {
        BackupPiece::Snapshot { header, oldest_ms } => Piece::Snapshot(v1::BackupSnapshot {
            header: header.to_bytes(),
            oldest_ms,
        }),
        BackupPiece::Bytes(bytes) => {
            crc32 = checksum(&bytes);
            Piece::SnapshotBytes(bytes)
        }
        BackupPiece::Empty(partition) => Piece::Empty(partition_bytes(partition)),
        BackupPiece::Segments(bytes) => Piece::Segments(bytes),
        BackupPiece::End(ends) => {
            let ends = ends.iter();
            let ends = ends.map(|it| end_message(it.partition, it.seq, it.chain));
            Piece::End(v1::BackupEnds {
                ends: ends.collect(),
            })
        }
    };
    v1::BackupResponse {
        piece: Some(piece),
        crc32,
    }
}

/// The piece in a message.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn piece_of(response: v1::BackupResponse) -> Result<BackupPiece, String> {
    match response.piece {
        Some(Piece::Snapshot(snapshot)) => {
            let header = SnapshotHeader::from_bytes(&snapshot.header, "backup from the node");
            Ok(BackupPiece::Snapshot {
                header: header.map_err(|error| error.to_string())?,
                oldest_ms: snapshot.oldest_ms,
            })
        }
        Some(Piece::SnapshotBytes(bytes)) if checksum(&bytes) == response.crc32 => {
            Ok(BackupPiece::Bytes(bytes))
        }
        Some(Piece::SnapshotBytes(bytes)) => Err(format!(
            "checksum mismatch of {} bytes from the node: sent {:#010x}, computed {:#010x}",
            bytes.len(),
            response.crc32,
            checksum(&bytes)
        )),
        Some(Piece::Empty(bytes)) => Ok(BackupPiece::Empty(partition_of(&bytes)?)),
        Some(Piece::Segments(bytes)) => Ok(BackupPiece::Segments(bytes)),
        Some(Piece::End(ends)) => {
            let ends = ends.ends.iter().map(|end| {
                let end = end_from_wire(end)?;
                Ok(BackupEnd {
                    partition: end.partition,
                    seq: end.seq,
                    chain: end.chain,
                })
            });
            Ok(BackupPiece::End(ends.collect::<Result<_, String>>()?))
        }
        Some(Piece::Subject(_)) => Err("a second subject".to_owned()),
        None => Err("a piece of a kind unknown to this version".to_owned()),
    }
}

/// Whose backup it is, out of the first message.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn subject_of(response: v1::BackupResponse) -> Result<BackupSubject, String> {
    let Some(Piece::Subject(subject)) = response.piece else {
        return Err("the first piece is not the subject".to_owned());
    };
    let name = |text: String| Name::new(text).map_err(|error| error.to_string());
    let names = |texts: Vec<String>| texts.into_iter().map(name).collect::<Result<_, _>>();
    let keyspaces = subject.keyspaces.into_iter().map(|it| {
        let v1::KeyspaceDescription {
            placement,
            buckets,
            delimiter,
            ack,
            ..
        } = it;
        let policy =
            format!("placement {placement}, {buckets} buckets, delimiter {delimiter:?}, ack {ack}");
        Ok(BackupKeyspace {
            name: name(it.name)?,
            regions: names(it.regions)?,
            policy,
        })
    });
    Ok(BackupSubject {
        created_at_ms: subject.created_at_ms,
        node: NodeId::new(subject.node).map_err(|error| error.to_string())?,
        cluster: name(subject.cluster)?,
        region: name(subject.region)?,
        place_region: name(subject.place_region)?,
        keyspaces: keyspaces.collect::<Result<_, String>>()?,
    })
}

/// The message of an end.
pub(crate) fn end_message(partition: PartitionId, seq: Seq, chain: ChainHash) -> v1::BackupEnd {
    v1::BackupEnd {
        partition: partition_bytes(partition),
        seq: seq.get(),
        chain: chain.bits(),
    }
}

/// The end in a message.
///
/// # Errors
/// A partition that is none.
pub(crate) fn end_from_wire(end: &v1::BackupEnd) -> Result<KnownEnd, String> {
    Ok(KnownEnd {
        partition: partition_of(&end.partition)?,
        seq: Seq::new(end.seq),
        chain: ChainHash::from_bits(end.chain),
    })
}

fn partition_bytes(partition: PartitionId) -> Bytes {
    Bytes::copy_from_slice(&partition.to_bytes())
}

fn partition_of(bytes: &[u8]) -> Result<PartitionId, String> {
    let exact = <[u8; PartitionId::BYTES]>::try_from(bytes);
    let exact = exact.map_err(|_| format!("partition of {} bytes", bytes.len()))?;
    PartitionId::from_bytes(exact).map_err(|error| error.to_string())
}

fn checksum(bytes: &[u8]) -> u32 {
    domicile_storage::backup::checksum(bytes)
}
