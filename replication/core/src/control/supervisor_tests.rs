//! Tests of the leader's watch: when a home is given up, who succeeds it, and what it waits for.

use std::time::Duration;

use domicile_proto::{
    AckLevel, BufferLimit, Epoch, Failover, Keyspace, Name, NodeId, PartitionId, RegionId, Seq,
};

use super::*;
use crate::moment::Moment;

const RTT: Duration = Duration::from_millis(80);

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

/// A leader over three regions with nodes 11, 12, 13, and what it does.
struct Lead {
    map: ControlMap,
    supervisor: Supervisor,
    times: ControlTimes,
    now: Moment,
    asked: Vec<(NodeId, PartitionId, Epoch)>,
    applied: Vec<Command>,
}

impl Lead {
    fn new(keyspace: Keyspace) -> (Self, PartitionId) {
        let mut map = ControlMap::default();
        for id in 1..=3_u16 {
            let region = RegionId::new(id).unwrap();
            let name = Name::new(format!("r{id}")).unwrap();
            let is_witness = false;
            map.apply(&Command::AddRegion {
                region,
                name,
                is_witness,
                peer_address: None,
                is_return: false,
            })
            .unwrap();
            let node = node(10 + u64::from(id));
            map.apply(&Command::AddNode { node, region }).unwrap();
        }
        let partition = keyspace.partitions()[0];
        map.apply(&Command::CreateKeyspace(Box::new(keyspace)))
            .unwrap();
        let (now, times) = (
            Moment::from_micros(1),
            ControlTimes::of(RTT, Haste::Default),
        );
        let lead = Self {
            map,
            supervisor: Supervisor::new(times, now),
            times,
            now,
            asked: Vec::new(),
            applied: Vec::new(),
        };
        (lead, partition)
    }

    /// Runs for a while with these nodes alive; what is proposed is applied.
    fn run(&mut self, wait: Duration, alive: &[u64]) {
        let end = self.now.plus(wait);
        let mut asks = self.now;
        while self.now < end {
            if self.now >= asks {
                for id in alive {
                    self.renew(*id);
                }
                asks = self.now.plus(self.times.ask_every);
            }
            self.step(SupervisorInput::Tick);
            self.now = self.now.plus(Duration::from_millis(10));
        }
    }

    fn renew(&mut self, id: u64) {
        let (node, heard) = (node(id), self.now);
        let incarnation = 1;
        self.step(SupervisorInput::Heard { node, incarnation });
        let ask = 1;
        self.step(SupervisorInput::Grant { node, ask, heard });
    }

    fn step(&mut self, input: SupervisorInput) {
        let mut effects = Vec::new();
        let wall_ms = 1_000_000 + self.now.micros() / 1000;
        self.supervisor
            .step(self.now, wall_ms, &self.map, input, &mut effects);
        for effect in effects {
            match effect {
                SupervisorEffect::Propose(commands) => {
                    for command in commands {
                        self.map.apply(&command).unwrap();
                        self.applied.push(command);
                    }
                }
                SupervisorEffect::AskPromise {
                    node,
                    partition,
                    floor,
                } => self.asked.push((node, partition, floor)),
                SupervisorEffect::Grant { .. } => {}
            }
        }
    }

    /// A node answers what it was last asked for a partition.
    fn promise(&mut self, id: u64, partition: PartitionId, epoch: Option<Epoch>, upto: u64) {
        let node = node(id);
        let asked = self.asked.iter().rev();
        let mut asked = asked.filter(|(who, what, _)| *who == node && *what == partition);
        let floor = asked.next().expect("it was asked").2;
        let end = PromisedEnd {
            epoch,
            upto: Seq::new(upto),
            known_upto: Seq::new(upto),
            is_sound: true,
            unheard: None,
        };
        self.step(SupervisorInput::Promised {
            node,
            partition,
            floor,
            end,
        });
    }

    /// An operator gives a home up, and names who is to follow, or nobody.
    fn say(&mut self, partition: PartitionId, to: Option<u16>) {
        let word = OperatorWord {
            is_fenced: true,
            accepts_split_brain: false,
            to: to.map(|id| RegionId::new(id).unwrap()),
        };
        let lost = Lost {
            word: Some(word),
            ..Lost::default()
        };
        let from = self.epoch(partition);
        let begin = Command::BeginTakeOver {
            partition,
            from,
            lost,
        };
        self.map.apply(&begin).unwrap();
    }

    fn home(&self, partition: PartitionId) -> (u64, u64) {
        let found = self.map.assignment(partition).unwrap();
        (found.home.get(), found.epoch.counter)
    }

