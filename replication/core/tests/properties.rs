//! Random inputs, hostile ones included, against a model that counts by hand.
//!
//! A failing case prints the shortest list of inputs that still fails.

#![expect(
    clippy::unwrap_used,
    reason = "a model that cannot be built fails its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::{
    EarlierTries, Effect, Expected, Input, KeyChange, LeaseNeed, Moment, Outcome, Partition,
    PartitionConfig, Precondition, Purpose, Receipt, Recovered, Refusal, Ticket, Window, Write,
};
use domicile_proto::{
    Achieved, AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, OnTimeout, PartitionId,
    RecordKind, RegionId, RequestId, RpoLimit, Seq, Version,
};
use proptest::prelude::*;

const RECORDS_MAX: u32 = 12;

fn region(index: usize) -> RegionId {
    RegionId::new(index as u16 + 1).unwrap()
}

fn epoch(counter: u64) -> Epoch {
    Epoch {
        counter,
        node: NodeId::new(7).unwrap(),
    }
}

#[derive(Debug, Clone)]
enum Op {
    Write {
        id: u128,
        content: u64,
        level: Option<AckLevel>,
        key: u8,
        condition: u8,
        wait_ms: u64,
    },
    Durable {
        part: u64,
    },
    Attach {
        copy: usize,
        received: u64,
        durable: u64,
    },
    Detach {
        copy: usize,
    },
    Ack {
        copy: usize,
        received: u64,
        durable: u64,
        counter: u64,
    },
    Wait {
        ms: u64,
    },
    Watermark {
        upto: u64,
    },
}

fn level() -> impl Strategy<Value = AckLevel> {
    let number = |k| NonZeroU8::new(k).unwrap();
    prop_oneof![
        Just(AckLevel::Async),
        (1_u8..4).prop_map(move |k| AckLevel::SemiSync { regions: number(k) }),
        Just(AckLevel::SYNC),
        (1_u8..4).prop_map(move |k| AckLevel::Sync {
            quorum: Some(number(k))
        }),
    ]
}

/// A place: among the records there can be, or as far off as a peer can say.
fn place() -> impl Strategy<Value = u64> {
    prop_oneof![20 => 0_u64..40, 1 => Just(u64::MAX), 1 => Just(1 << 40)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1_u128..30, 1_u64..20, prop::option::weighted(0.3, level()), 0_u8..4, 0_u8..9,
              0_u64..300)
            .prop_map(|(id, content, level, key, condition, wait_ms)| {
                let content = u64::from(content == 1);
                Op::Write { id, content, level, key, condition, wait_ms }
            }),
        6 => (0_u64..4).prop_map(|part| Op::Durable { part }),
        3 => (0_usize..5, place(), place())
            .prop_map(|(copy, received, durable)| Op::Attach { copy, received, durable }),
        1 => (0_usize..5).prop_map(|copy| Op::Detach { copy }),
        8 => (0_usize..5, place(), place(), 0_u64..9).prop_map(|(copy, received, durable, c)| {
            Op::Ack { copy, received, durable, counter: if c == 0 { 2 } else { 1 } }
        }),
        3 => (0_u64..200).prop_map(|ms| Op::Wait { ms }),
        1 => place().prop_map(|upto| Op::Watermark { upto }),
    ]
}

#[derive(Debug, Clone)]
struct Policy {
    copies: usize,
    ack: AckLevel,
    on_timeout: OnTimeout,
    max_writes: Option<u64>,
    recovered: u64,
    visible: u64,
}

fn policy() -> impl Strategy<Value = Policy> {
    let on_timeout = prop_oneof![
        Just(OnTimeout::Fail),
        Just(OnTimeout::Degrade),
        Just(OnTimeout::Block)
    ];
    let limit = prop::option::weighted(0.3, 2_u64..12);
    (0_usize..4, level(), on_timeout, limit, 0_u64..5, 0_u64..5)
        .prop_filter("a keyspace can reach its level", |(copies, ack, ..)| {
            ack.received_needed(*copies) <= *copies
        })
        .prop_map(
            |(copies, ack, on_timeout, max_writes, recovered, visible)| Policy {
                copies,
                ack,
                on_timeout,
                max_writes,
                recovered,
                visible,
            },
        )
}

