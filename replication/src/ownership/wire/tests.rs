//! Commands and maps come back as they were; tampered bytes are refused, not believed.

use std::time::Duration;

use domicile_core::control::DegradedStretch;
use domicile_proto::{AckLevel, Keyspace, OnTimeout, Placement, RpoLimit};

use super::*;
use crate::fuzz_tests::attack;

fn region(id: u16) -> RegionId {
    RegionId::new(id).unwrap()
}

fn node(id: u64) -> NodeId {
    NodeId::new(id).unwrap()
}

fn add_region(id: u16, address: Option<&str>) -> Command {
    Command::AddRegion {
        region: region(id),
        name: Name::new(format!("r{id}")).unwrap(),
        is_witness: id == 3,
        peer_address: address.map(str::to_owned),
        is_return: id == 4,
    }
}

fn plain() -> Keyspace {
    let name = Name::new("users").unwrap();
    Keyspace::new(name, vec![region(1), region(2)], region(1))
}

fn with_all() -> Keyspace {
    let rules = [("eu-".to_owned(), region(1)), ("us-".to_owned(), region(2))];
    Keyspace {
        name: Name::new("orders").unwrap(),
        placement: Placement::Rule {
            prefixes: rules.to_vec(),
            otherwise: region(2),
        },
        ack: AckLevel::SEMI_SYNC,
        on_timeout: OnTimeout::Degrade,
        ack_timeout: Duration::from_millis(77),
        max_rpo: RpoLimit {
            writes: Some(1),
            bytes: Some(2),
            age: Some(Duration::from_millis(3)),
        },
        successors: vec![region(2), region(1)],
        ..plain()
    }
}

fn first_reign() -> (PartitionId, Epoch) {
    let (counter, node) = (1, node(11));
    (plain().partitions()[0], Epoch { counter, node })
}

/// With every kind of evidence.
fn takeovers() -> impl Iterator<Item = Command> {
    let (partition, from) = first_reign();
    let decision = Decision {
        fenced_ms: 3,
        decided_ms: 4,
        upto: Seq::new(5),
        known_upto: Seq::new(6),
        unheard_max: Some(7),
    };
    let evidence = [
        Evidence::LeaseRanOut,
        Evidence::HomePromised,
        Evidence::AcksRevoked {
            by: vec![region(2), region(3)],
        },
        Evidence::Operator {
            is_fenced: false,
            accepts_split_brain: true,
        },
    ];
    let takeovers = evidence.into_iter().map(move |evidence| Command::TakeOver {
        partition,
        from,
        to: node(12),
        evidence,
        decision,
    });
    let word = OperatorWord {
        is_fenced: true,
        accepts_split_brain: true,
        to: Some(region(2)),
    };
    let lost = Lost {
        heard_ms: 1,
        noticed_ms: 2,
        word: Some(word),
    };
    let begins = [lost, Lost::default()];
    let begins = begins.into_iter().map(move |lost| Command::BeginTakeOver {
        partition,
        from,
        lost,
    });
    begins.chain(takeovers)
}

fn notes() -> impl Iterator<Item = Command> {
    let (partition, epoch) = first_reign();
    let orphaned = |records, lost| Note::Orphaned {
        node: node(12),
        records,
        bytes: records,
        lost,
    };
    let notes = [
        Note::Opened { at_ms: 8 },
        Note::Served { at_ms: 9 },
        orphaned(10, Some((12, 13))),
        orphaned(0, None),
    ];
    let told = move |note| Command::Note {
        partition,
        epoch,
        note,
    };
    notes.into_iter().map(told)
}

/// One of each.
fn commands() -> Vec<Command> {
    let (partition, from) = first_reign();
    let to = node(12);
    let stretch = DegradedStretch {
        partition,
        epoch: from,
        since_ms: 14,
    };
    let mut all = vec![
        add_region(1, None),
        add_region(4, Some("http://far:1")),
        Command::RemoveRegion { region: region(4) },
        Command::AddNode {
            node: node(11),
            region: region(1),
        },
        Command::RetireNode { node: node(11) },
        Command::CreateKeyspace(Box::new(plain())),
        Command::AlterKeyspace {
            keyspace: Box::new(with_all()),
            from: 7,
        },
        Command::BeginDegraded(stretch),
        Command::EndDegraded(stretch),
        Command::BeginSwitchover {
            partition,
            from,
            to,
        },
        Command::CommitSwitchover {
            partition,
            from,
            to,
            revision: Some(9),
        },
        Command::AbortSwitchover {
            partition,
            from,
            to,
        },
    ];
    all.extend(takeovers().chain(notes()));
    all
}