    fn epoch(&self, partition: PartitionId) -> Epoch {
        self.map.assignment(partition).unwrap().epoch
    }
}

fn keyspace(ack: AckLevel) -> Keyspace {
    let regions: Vec<RegionId> = (1..=3).map(|id| RegionId::new(id).unwrap()).collect();
    let home = regions[0];
    Keyspace {
        ack,
        ..Keyspace::new(Name::new("users").unwrap(), regions, home)
    }
}

#[test]
fn whoever_has_most_takes_over_once_the_lease_has_run_out() {
    let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
    lead.run(Duration::from_secs(5), &[11, 12, 13]);
    assert!(lead.applied.is_empty(), "{:?}", lead.applied);
    let lost = lead.now;
    // Given up a little before the lease may end, and not succeeded before it has.
    lead.run(lead.times.lost_after, &[12, 13]);
    let old = lead.epoch(partition);
    assert!(lead.map.assignment(partition).unwrap().lost.is_some());
    lead.promise(12, partition, Some(old), 7);
    lead.promise(13, partition, Some(old), 9);
    assert_eq!(lead.home(partition), (11, 1));
    while lead.home(partition) == (11, 1) {
        lead.run(Duration::from_millis(10), &[12, 13]);
        assert!(lead.now.since(lost) < lead.times.waited_out() * 2);
    }
    assert!(lead.now.since(lost).saturating_sub(lead.times.ask_every) < lead.times.waited_out());
    assert!(lead.now.since(lost) + lead.times.ask_every >= lead.times.waited_out());
    assert_eq!(lead.home(partition), (13, 2));
    let change = lead.map.history().iter().next_back().unwrap();
    let Why::Lost(_, decision) = change.why else {
        panic!("{change:?}")
    };
    assert_eq!(decision.upto, Seq::new(9));
    // Reigns come before lengths.
    let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(lead.times.lost_after, &[12, 13]);
    let old = lead.epoch(partition);
    let older = Epoch {
        counter: 0,
        node: node(99),
    };
    lead.promise(12, partition, Some(old), 2);
    lead.promise(13, partition, Some(older), 9);
    lead.run(lead.times.lease, &[12, 13]);
    assert_eq!(lead.home(partition), (12, 2));
}

#[test]
fn equals_are_ranked_by_the_keyspace_and_a_home_that_came_back_stays() {
    let third = RegionId::new(3).unwrap();
    let ordered = Keyspace {
        successors: vec![third],
        ..keyspace(AckLevel::Async)
    };
    for (back, expected) in [(false, 13), (true, 11)] {
        let (mut lead, partition) = Lead::new(ordered.clone());
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        lead.run(lead.times.lost_after, &[12, 13]);
        let old = lead.epoch(partition);
        lead.promise(12, partition, Some(old), 9);
        lead.promise(13, partition, Some(old), 9);
        if back {
            lead.promise(11, partition, Some(old), 9);
        }
        lead.run(lead.times.lease, &[12, 13]);
        assert_eq!(lead.home(partition), (expected, 2));
    }
}

#[test]
fn a_synchronous_home_is_fenced_by_as_many_copies_as_leave_it_no_quorum() {
    let quorum = AckLevel::Sync {
        quorum: std::num::NonZeroU8::new(2),
    };
    for (ack, first_is_enough) in [(AckLevel::SYNC, true), (quorum, false)] {
        let (mut lead, partition) = Lead::new(keyspace(ack));
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        lead.run(lead.times.lost_after, &[12, 13]);
        let old = lead.epoch(partition);
        lead.promise(12, partition, Some(old), 9);
        // The other one is heard of and silent: it is waited for, but not for ever.
        lead.run(lead.times.lease + lead.times.promise_patience, &[12, 13]);
        assert_eq!(lead.home(partition).1 == 2, first_is_enough, "{ack}");
        if !first_is_enough {
            lead.promise(13, partition, Some(old), 7);
            lead.run(Duration::from_millis(20), &[12, 13]);
            assert_eq!(lead.home(partition), (12, 2));
        }
    }
    // With too few left to fence it, a home is not given up: it may be well.
    let (mut lead, partition) = Lead::new(keyspace(quorum));
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(Duration::from_secs(10), &[12]);
    assert!(lead.map.assignment(partition).unwrap().lost.is_none());
}

