//! A copy under random delivery: doubled, reordered, forged, from old reigns.
//!
//! A failing case prints the shortest list of inputs that still fails.

#![expect(
    clippy::unwrap_used,
    reason = "a log that cannot be built fails its test"
)]

use std::time::Duration;

use domicile_core::{
    Awaited, Effect, Input, LeaseNeed, Moment, Partition, PartitionConfig, Recovered, Window,
};
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, OnTimeout, PartitionId,
    RecordHead, RecordKind, RegionId, RequestId, RpoLimit, Segment, SegmentBuilder, Seq,
};
use proptest::prelude::*;

const SEGMENTS: usize = 12;

fn region(number: u16) -> RegionId {
    RegionId::new(number).unwrap()
}

fn partition() -> PartitionId {
    let (keyspace, bucket) = (KeyspaceId::new(1), Bucket::new(0));
    PartitionId {
        keyspace,
        region: region(1),
        bucket,
    }
}

fn segment(counter: u64, first: u64, count: u64, previous: ChainHash, visible: u64) -> Segment {
    let epoch = Epoch {
        counter,
        node: NodeId::new(7).unwrap(),
    };
    let mut builder = SegmentBuilder::new(partition(), epoch, Seq::new(first));
    for seq in first..first + count {
        let head = RecordHead {
            kind: RecordKind::Write,
            level: AckLevel::Async,
            hlc: Hlc::at_ms(seq),
            generation: 0,
            request_id: RequestId::new(seq.into()).unwrap(),
        };
        builder.push(&head, &RecordBody::mark());
    }
    builder.finish(previous, Seq::new(visible))
}

/// The home's log: two reigns, the second from the middle on.
fn log() -> Vec<Segment> {
    let (mut segments, mut previous, mut first) = (vec![], ChainHash::START, 1);
    for index in 0..SEGMENTS as u64 {
        let (counter, count) = (1 + index / 6, 1 + index % 3);
        let next = segment(counter, first, count, previous, first.saturating_sub(2));
        (previous, first) = (next.chain(), first + count);
        segments.push(next);
    }
    segments
}

fn open(ack: AckLevel) -> Partition {
    let config = PartitionConfig {
        partition: partition(),
        regions: vec![region(1), region(2)],
        own_region: region(2),
        home_region: region(1),
        ack,
        on_timeout: OnTimeout::Fail,
        ack_timeout: Duration::from_secs(1),
        max_rpo: RpoLimit::default(),
        window: Window::default(),
        lease: LeaseNeed::Nothing,
        degrades_on_record: false,
        reign: None,
    };
    Partition::copy(config, Recovered::default(), Moment::START).unwrap()
}

#[derive(Debug, Clone)]
enum Op {
    Next {
        later: u64,
    },
    Any {
        index: usize,
    },
    Forged {
        counter: u64,
        first: u64,
        count: u64,
        previous: u64,
    },
    Durable {
        part: u64,
    },
    Watermark {
        counter: u64,
        upto: u64,
    },
    Install {
        index: usize,
    },
    Promise {
        counter: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0_u64..3).prop_map(|later| Op::Next { later }),
        3 => (0..SEGMENTS).prop_map(|index| Op::Any { index }),
        2 => (0_u64..4, 1_u64..30, 1_u64..5, 1_u64..9).prop_map(|forged| {
            let (counter, first, count, previous) = forged;
            Op::Forged { counter, first, count, previous }
        }),
        4 => (0_u64..4).prop_map(|part| Op::Durable { part }),
        3 => (0_u64..4, prop_oneof![9 => 0_u64..30, 1 => Just(u64::MAX)])
            .prop_map(|(counter, upto)| Op::Watermark { counter, upto }),
        1 => (0..SEGMENTS).prop_map(|index| Op::Install { index }),
        1 => (1_u64..4).prop_map(|counter| Op::Promise { counter }),
    ]
}

struct Model {
    copy: Partition,
    ack: AckLevel,
    log: Vec<Segment>,
    stored: usize,
    received: u64,
    durable: u64,
    visible: u64,
    /// The largest watermark heard in any reign.
    heard: u64,
    /// The number of the highest reign promised.
    promised: u64,
}

