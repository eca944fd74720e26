//! A peer that sends damaged, foreign, stale, doubled or missing segments.

use std::time::Duration;

use bytes::Bytes;
use domicile::{Consistency, RegionId};
use domicile_proto::record::RecordBody;
use domicile_proto::v1::peer_client::PeerClient;
use domicile_proto::v1::{self, copy_frame, ship_frame};
use domicile_proto::{
    AckLevel, ChainHash, Epoch, Hlc, NodeId, Operation, PartitionId, RecordHead, RecordKind,
    RequestId, Segment, SegmentBuilder, Seq,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::rig::{Cluster, keyspaces, region};

/// A stream into `us` from somebody who claims to be `eu`.
struct Impostor {
    frames: mpsc::Sender<v1::ShipFrame>,
    answers: Streaming<v1::CopyFrame>,
    partition: PartitionId,
    marks: Vec<v1::CopyMark>,
}

fn segment(
    partition: PartitionId,
    epoch: Epoch,
    first: u64,
    count: u64,
    previous: ChainHash,
) -> Segment {
    let mut builder = SegmentBuilder::new(partition, epoch, Seq::new(first));
    for seq in first..first + count {
        let operation = Operation::Put {
            key: Bytes::from(format!("forged/{seq}")),
            value: Bytes::from_static(b"forged"),
            expiry: None,
        };
        let head = RecordHead {
            kind: RecordKind::Write,
            level: AckLevel::Async,
            hlc: Hlc::at_ms(1_700_000_000_000),
            generation: 0,
            request_id: RequestId::new(u128::from(seq) + 1).unwrap(),
        };
        builder.push(&head, &RecordBody::encode(&[operation]).unwrap());
    }
    builder.finish(previous, Seq::NONE)
}

fn epoch(counter: u64) -> Epoch {
    Epoch {
        counter,
        node: NodeId::new(77).unwrap(),
    }
}

impl Impostor {
    async fn connect(cluster: &Cluster) -> Self {
        let us = cluster.node("us");
        let address = format!("http://{}", us.peer_address().unwrap());
        let mut client = PeerClient::connect(address).await.unwrap();
        let (frames, receiver) = mpsc::channel(16);
        let digest = us.policy_digest();
        let hello = v1::ShipHello {
            protocol: 3,
            cluster: "domicile".to_owned(),
            region: "eu".to_owned(),
            node: 77,
            policy_digest: digest,
        };
        let frame = ship_frame::Frame::Hello(hello);
        frames
            .send(v1::ShipFrame { frame: Some(frame) })
            .await
            .unwrap();
        let mut answers = client
            .ship(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let first = answers.message().await.unwrap().unwrap().frame;
        let Some(copy_frame::Frame::Hello(hello)) = first else {
            panic!("{first:?}")
        };
        let partition = us.policy("fast").unwrap().partition_of(b"forged/1");
        Self {
            frames,
            answers,
            partition,
            marks: hello.marks,
        }
    }

    async fn send(&self, bytes: Bytes) {
        let plain_len = bytes.len() as u32;
        let frame = ship_frame::Frame::Segments(v1::Segments {
            bytes,
            compression: 0,
            plain_len,
            older: Vec::new(),
        });
        self.frames
            .send(v1::ShipFrame { frame: Some(frame) })
            .await
            .unwrap();
    }

    /// The next answer of a kind that matters; `Err` if the stream was ended.
    async fn answer(&mut self) -> Result<copy_frame::Frame, tonic::Status> {
        let answer = tokio::time::timeout(crate::rig::PATIENCE, self.answers.message());
        let frame = answer.await.expect("no answer in time")?;
        Ok(frame
            .expect("the stream was closed without a reason")
            .frame
            .unwrap())
    }

    async fn acked(&mut self, durable_upto: u64) {
        loop {
            let answer = self.answer().await.unwrap();
            let copy_frame::Frame::Acks(acks) = answer else {
                panic!("{answer:?}")
            };
            if acks
                .marks
                .iter()
                .any(|mark| mark.durable_upto >= durable_upto)
            {
                return;
            }
        }
    }

    async fn rejected(&mut self) -> v1::Rejection {
        loop {
            match self.answer().await.unwrap() {
                copy_frame::Frame::Rejection(rejection) => return rejection,
                copy_frame::Frame::Acks(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

/// What is done to the bytes of a good segment.
type Damage = Box<dyn Fn(Vec<u8>) -> Vec<u8>>;

async fn cluster_without_eu() -> Cluster {
    let mut cluster = Cluster::start(Duration::from_millis(2), keyspaces()).await;
    cluster.close("eu").await;
    cluster
}

async fn value_at_us(cluster: &Cluster, key: &str) -> Option<Bytes> {
    let fast = cluster.node("us").keyspace("fast").unwrap();
    fast.get(key)
        .consistency(Consistency::Local)
        .await
        .unwrap()
        .map(|entry| entry.value)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gaps_duplicates_stale_epochs_and_foreign_chains_are_refused() {
    let cluster = cluster_without_eu().await;
    let mut peer = Impostor::connect(&cluster).await;
    assert!(!peer.marks.is_empty());
    let partition = peer.partition;
    let first = segment(partition, epoch(2), 1, 3, ChainHash::START);
    peer.send(first.bytes().clone()).await;
    peer.acked(3).await;
    assert_eq!(
        value_at_us(&cluster, "forged/1").await.as_deref(),
        Some(&b"forged"[..])
    );

    peer.send(
        segment(partition, epoch(2), 7, 1, first.chain())
            .bytes()
            .clone(),
    )
    .await;
    let rejection = peer.rejected().await;
    assert_eq!(
        (rejection.cause.as_str(), rejection.expected_seq),
        ("GAP", 4)
    );

    peer.send(first.bytes().clone()).await;
    peer.acked(3).await;

    peer.send(
        segment(partition, epoch(1), 4, 1, first.chain())
            .bytes()
            .clone(),
    )
    .await;
    assert_eq!(peer.rejected().await.cause, "STALE_EPOCH");

    peer.send(
        segment(partition, epoch(2), 4, 1, ChainHash::from_bits(9))
            .bytes()
            .clone(),
    )
    .await;
    assert_eq!(peer.rejected().await.cause, "CHAIN_MISMATCH");

    // None of it has harmed what may follow.
    peer.send(
        segment(partition, epoch(2), 4, 1, first.chain())
            .bytes()
            .clone(),
    )
    .await;
    peer.acked(4).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_end_the_stream_and_nothing_is_taken() {
    let cluster = cluster_without_eu().await;
    let good = |peer: &Impostor| segment(peer.partition, epoch(2), 1, 1, ChainHash::START);
    let mut damages: Vec<Damage> = Vec::new();
    damages.push(Box::new(|mut bytes| {
        bytes[100] ^= 1;
        bytes
    }));
    damages.push(Box::new(|mut bytes| {
        bytes[0] ^= 1;
        bytes
    }));
    damages.push(Box::new(|mut bytes| {
        bytes.truncate(90);
        bytes
    }));
    damages.push(Box::new(|_| b"not a segment at all".to_vec()));
    for damage in damages {
        let mut peer = Impostor::connect(&cluster).await;
        let bytes = damage(good(&peer).bytes().to_vec());
        peer.send(Bytes::from(bytes)).await;
        let status = peer.answer().await.expect_err("damaged bytes were taken");
        assert_eq!(status.code(), tonic::Code::DataLoss, "{status:?}");
    }
    assert_eq!(value_at_us(&cluster, "forged/1").await, None);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_of_somebody_else_is_refused() {
    let cluster = cluster_without_eu().await;
    let mut peer = Impostor::connect(&cluster).await;
    let foreign: RegionId = region("ap");
    let partition = PartitionId {
        region: foreign,
        ..peer.partition
    };
    peer.send(
        segment(partition, epoch(2), 1, 1, ChainHash::START)
            .bytes()
            .clone(),
    )
    .await;
    assert_eq!(peer.rejected().await.cause, "RESIDENCY");
    cluster.stop().await;
}

/// Regression: acks and wake-ups meant for the newer stream went to the older one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_stream_replaces_the_older_one() {
    let cluster = cluster_without_eu().await;
    let mut older = Impostor::connect(&cluster).await;
    let mut newer = Impostor::connect(&cluster).await;
    let ended = older.answer().await.expect_err("two streams of one home");
    assert_eq!(ended.code(), tonic::Code::Aborted, "{ended}");
    let first = segment(newer.partition, epoch(2), 1, 3, ChainHash::START);
    newer.send(first.bytes().clone()).await;
    newer.acked(3).await;
    cluster.stop().await;
}