#[derive(Debug, Clone, Copy, Default)]
struct CopyModel {
    attached: bool,
    received: u64,
    durable: u64,
    /// What it said last, which may be ahead of the home's own disk.
    claimed: (u64, u64),
}

impl CopyModel {
    fn follow(&mut self, home_durable: u64) {
        let (received, durable) = self.claimed;
        self.received = self.received.max(received.min(home_durable));
        self.durable = self.durable.max(durable.min(home_durable));
    }
}

/// What the test believes, by the simplest means it can.
struct Model {
    partition: Partition,
    policy: Policy,
    now: Moment,
    copies: Vec<CopyModel>,
    appended: u64,
    durable: u64,
    visible: u64,
    /// (begin, end) of degraded stretches.
    degraded: Vec<(u64, Option<u64>)>,
    tickets: u64,
    open: BTreeSet<u64>,
    by_id: BTreeMap<RequestId, u64>,
    newest: BTreeMap<u8, Vec<(u64, KeyChange)>>,
}

impl Model {
    fn new(policy: Policy) -> Self {
        let now = Moment::from_micros(77_000_000);
        let config = PartitionConfig {
            partition: PartitionId {
                keyspace: KeyspaceId::new(1),
                region: region(0),
                bucket: Bucket::new(0),
            },
            regions: (0..=policy.copies).map(region).collect(),
            own_region: region(0),
            home_region: region(0),
            ack: policy.ack,
            on_timeout: policy.on_timeout,
            ack_timeout: Duration::from_millis(100),
            max_rpo: RpoLimit {
                writes: policy.max_writes,
                ..RpoLimit::default()
            },
            window: Window {
                records_max: RECORDS_MAX,
                bytes_max: 1_500,
            },
            lease: LeaseNeed::Nothing,
            degrades_on_record: false,
            reign: None,
        };
        let recovered = Recovered {
            epoch: Some(epoch(1)),
            last_seq: Seq::new(policy.recovered),
            chain: ChainHash::START,
            visible_upto: Seq::new(policy.visible),
            ..Recovered::default()
        };
        let partition = Partition::home(config, recovered, now).unwrap();
        let mut model = Self {
            partition,
            now,
            copies: vec![CopyModel::default(); policy.copies],
            appended: policy.recovered,
            durable: policy.recovered,
            visible: policy.visible.min(policy.recovered),
            degraded: vec![],
            tickets: 0,
            open: BTreeSet::new(),
            by_id: BTreeMap::new(),
            newest: BTreeMap::new(),
            policy,
        };
        assert_eq!(model.partition.next_timeout(), Some(now));
        model.step(Input::Tick);
        model
    }

    fn run(&mut self, op: &Op) {
        match op.clone() {
            Op::Write {
                id,
                content,
                level,
                key,
                condition,
                wait_ms,
            } => {
                self.write(id, content, level, key, condition, wait_ms);
            }
            Op::Durable { part } => {
                let upto = self.durable + (self.appended - self.durable) * part / 3;
                self.durable = self.durable.max(upto);
                let end = self.durable;
                let attached = self.copies.iter_mut().filter(|copy| copy.attached);
                attached.for_each(|copy| copy.follow(end));
                self.step(Input::Durable {
                    upto: Seq::new(upto),
                });
            }
            Op::Attach {
                copy,
                received,
                durable,
            } => {
                self.attach(copy, received, durable);
            }
            Op::Detach { copy } => {
                if let Some(copy) = self.copies.get_mut(copy) {
                    (copy.attached, copy.received) = (false, copy.durable);
                    copy.claimed = (copy.durable, copy.durable);
                }
                self.step(Input::CopyDetached {
                    region: region(copy + 1),
                });
            }
            Op::Ack {
                copy,
                received,
                durable,
                counter,
            } => {
                self.ack(copy, received, durable, counter);
            }
            Op::Wait { ms } => {
                self.now = self.now.plus(Duration::from_millis(ms));
                self.step(Input::Tick);
                let next = self.partition.next_timeout();
                assert!(
                    next.is_none_or(|next| next > self.now),
                    "{next:?} is due again"
                );
            }
            Op::Watermark { upto } => {
                self.step(Input::Watermark {
                    epoch: epoch(1),
                    visible_upto: Seq::new(upto),
                });
            }
        }
    }

