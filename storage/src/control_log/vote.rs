//! The file of the vote, replaced whole: there is never a moment at which it is torn.
//!
//! **Owns**: its bytes, reading and replacing it.
//! **Does not own**: who gets a vote (consensus).
//!
//! ```text
//! envelope of magic "DCLV" around: voted u8 | committed u8 | zeros 6 | term u64 | candidate u64
//! ```
//! Little-endian. It is there from the moment on at which the control log is made, with a vote for
//! nobody: a missing one is a lost one.

use std::path::Path;

use bytes::{Buf, BufMut};
use domicile_proto::NodeId;

use super::entry::{Term, Vote};
use crate::disk::{self, Disk, OpenMode};
use crate::envelope::{ENVELOPE_BYTES, Envelope};
use crate::error::StoreError;
use crate::planted::{Bug, is_planted};

pub(super) const VOTE_FILE: &str = "vote";
const UNFINISHED_FILE: &str = "vote.new";
const ENVELOPE: Envelope = Envelope {
    what: "vote",
    magic: *b"DCLV",
    version: 1,
};
/// Bytes inside of the envelope: the layout above.
const VOTE_BYTES: usize = 24;

/// The vote in `dir`, which is `node`'s.
///
/// # Errors
/// [`StoreError::ControlLogMissing`] without a file; [`StoreError::Corrupt`] and its kin.
pub(super) fn read(disk: &dyn Disk, dir: &Path, node: NodeId) -> Result<Option<Vote>, StoreError> {
    let path = dir.join(VOTE_FILE);
    let bytes_max = (ENVELOPE_BYTES + VOTE_BYTES + 1) as u64;
    let bytes = disk::read_if_there(disk, &path, bytes_max);
    let bytes = bytes.map_err(|error| StoreError::io("read", &path, error))?;
    match bytes {
        Some(bytes) => decode(&bytes, node, &path),
        None => Err(StoreError::ControlLogMissing { path, node }),
    }
}

/// Replaces the vote: it is durable when this returns.
///
/// # Errors
/// What the operating system says; either vote may then be durable.
pub(super) fn write(
    disk: &dyn Disk,
    dir: &Path,
    node: NodeId,
    vote: Option<Vote>,
) -> Result<(), StoreError> {
    let bytes = encode(node, vote);
    let written = if is_planted(Bug::SkipVoteSync) {
        write_without_sync(disk, dir, &bytes)
    } else {
        disk::replace(disk, dir, VOTE_FILE, UNFINISHED_FILE, &bytes)
    };
    written.map_err(|error| StoreError::io("write", &dir.join(VOTE_FILE), error))
}

/// The planted bug.
fn write_without_sync(disk: &dyn Disk, dir: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let unfinished = dir.join(UNFINISHED_FILE);
    disk::remove_if_there(disk, &unfinished)?;
    disk.open(&unfinished, OpenMode::CreateNew)?
        .write_at(bytes, 0)?;
    disk.rename(&unfinished, &dir.join(VOTE_FILE))
}

fn encode(node: NodeId, vote: Option<Vote>) -> Vec<u8> {
    let mut content = Vec::with_capacity(VOTE_BYTES);
    content.put_u8(u8::from(vote.is_some()));
    content.put_u8(u8::from(vote.is_some_and(|vote| vote.committed)));
    content.put_bytes(0, 6);
    content.put_u64_le(vote.map_or(0, |vote| vote.term.get()));
    let candidate = vote.and_then(|vote| vote.candidate);
    content.put_u64_le(candidate.map_or(0, NodeId::get));
    ENVELOPE.seal(node, &content)
}

fn decode(bytes: &[u8], node: NodeId, path: &Path) -> Result<Option<Vote>, StoreError> {
    let mut content = ENVELOPE.open(bytes, node, path)?;
    if content.len() != VOTE_BYTES {
        let problem = format!("vote of {} bytes, {VOTE_BYTES} expected", content.len());
        return Err(StoreError::corrupt(path, 0, problem));
    }
    let (voted, committed) = (content.get_u8(), content.get_u8());
    if voted > 1 || committed > voted {
        let problem = format!("vote with marks {voted} and {committed}");
        return Err(StoreError::corrupt(path, 0, problem));
    }
    content.advance(6);
    let vote = Vote {
        term: Term::new(content.get_u64_le()),
        candidate: NodeId::new(content.get_u64_le()).ok(),
        committed: committed == 1,
    };
    Ok((voted == 1).then_some(vote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_those_that_docs_control_says() {
        let node = NodeId::new(7).unwrap();
        let vote = Some(Vote {
            term: Term::new(3),
            candidate: NodeId::new(9).ok(),
            committed: true,
        });
        let bytes = encode(node, vote);
        let golden = b"DCLV\x01\0\0\0\x07\0\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\
                       \x03\0\0\0\0\0\0\0\x09\0\0\0\0\0\0\0";
        assert_eq!(bytes[..40], golden[..]);
        let path = Path::new("/vote");
        assert_eq!(decode(&bytes, node, path).unwrap(), vote);
        assert_eq!(decode(&encode(node, None), node, path).unwrap(), None);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, node, path).is_err(), "bit {bit}");
        }
        let foreign = decode(&bytes, NodeId::new(8).unwrap(), path).unwrap_err();
        assert!(
            matches!(foreign, StoreError::ForeignNode { .. }),
            "{foreign}"
        );
    }
}