impl Model {
    /// A home sends a segment, `later` reigns after the one that wrote it.
    fn give(&mut self, segment: &Segment, later: u64) {
        let header = *segment.header();
        let mut reign = header.epoch;
        reign.counter += later;
        let honest = self
            .log
            .get(self.stored)
            .is_some_and(|next| next == segment && reign.counter >= self.promised);
        let effects = self.step(Input::Received {
            header,
            chain: segment.chain(),
            reign,
            awaited: Awaited::default(),
        });
        let stores = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Store { .. }));
        assert_eq!(
            stores, honest,
            "{header:?} after {}: {effects:?}",
            self.received
        );
        let rejects = effects
            .iter()
            .any(|effect| matches!(effect, Effect::Reject { .. }));
        assert_eq!(rejects, !honest);
        if honest {
            self.promised = reign.counter;
        }
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let header = match &input {
            Input::Received { header, .. } => Some(*header),
            _ => None,
        };
        let mut effects = vec![];
        self.copy.step(Moment::START, input, &mut effects);
        for effect in &effects {
            match effect {
                Effect::Store { .. } => {
                    let header = header.unwrap();
                    self.stored += 1;
                    self.received = header.last_seq().get();
                    self.heard = self.heard.max(header.visible_upto.get());
                }
                Effect::SendAck {
                    received_upto,
                    durable_upto,
                    ..
                } => {
                    let told = (received_upto.get(), durable_upto.get());
                    assert_eq!(told, (self.received, self.durable));
                }
                Effect::Visible { upto } => {
                    assert!(upto.get() > self.visible, "visible {upto} again");
                    let is_async = self.ack == AckLevel::Async;
                    let limit = if is_async {
                        self.received
                    } else {
                        self.durable
                    };
                    assert!(upto.get() <= limit, "visible {upto} above {limit}");
                    assert!(
                        is_async || upto.get() <= self.heard,
                        "visible {upto} was never told"
                    );
                    self.visible = upto.get();
                }
                Effect::Reject { .. } | Effect::Event(_) => {}
                other => panic!("not a copy's effect: {other:?}"),
            }
        }
        let status = self.copy.status(Moment::START);
        assert_eq!(status.appended_upto.get(), self.received);
        assert_eq!(status.durable_upto.get(), self.durable);
        assert_eq!(status.visible_upto.get(), self.visible);
        effects
    }

    fn watermark(&mut self, counter: u64, upto: u64) {
        self.heard = self.heard.max(upto);
        let epoch = Epoch {
            counter,
            node: NodeId::new(7).unwrap(),
        };
        self.step(Input::Watermark {
            epoch,
            visible_upto: Seq::new(upto),
        });
    }

    /// A snapshot up to the end of a segment, before or behind what is there.
    fn install(&mut self, index: usize) {
        self.durable(self.received);
        let (header, chain) = (*self.log[index].header(), self.log[index].chain());
        let upto = header.last_seq().get();
        self.stored = index + 1;
        (self.received, self.durable, self.visible) = (upto, upto, upto);
        self.heard = upto;
        self.step(Input::Installed {
            epoch: header.epoch,
            seq: header.last_seq(),
            chain,
            reigns: vec![(header.epoch, header.last_seq())],
        });
    }

    fn promise(&mut self, counter: u64) {
        self.promised = self.promised.max(counter);
        let node = NodeId::new(7).unwrap();
        let epoch = Epoch { counter, node };
        assert!(self.step(Input::Promised { epoch }).is_empty());
    }

    fn durable(&mut self, upto: u64) {
        self.durable = upto;
        self.step(Input::Durable {
            upto: Seq::new(upto),
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// Only the home's own log is stored, in order, once; nothing is shown that was not told.
    #[test]
    fn a_copy_is_a_prefix_of_its_home(
        is_async in any::<bool>(),
        ops in prop::collection::vec(op(), 1..80),
    ) {
        let ack = if is_async { AckLevel::Async } else { AckLevel::SEMI_SYNC };
        let (copy, log) = (open(ack), log());
        let mut model = Model {
            copy, ack, log, stored: 0, received: 0, durable: 0, visible: 0, heard: 0,
            promised: 0,
        };
        for op in ops {
            match op {
                Op::Next { later } if model.stored < SEGMENTS => {
                    let next = model.log[model.stored].clone();
                    model.give(&next, later);
                }
                Op::Next { .. } => {}
                Op::Any { index } => {
                    let any = model.log[index].clone();
                    model.give(&any, 0);
                }
                Op::Forged { counter, first, count, previous } => {
                    let previous = ChainHash::from_bits(previous);
                    model.give(&segment(counter, first, count, previous, 0), 0);
                }
                Op::Durable { part } => {
                    let upto = model.durable + (model.received - model.durable) * part / 3;
                    model.durable(upto);
                }
                Op::Watermark { counter, upto } => model.watermark(counter, upto),
                Op::Install { index } => model.install(index),
                Op::Promise { counter } => model.promise(counter),
            }
        }
        // Whoever reigns last brings all of it, whichever reign wrote it, and then all is shown.
        for index in model.stored..SEGMENTS {
            let next = model.log[index].clone();
            let later = model.promised.saturating_sub(next.header().epoch.counter);
            model.give(&next, later);
        }
        let last = model.received;
        model.durable(last);
        model.watermark(2, last);
        prop_assert_eq!((model.visible, model.stored), (last, SEGMENTS));
    }
}