    fn attach(&mut self, copy: usize, received: u64, durable: u64) {
        let upto = received.max(durable);
        let is_prefix = upto <= self.appended;
        let end = self.durable;
        if let Some(copy) = self.copies.get_mut(copy) {
            *copy = CopyModel {
                attached: is_prefix,
                ..CopyModel::default()
            };
            if is_prefix {
                (copy.received, copy.durable) = (upto.min(end), durable.min(end));
                copy.claimed = (upto, durable);
            }
        }
        self.step(Input::CopyAttached {
            region: region(copy + 1),
            received_upto: Seq::new(received),
            durable_upto: Seq::new(durable),
            epoch: Some(epoch(1)),
            chain: ChainHash::START,
            own_chain: Some(ChainHash::START),
            log_start: Seq::FIRST,
        });
    }

    fn ack(&mut self, copy: usize, received: u64, durable: u64, counter: u64) {
        let end = self.durable;
        let is_possible = received.max(durable) <= self.appended;
        let limit = if is_possible { self.appended } else { end };
        if let Some(copy) = self.copies.get_mut(copy).filter(|copy| copy.attached)
            && counter == 1
        {
            copy.claimed.0 = copy.claimed.0.max(received.max(durable).min(limit));
            copy.claimed.1 = copy.claimed.1.max(durable.min(limit));
            copy.follow(end);
        }
        self.step(Input::Ack {
            region: region(copy + 1),
            epoch: epoch(counter),
            received_upto: Seq::new(received),
            durable_upto: Seq::new(durable),
        });
    }

    /// The version of a key among all changes up to `upto`.
    fn version_of(&self, key: u8, upto: u64) -> Option<Version> {
        let changes = self.newest.get(&key)?;
        let (seq, change) = changes.iter().rev().find(|(seq, _)| *seq <= upto)?;
        (*change == KeyChange::Put).then_some(Version {
            generation: 0,
            epoch: epoch(1),
            seq: Seq::new(*seq),
        })
    }

    fn check_outcome(&self, request_id: RequestId) {
        let outcome = self.partition.outcome(request_id);
        match self.by_id.get(&request_id) {
            None => assert_eq!(outcome, Outcome::Unknown),
            Some(seq) if *seq <= self.visible => assert!(matches!(outcome, Outcome::Known(_))),
            Some(_) => assert!(matches!(outcome, Outcome::Pending(_)), "{outcome:?}"),
        }
    }