#[test]
fn a_damaged_copy_does_not_take_over() {
    let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(lead.times.lost_after, &[12, 13]);
    let (old, floor) = (lead.epoch(partition), lead.asked.last().unwrap().2);
    let end = PromisedEnd {
        epoch: Some(old),
        upto: Seq::new(99),
        known_upto: Seq::new(99),
        is_sound: false,
        unheard: None,
    };
    lead.step(SupervisorInput::Promised {
        node: node(12),
        partition,
        floor,
        end,
    });
    lead.promise(13, partition, Some(old), 5);
    lead.run(lead.times.lease, &[12, 13]);
    assert_eq!(lead.home(partition), (13, 2));
}

#[test]
fn a_new_leader_finishes_what_was_begun() {
    let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(lead.times.lost_after, &[12, 13]);
    assert!(lead.map.assignment(partition).unwrap().lost.is_some());
    lead.supervisor = Supervisor::new(lead.times, lead.now);
    lead.asked.clear();
    let began = lead.now;
    lead.run(Duration::from_millis(20), &[12, 13]);
    let old = lead.epoch(partition);
    lead.promise(12, partition, Some(old), 9);
    lead.promise(13, partition, Some(old), 9);
    while lead.home(partition).1 == 1 {
        lead.run(Duration::from_millis(10), &[12, 13]);
        assert!(lead.now.since(began) < lead.times.waited_out() * 2);
    }
    // It cannot know what its predecessor granted last, so it waits for a whole lease.
    assert!(lead.now.since(began) >= lead.times.waited_out());
}

#[test]
fn keyspaces_that_are_not_to_be_promoted_wait_for_an_operator() {
    for failover in [Failover::ReadOnly, Failover::Buffer(BufferLimit::default())] {
        wait_for_an_operator(failover);
    }
}

fn wait_for_an_operator(failover: Failover) {
    let waiting = Keyspace {
        failover,
        ..keyspace(AckLevel::Async)
    };
    let (mut lead, partition) = Lead::new(waiting);
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(Duration::from_secs(20), &[12, 13]);
    assert!(lead.map.assignment(partition).unwrap().lost.is_none());
    let old = lead.epoch(partition);
    lead.say(partition, Some(2));
    lead.run(Duration::from_millis(50), &[12, 13]);
    lead.promise(12, partition, Some(old), 4);
    lead.promise(13, partition, Some(old), 9);
    lead.run(Duration::from_millis(50), &[12, 13]);
    assert_eq!(lead.home(partition), (12, 2), "as the operator said");
    assert!(lead.map.assignment(partition).unwrap().lost.is_none());
}

#[test]
fn copies_that_wait_for_a_home_to_heal_them_do_not_leave_a_partition_without_one() {
    for to in [None, Some(2)] {
        let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        let old = lead.epoch(partition);
        lead.say(partition, to);
        lead.run(Duration::from_millis(50), &[11, 12, 13]);
        let floor = lead.asked.last().unwrap().2;
        let end = PromisedEnd {
            epoch: None,
            upto: Seq::NONE,
            known_upto: Seq::NONE,
            is_sound: false,
            unheard: None,
        };
        lead.promise(11, partition, Some(old), 9);
        for id in [12, 13] {
            // The old home is not asked to come back while another one may have something to say.
            lead.run(lead.times.promise_patience * 2, &[11, 12, 13]);
            assert_eq!(lead.home(partition), (11, 1));
            lead.step(SupervisorInput::Promised {
                node: node(id),
                partition,
                floor,
                end,
            });
        }
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        assert_eq!(lead.home(partition), (11, 2), "{to:?}");
    }
}

#[test]
fn a_reign_after_a_handing_on_is_above_what_that_may_have_begun() {
    let (mut lead, partition) = Lead::new(keyspace(AckLevel::Async));
    let from = lead.epoch(partition);
    lead.map
        .apply(&Command::BeginSwitchover {
            partition,
            from,
            to: node(12),
        })
        .unwrap();
    lead.run(Duration::from_secs(1), &[11, 12, 13]);
    lead.run(lead.times.lost_after, &[12, 13]);
    let mut asked = lead.asked.iter().filter(|(_, what, _)| *what == partition);
    assert_eq!(asked.next().unwrap().2.counter, 3);
    // Node 12 opened by itself, in the reign between; what it has then is the highest.
    let between = Epoch {
        counter: 2,
        node: node(12),
    };
    lead.promise(12, partition, Some(between), 10);
    lead.promise(13, partition, Some(from), 99);
    // Its own lease is not over, but it has promised.
    lead.run(lead.times.lease * 2, &[12, 13]);
    assert_eq!(lead.home(partition), (12, 3));
}

