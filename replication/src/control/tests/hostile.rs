//! Bytes that nobody vouches for: an error each, never a panic, and golden ones that stay.

use bytes::Bytes;
use domicile_proto::v1::control_request::Request;
use domicile_proto::v1::{
    ControlAppend, ControlEntry, ControlEntryId, ControlRequest, ControlSnapshotChunk, ControlVote,
};
use prost::Message;

use super::super::raft::{Entry, LogId, Payload, Vote};
use super::super::wire::{
    decode_head, decode_reply, decode_request, put_append, put_payload, take_append, take_chunk,
    take_payload,
};
use super::super::{COMMAND_BYTES_MAX, ControlError, MESSAGE_BYTES_MAX};
use super::rig::{Cluster, PATIENCE};
use crate::fuzz_tests::attack;

fn id(term: u64, node: u64, index: u64) -> LogId {
    LogId::new(openraft::CommittedLeaderId::new(term, node), index)
}

fn append() -> openraft::raft::AppendEntriesRequest<super::super::raft::TypeConfig> {
    let command = Payload::Normal(Bytes::from_static(b"move"));
    let members = [(7_u64, super::super::member::Seat::default())];
    let members =
        openraft::Membership::new(vec![[7].into()], std::collections::BTreeMap::from(members));
    let payloads = [Payload::Blank, command, Payload::Membership(members)];
    let entries = payloads.into_iter().zip(3..).map(|(payload, index)| Entry {
        log_id: id(2, 7, index),
        payload,
    });
    openraft::raft::AppendEntriesRequest {
        vote: Vote::new_committed(2, 7),
        prev_log_id: Some(id(1, 9, 2)),
        entries: entries.collect(),
        leader_commit: Some(id(1, 9, 1)),
    }
}

fn request(request: Request) -> Vec<u8> {
    let request = Some(request);
    ControlRequest {
        from: 7,
        to: 9,
        request,
    }
    .encode_to_vec()
}

#[test]
fn the_bytes_of_entries_and_messages_are_pinned() {
    assert_eq!(put_payload(&Payload::Blank), b"\x0a\x00"[..]);
    let command = Payload::Normal(Bytes::from_static(b"move"));
    assert_eq!(put_payload(&command), b"\x12\x04move"[..]);
    let Payload::Membership(members) = append().entries[2].payload.clone() else {
        panic!("members");
    };
    let golden = b"\x1a\x17\x0a\x0a\x0a\x08\x07\0\0\0\0\0\0\0\x12\x09\x09\x07\0\0\0\0\0\0\0";
    assert_eq!(put_payload(&Payload::Membership(members)), golden[..]);
    let mut small = append();
    small.entries.truncate(1);
    let bytes = request(Request::Append(put_append(&small)));
    let golden = b"\x09\x07\0\0\0\0\0\0\0\x11\x09\0\0\0\0\0\0\0\x1a\x42\
        \x0a\x0d\x08\x02\x11\x07\0\0\0\0\0\0\0\x18\x01\
        \x12\x0d\x08\x01\x11\x09\0\0\0\0\0\0\0\x18\x02\
        \x1a\x13\x0a\x0d\x08\x02\x11\x07\0\0\0\0\0\0\0\x18\x03\x12\x02\x0a\0\
        \x22\x0d\x08\x01\x11\x09\0\0\0\0\0\0\0\x18\x01";
    assert_eq!(bytes, golden[..]);
    let back = take_append(&put_append(&append())).unwrap();
    assert_eq!(back.entries, append().entries);
    assert_eq!(back.vote, append().vote);
}

#[test]
fn tampered_bytes_are_refused_or_read_without_a_panic() {
    let valid = [request(Request::Append(put_append(&append())))];
    attack(&valid, &|bytes| {
        let Ok(ControlRequest {
            request: Some(Request::Append(append)),
            ..
        }) = decode_request(bytes)
        else {
            return;
        };
        if let Ok(read) = take_append(&append) {
            let mut index = read.prev_log_id.map(|id| id.index);
            for entry in &read.entries {
                assert_eq!(entry.log_id.index, index.map_or(0, |index| index + 1));
                index = Some(entry.log_id.index);
            }
        }
    });
    let valid = [put_payload(&append().entries[2].payload).to_vec()];
    attack(&valid, &|bytes| {
        let _ = take_payload(&Bytes::copy_from_slice(bytes));
        let _ = decode_head(bytes);
        let _ = decode_reply(bytes);
    });
}

#[test]
fn what_would_make_openraft_panic_is_malformed() {
    let good = put_append(&append());
    let refuse = |change: &dyn Fn(&mut ControlAppend)| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = take_append(&bad).unwrap_err();
        assert!(matches!(error, ControlError::Malformed { .. }), "{error}");
    };
    let entry_id = |term, index| {
        Some(ControlEntryId {
            term,
            leader: 7,
            index,
        })
    };
    refuse(&|bad| bad.vote = None);
    refuse(&|bad| {
        bad.vote = Some(ControlVote {
            term: 2,
            candidate: 0,
            committed: true,
        })
    });
    refuse(&|bad| {
        bad.vote = Some(ControlVote {
            term: 2,
            candidate: 7,
            committed: false,
        })
    });
    refuse(&|bad| bad.previous = None);
    refuse(&|bad| bad.entries[1].id = entry_id(2, 9));
    refuse(&|bad| bad.entries[1].id = entry_id(1, 4));
    refuse(&|bad| bad.entries[1].id = entry_id(3, 4));
    refuse(&|bad| bad.entries[0].payload = Bytes::from_static(b"\xff"));
    refuse(&|bad| bad.entries[0] = ControlEntry::default());
    refuse(&|bad| bad.committed = entry_id(1, u64::MAX));
    let chunk = ControlSnapshotChunk {
        offset: u64::MAX - 1,
        data: Bytes::from_static(b"xyz"),
        ..ControlSnapshotChunk::default()
    };
    let error = take_chunk(&chunk).unwrap_err();
    assert!(matches!(error, ControlError::TooLarge { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_refuses_what_is_not_for_it_and_what_is_too_large() {
    let mut cluster = Cluster::founded(1).await;
    let node = cluster.node(0);
    for bytes in [
        &b""[..],
        b"\xff\xff",
        &request(Request::Append(ControlAppend::default())),
    ] {
        let answered = node.answer(Bytes::copy_from_slice(bytes)).await;
        let is_refused =
            answered.is_err() || decode_reply(&answered.unwrap()).unwrap().reply.is_some();
        assert!(is_refused);
    }
    let large = Bytes::from(vec![0; MESSAGE_BYTES_MAX + 1]);
    let error = node.answer(large).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "control request too large: 4194305 bytes, limit 4194304"
    );
    let large = Bytes::from(vec![1; COMMAND_BYTES_MAX + 1]);
    let error = node.propose(large, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ControlError::TooLarge { .. }), "{error}");
    let most = Bytes::from(vec![1; COMMAND_BYTES_MAX]);
    node.propose(most, PATIENCE).await.unwrap();
    cluster.close().await;
}