    fn write(
        &mut self,
        id: u128,
        content: u64,
        level: Option<AckLevel>,
        key: u8,
        condition: u8,
        wait_ms: u64,
    ) {
        self.tickets += 1;
        self.open.insert(self.tickets);
        let request_id = RequestId::new(id).unwrap();
        let was_known = self.by_id.get(&request_id).copied();
        let change = if condition.is_multiple_of(2) {
            KeyChange::Put
        } else {
            KeyChange::Delete
        };
        let observed = self.version_of(key, self.visible);
        let current = self.version_of(key, self.appended);
        let expected = match condition {
            0 => Some(Expected::Absent),
            1 => Some(Expected::Present),
            2 => observed.map(Expected::Version),
            3 => current.map(Expected::Version),
            _ => None,
        };
        let key_bytes = Bytes::from(vec![key]);
        let conditions = expected.map(|expected| Precondition {
            key: key_bytes.clone(),
            expected,
            observed,
        });
        let before = self.appended;
        let effects = self.step(Input::Write(Write {
            ticket: Ticket::new(self.tickets),
            purpose: Purpose::Request,
            request_id,
            fingerprint: content,
            bytes: 100,
            keys: vec![(key_bytes, change)],
            preconditions: conditions.into_iter().collect(),
            level,
            hlc: Hlc::at_ms(self.now.micros() / 1_000),
            deadline: self.now.plus(Duration::from_millis(wait_ms)),
            earlier_tries: EarlierTries::Remembered,
        }));
        let seq = self.appended;
        if seq > before {
            assert_eq!(was_known, None, "{request_id} was appended twice");
            assert!(
                expected.is_none_or(|expected| expected.holds(current)),
                "{expected:?}"
            );
            assert_eq!(effects.len(), 1, "answered at once: {effects:?}");
            self.by_id.insert(request_id, seq);
            self.newest.entry(key).or_default().push((seq, change));
        }
        if let Some(Effect::Reply {
            result: Err(Refusal::VersionMismatch { .. }),
            ..
        }) = effects.first()
        {
            assert!(
                expected.is_some_and(|expected| !expected.holds(current)),
                "{expected:?}"
            );
        }
        self.check_outcome(request_id);
    }

    fn step(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = vec![];
        self.partition.step(self.now, input, &mut effects);
        for effect in &effects {
            self.observe(effect);
        }
        let status = self.partition.status(self.now);
        assert_eq!(status.appended_upto.get(), self.appended);
        assert_eq!(status.durable_upto.get(), self.durable);
        assert_eq!(status.visible_upto.get(), self.visible);
        assert!(self.visible <= self.durable && self.durable <= self.appended);
        let marks = 2 * self.degraded.len() as u64;
        let in_flight = self.appended - self.visible.max(self.policy.recovered);
        assert!(
            in_flight <= u64::from(RECORDS_MAX) + marks,
            "{in_flight} in flight"
        );
        for (status, model) in status.copies.iter().zip(&self.copies) {
            let shown = (status.received_upto.get(), status.durable_upto.get());
            assert_eq!(
                shown,
                (model.received, model.durable),
                "{:?}",
                status.region
            );
            assert_eq!(
                status.potential.writes,
                self.visible.saturating_sub(model.durable)
            );
        }
        let is_recovering = self.visible < self.policy.recovered;
        let poisoned = status.poisoned;
        assert_eq!(
            self.partition.read_gate(self.now).is_err(),
            is_recovering || poisoned
        );
        // Nothing of the keyspace's level is left unseen.
        assert!(poisoned || self.visible >= self.met(self.policy.ack));
        effects
    }

    fn observe(&mut self, effect: &Effect) {
        match effect {
            Effect::Append { seq, .. } => {
                self.appended += 1;
                assert_eq!(seq.get(), self.appended);
            }
            Effect::AppendMark { seq, head, .. } => {
                self.appended += 1;
                assert_eq!(seq.get(), self.appended);
                match head.kind {
                    RecordKind::DegradeBegin => self.degraded.push((seq.get(), None)),
                    _ => self.degraded.last_mut().unwrap().1 = Some(seq.get()),
                }
            }
            Effect::Ship { upto, .. } => assert_eq!(upto.get(), self.durable),
            Effect::Visible { upto } => {
                assert!(upto.get() > self.visible, "visible {upto} again");
                let met = self.met(self.policy.ack);
                let limit = if self.is_degraded() {
                    self.durable
                } else {
                    met
                };
                assert!(
                    upto.get() <= limit,
                    "visible {upto}, met {met}, durable {}",
                    self.durable
                );
                self.visible = upto.get();
            }
            Effect::Reply { ticket, result } => {
                assert!(self.open.remove(&ticket.get()), "{ticket:?} answered twice");
                match result {
                    Ok(receipt) => self.check_receipt(receipt),
                    Err(Refusal::Indeterminate {
                        position, asked, ..
                    }) => {
                        let met = self.met(*asked);
                        assert!(
                            met < position.seq.get(),
                            "{position} was met at {asked}: {met}"
                        );
                    }
                    Err(_) => {}
                }
            }
            Effect::Event(_) => {}
            Effect::Store { .. } | Effect::Reject { .. } | Effect::SendAck { .. } => {
                panic!("not a home's effect: {effect:?}");
            }
        }
    }