#[test]
fn homes_that_are_heard_of_begin_anew_when_their_keyspace_is_altered() {
    let before = Keyspace {
        failover: Failover::ReadOnly,
        ..keyspace(AckLevel::Async)
    };
    let (mut lead, partition) = Lead::new(before.clone());
    lead.run(Duration::from_secs(10), &[12, 13]);
    let after = Keyspace {
        ack: AckLevel::SYNC,
        ..before
    };
    lead.map
        .apply(&Command::AlterKeyspace {
            keyspace: Box::new(after),
            from: 1,
        })
        .unwrap();
    // Its node was never heard of.
    lead.run(Duration::from_secs(2), &[12, 13]);
    assert!(lead.applied.is_empty(), "{:?}", lead.applied);
    lead.run(Duration::from_millis(500), &[11, 12, 13]);
    let from = lead.map.assignment(partition).unwrap().epoch;
    let begun = Command::BeginSwitchover {
        partition,
        from,
        to: node(11),
    };
    assert!(lead.applied.contains(&begun), "{:?}", lead.applied);
    let again = lead.applied.iter().filter(|it| **it == begun).count();
    assert_eq!(again, 1, "once it is begun nobody proposes it again");
}

/// What a copy did not hear of is at most what the home wrote of late, for as long as nothing was
/// heard of it; where an acknowledgement takes a copy it is nothing.
#[test]
fn what_was_never_heard_of_is_estimated_by_rate_and_silence() {
    for (ack, expected) in [(AckLevel::Async, 200..=260), (AckLevel::SEMI_SYNC, 0..=0)] {
        let (mut lead, partition) = Lead::new(keyspace(ack));
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        lead.run(lead.times.lost_after, &[12, 13]);
        let (old, floor) = (lead.epoch(partition), lead.asked.last().unwrap().2);
        for (id, upto, known_upto, silent) in [(12, 9, 9, 3000), (13, 9, 11, 2000)] {
            let end = PromisedEnd {
                epoch: Some(old),
                upto: Seq::new(upto),
                known_upto: Seq::new(known_upto),
                is_sound: true,
                unheard: Some(Unheard {
                    silent: Duration::from_millis(silent),
                    a_second: 100,
                }),
            };
            lead.step(SupervisorInput::Promised {
                node: node(id),
                partition,
                floor,
                end,
            });
        }
        lead.run(lead.times.lease, &[12, 13]);
        let change = lead.map.history().iter().next_back().unwrap();
        let Why::Lost(_, decision) = change.why else {
            panic!("{ack}: planned");
        };
        assert_eq!(decision.known_upto.since(decision.upto), 2);
        // Two seconds, and until its lease had run out.
        let unheard = decision.unheard_max.unwrap();
        assert!(expected.contains(&unheard), "{ack}: {unheard}");
    }
}

/// What was acknowledged under the former policy may be at another copy than the present one needs.
#[test]
fn a_copy_without_the_beginning_of_the_reign_is_not_enough_where_the_policy_was_altered() {
    let quorum = AckLevel::Sync {
        quorum: std::num::NonZeroU8::new(2),
    };
    for (has_beginning, is_enough) in [(true, true), (false, false)] {
        let (mut lead, partition) = Lead::new(keyspace(quorum));
        lead.run(Duration::from_secs(1), &[11, 12, 13]);
        let former = lead.epoch(partition);
        lead.map
            .apply(&Command::AlterKeyspace {
                keyspace: Box::new(keyspace(AckLevel::SYNC)),
                from: 1,
            })
            .unwrap();
        lead.run(Duration::from_millis(500), &[11, 12, 13]);
        for (partition, it) in lead.map.clone().assignments() {
            let commit = Command::CommitSwitchover {
                partition,
                from: it.epoch,
                to: it.home,
                revision: None,
            };
            lead.map.apply(&commit).unwrap();
        }
        assert_eq!(lead.home(partition), (11, 2));
        let present = lead.epoch(partition);
        lead.run(lead.times.lost_after, &[12, 13]);
        let last = if has_beginning { present } else { former };
        lead.promise(13, partition, Some(last), 5);
        // The other one is heard of, and has no time to answer.
        lead.run(lead.times.lease * 2, &[12, 13]);
        assert_eq!(lead.home(partition).1 == 3, is_enough, "{has_beginning}");
        if !is_enough {
            lead.promise(12, partition, Some(former), 9);
            lead.run(Duration::from_millis(20), &[12, 13]);
            assert_eq!(lead.home(partition), (12, 3));
        }
    }
}