/// A map with something in each of its parts.
fn map() -> ControlMap {
    let mut map = ControlMap::default();
    let mut apply = |command: Command| map.apply(&command).unwrap();
    for id in 1..=3 {
        apply(add_region(id, (id > 1).then_some("http://near:1")));
        let (node, region) = (node(10 + u64::from(id)), region(id));
        apply(Command::AddNode { node, region });
    }
    apply(add_region(4, None));
    apply(Command::RemoveRegion { region: region(4) });
    apply(Command::AddNode {
        node: node(21),
        region: region(1),
    });
    apply(Command::RetireNode { node: node(21) });
    for keyspace in [plain(), with_all()] {
        apply(Command::CreateKeyspace(Box::new(keyspace)));
    }
    let altered = Keyspace {
        ack: AckLevel::SYNC,
        ..plain()
    };
    apply(Command::AlterKeyspace {
        keyspace: Box::new(altered),
        from: 1,
    });
    let partitions = plain().partitions();
    let from = Epoch {
        counter: 1,
        node: node(11),
    };
    let given_up = |partition| Command::BeginTakeOver {
        partition,
        from,
        lost: Lost::default(),
    };
    for command in commands() {
        match command {
            Command::BeginTakeOver { lost, .. } if lost.word.is_some() => apply(command),
            Command::TakeOver {
                evidence: Evidence::HomePromised,
                ..
            } => apply(command),
            _ => {}
        }
    }
    apply(given_up(partitions[1]));
    apply(Command::BeginSwitchover {
        partition: partitions[2],
        from,
        to: node(12),
    });
    apply(Command::BeginDegraded(DegradedStretch {
        partition: partitions[3],
        epoch: from,
        since_ms: 14,
    }));
    for note in [Note::Opened { at_ms: 8 }, Note::Served { at_ms: 9 }] {
        apply(Command::Note {
            partition: partitions[0],
            epoch: Epoch {
                counter: 2,
                node: node(12),
            },
            note,
        });
    }
    map
}

#[test]
fn every_command_comes_back_as_it_was() {
    let commands = commands();
    let read = decode_commands(&encode_commands(&commands)).unwrap();
    assert_eq!(read, commands);
}

#[test]
fn a_map_comes_back_as_it_was() {
    let map = map();
    let bytes = encode_map(&map);
    let read = decode_map(&bytes).unwrap();
    assert_eq!(read, map);
    assert_eq!(encode_map(&read), bytes);
    assert_eq!(
        decode_map(&encode_map(&ControlMap::default())).unwrap(),
        ControlMap::default()
    );
}

#[test]
fn what_this_build_does_not_know_is_refused_by_its_name() {
    let later = v1::MapState {
        format: MAP_FORMAT + 1,
        ..v1::MapState::default()
    };
    let refused = decode_map(&later.encode_to_vec()).unwrap_err();
    assert_eq!(refused.to_string(), "map of format 2, this build knows 1");
    let unknown = v1::MapCommands {
        commands: vec![v1::MapCommand { command: None }],
    };
    let refused = decode_commands(&unknown.encode_to_vec()).unwrap_err();
    assert_eq!(refused.to_string(), "map message: command is missing");
    let nowhere = v1::MapCommand {
        command: Some(map_command::Command::RemoveRegion(70_000)),
    };
    let nowhere = v1::MapCommands {
        commands: vec![nowhere],
    };
    let refused = decode_commands(&nowhere.encode_to_vec()).unwrap_err();
    assert_eq!(refused.to_string(), "map message: region is 70000");
}

#[test]
fn fuzz_commands_of_the_map() {
    let commands = commands().into_iter();
    let valid = commands.map(|command| encode_commands(&[command]).to_vec());
    attack(&valid.collect::<Vec<_>>(), &|bytes| {
        if let Ok(read) = decode_commands(bytes) {
            let again = decode_commands(&encode_commands(&read)).unwrap();
            assert_eq!(again, read);
        }
    });
}

#[test]
fn fuzz_maps() {
    attack(&[encode_map(&map())], &|bytes| {
        if let Ok(read) = decode_map(bytes) {
            assert_eq!(decode_map(&encode_map(&read)).unwrap(), read);
        }
    });
}