    fn check_receipt(&self, receipt: &Receipt) {
        let seq = receipt.position.seq.get();
        assert!(
            seq <= self.visible,
            "{seq} acknowledged before it is visible"
        );
        let count = |holds: &dyn Fn(&CopyModel) -> bool| {
            self.copies.iter().filter(|copy| holds(copy)).count() as u8
        };
        let achieved = Achieved {
            received: count(&|copy| copy.received >= seq),
            durable: count(&|copy| copy.durable >= seq),
            copies: self.copies.len() as u8,
        };
        assert_eq!(receipt.achieved, achieved);
        assert!(
            achieved.meets(receipt.asked) || receipt.degraded,
            "{receipt:?}"
        );
        assert!(receipt.durable_in.contains(0), "home is missing");
        assert_eq!(
            receipt.durable_in.count(),
            usize::from(achieved.durable) + 1
        );
    }

    fn is_degraded(&self) -> bool {
        self.degraded
            .last()
            .is_some_and(|(began, end)| *began <= self.durable && end.is_none())
    }

    /// The last record that a level holds for, by counting record by record.
    fn met(&self, level: AckLevel) -> u64 {
        let copies = self.copies.len();
        let holds = |seq: &u64| {
            let received = self
                .copies
                .iter()
                .filter(|copy| copy.received >= *seq)
                .count();
            let durable = self
                .copies
                .iter()
                .filter(|copy| copy.durable >= *seq)
                .count();
            received >= level.received_needed(copies) && durable >= level.durable_needed(copies)
        };
        (1..=self.durable).take_while(holds).last().unwrap_or(0)
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 1_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    /// Marks only grow, what is acknowledged is met or says so, one reply for each ticket.
    #[test]
    fn a_home_keeps_its_promises(
        policy in policy(),
        ops in prop::collection::vec(op(), 1..120),
        end_ms in prop::option::of(Just(10_000_u64)),
    ) {
        let mut model = Model::new(policy);
        ops.iter().for_each(|op| model.run(op));
        // However it ends, by time or by a failing disk, nobody is left without an answer.
        match end_ms {
            Some(ms) => {
                model.run(&Op::Wait { ms });
                model.run(&Op::Durable { part: 3 });
                model.run(&Op::Wait { ms });
            }
            None => { model.step(Input::Poisoned); }
        }
        prop_assert!(model.open.is_empty(), "unanswered: {:?}", model.open);
    }

    /// After the faults stop, every copy back and caught up, everything is visible and nothing
    /// is degraded, whatever happened before.
    #[test]
    fn a_home_heals(policy in policy(), ops in prop::collection::vec(op(), 1..80)) {
        let mut model = Model::new(policy);
        ops.iter().for_each(|op| model.run(op));
        for _ in 0..3 {
            model.run(&Op::Durable { part: 3 });
            for copy in 0..model.copies.len() {
                let end = model.durable;
                model.run(&Op::Attach { copy, received: end, durable: end });
            }
            model.run(&Op::Wait { ms: 20 });
        }
        prop_assert_eq!(model.visible, model.appended);
        let status = model.partition.status(model.now);
        prop_assert!(status.degraded.is_none_or(|range| range.ended.is_some()));
        prop_assert_eq!((status.in_flight_bytes, status.waiters), (0, 0));
        model.write(1_000, 0, None, 9, 9, 50);
        prop_assert!(model.by_id.contains_key(&RequestId::new(1_000).unwrap()));
    }
}
