//! Commands and the map as bytes, in the control plane's log and in its snapshots.
//!
//! **Owns**: both directions for each, checked values.
//! **Does not own**: the messages (proto), what commands do (core).
//!
//! What a node does not understand it must not leave out: its map would differ from the others'. It
//! answers such a command with an error, as would everybody of its version; so no command is used
//! before every voter knows it.

mod keyspace;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use domicile_core::control::{
    Assignment, Change, Command, ControlMap, Decision, DegradedStretch, Evidence, History, Lost,
    MapParts, Node, Note, OperatorWord, Region, Why,
};
use domicile_proto::v1::{self, map_command, map_note, map_take_over};
use domicile_proto::{Epoch, Name, NodeId, PartitionId, RegionId, Seq};
use prost::Message;

use self::keyspace::{put_keyspace, put_policies, take_keyspace, take_policies};
use crate::peers::{partition_of_bytes, read_epoch};

/// The format of a map's message.
const MAP_FORMAT: u32 = 1;

/// Why bytes are no commands, or no map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MapWireError {
    /// No protobuf message of that kind.
    #[error("not a message of the map: {0}")]
    Malformed(String),
    /// A field that is missing or out of range.
    #[error("map message: {what} is {actual}")]
    Field {
        /// Which.
        what: &'static str,
        /// What it is.
        actual: String,
    },
    /// Of a format that this build does not know.
    #[error("map of format {actual}, this build knows {known}")]
    Format {
        /// Its format.
        actual: u32,
        /// The one known.
        known: u32,
    },
}

type Read<T> = Result<T, MapWireError>;

fn field<T>(what: &'static str, actual: impl ToString) -> Read<T> {
    let actual = actual.to_string();
    Err(MapWireError::Field { what, actual })
}

fn needed<T>(what: &'static str, value: Option<T>) -> Read<T> {
    value.map_or_else(|| field(what, "missing"), Ok)
}

fn malformed(error: prost::DecodeError) -> MapWireError {
    MapWireError::Malformed(error.to_string())
}

/// Commands, to be applied in this order.
pub(crate) fn encode_commands(commands: &[Command]) -> Bytes {
    let commands = commands.iter().map(put_command).collect();
    v1::MapCommands { commands }.encode_to_vec().into()
}

pub(crate) fn decode_commands(bytes: &[u8]) -> Read<Vec<Command>> {
    let message = v1::MapCommands::decode(bytes).map_err(malformed)?;
    message.commands.into_iter().map(take_command).collect()
}

/// What became of each command: empty, or why it was refused.
pub(crate) fn encode_results(refused: Vec<String>) -> Vec<u8> {
    v1::MapResults { refused }.encode_to_vec()
}

pub(crate) fn decode_results(bytes: &[u8]) -> Read<Vec<String>> {
    let message = v1::MapResults::decode(bytes).map_err(malformed)?;
    Ok(message.refused)
}

/// The map; the same one always gives the same bytes.
pub(crate) fn encode_map(map: &ControlMap) -> Vec<u8> {
    let MapParts {
        regions,
        nodes,
        keyspaces,
        partitions,
        history,
        version,
    } = map.clone().into();
    let regions = regions.into_iter().map(|(region, it)| v1::MapRegion {
        removed: it.is_removed,
        ..put_region(region, &it.name, it.is_witness, it.peer_address.as_deref())
    });
    let nodes = nodes.into_iter().map(|(node, it)| v1::MapNode {
        node: node.get(),
        region: it.region.get().into(),
        retired: it.is_retired,
    });
    let partitions = partitions.into_iter().map(|(id, it)| v1::MapAssignment {
        partition: put_partition(id),
        home: it.home.get(),
        epoch: put_epoch(it.epoch),
        moving_to: it.moving_to.map_or(0, NodeId::get),
        lost: it.lost.map(put_lost),
        revision: it.revision,
        degraded_ms: it.degraded_ms,
    });
    v1::MapState {
        format: MAP_FORMAT,
        version,
        regions: regions.collect(),
        nodes: nodes.collect(),
        keyspaces: keyspaces.values().map(put_policies).collect(),
        partitions: partitions.collect(),
        changes: history.iter().map(put_change).collect(),
        forgotten: history.forgotten(),
    }
    .encode_to_vec()
}

pub(crate) fn decode_map(bytes: &[u8]) -> Read<ControlMap> {
    let message = v1::MapState::decode(bytes).map_err(malformed)?;
    if message.format != MAP_FORMAT {
        let (actual, known) = (message.format, MAP_FORMAT);
        return Err(MapWireError::Format { actual, known });
    }
    let mut parts = MapParts {
        version: message.version,
        ..MapParts::default()
    };
    for it in message.regions {
        let region = Region {
            name: take_name(&it.name)?,
            is_witness: it.witness,
            peer_address: take_address(it.peer_address),
            is_removed: it.removed,
        };
        parts.regions.insert(take_region(it.region)?, region);
    }
    for it in message.nodes {
        let (region, is_retired) = (take_region(it.region)?, it.retired);
        parts
            .nodes
            .insert(take_node(it.node)?, Node { region, is_retired });
    }
    let keyspaces = message.keyspaces.into_iter().map(take_policies);
    let keyspaces = keyspaces.map(|it| it.map(|it| (it.present.keyspace.id(), it)));
    parts.keyspaces = keyspaces.collect::<Read<BTreeMap<_, _>>>()?;
    for it in message.partitions {
        let assignment = Assignment {
            home: take_node(it.home)?,
            epoch: take_epoch(it.epoch)?,
            revision: it.revision,
            moving_to: match it.moving_to {
                0 => None,
                node => Some(take_node(node)?),
            },
            degraded_ms: it.degraded_ms,
            lost: it.lost.map(take_lost).transpose()?,
        };
        parts
            .partitions
            .insert(take_partition(&it.partition)?, assignment);
    }
    let changes = message.changes.into_iter().map(take_change);
    parts.history = History::restore(changes.collect::<Read<_>>()?, message.forgotten);
    Ok(parts.into())
}

fn put_partition(partition: PartitionId) -> Bytes {
    Bytes::copy_from_slice(&partition.to_bytes())
}

fn take_partition(bytes: &[u8]) -> Read<PartitionId> {
    partition_of_bytes(bytes).or_else(|error| field("partition", error))
}

fn put_epoch(epoch: Epoch) -> Option<v1::MapEpoch> {
    Some(v1::MapEpoch {
        counter: epoch.counter,
        node: epoch.node.get(),
    })
}

fn take_epoch(epoch: Option<v1::MapEpoch>) -> Read<Epoch> {
    let epoch = needed("epoch", epoch)?;
    needed("epoch's node", read_epoch(epoch.counter, epoch.node))
}

fn take_region(region: u32) -> Read<RegionId> {
    let id = u16::try_from(region)
        .ok()
        .and_then(|id| RegionId::new(id).ok());
    id.map_or_else(|| field("region", region), Ok)
}

fn take_node(node: u64) -> Read<NodeId> {
    NodeId::new(node).or_else(|_| field("node", node))
}

fn take_address(address: String) -> Option<String> {
    (!address.is_empty()).then_some(address)
}

fn take_name(name: &str) -> Read<Name> {
    Name::new(name).or_else(|error| field("name", error))
}

fn put_lost(lost: Lost) -> v1::MapLost {
    v1::MapLost {
        heard_ms: lost.heard_ms,
        noticed_ms: lost.noticed_ms,
        word: lost.word.map(|word| v1::MapWord {
            fenced: word.is_fenced,
            accepts_split_brain: word.accepts_split_brain,
            to: word.to.map_or(0, |to| to.get().into()),
        }),
    }
}

fn take_lost(lost: v1::MapLost) -> Read<Lost> {
    let word = |word: v1::MapWord| {
        let to = (word.to > 0).then(|| take_region(word.to)).transpose()?;
        Ok(OperatorWord {
            is_fenced: word.fenced,
            accepts_split_brain: word.accepts_split_brain,
            to,
        })
    };
    Ok(Lost {
        heard_ms: lost.heard_ms,
        noticed_ms: lost.noticed_ms,
        word: lost.word.map(word).transpose()?,
    })
}

fn put_decision(decision: Decision) -> v1::MapDecision {
    v1::MapDecision {
        fenced_ms: decision.fenced_ms,
        decided_ms: decision.decided_ms,
        upto: decision.upto.get(),
        known_upto: decision.known_upto.get(),
        unheard_max: decision.unheard_max,
    }
}

fn take_decision(decision: v1::MapDecision) -> Decision {
    Decision {
        fenced_ms: decision.fenced_ms,
        decided_ms: decision.decided_ms,
        upto: Seq::new(decision.upto),
        known_upto: Seq::new(decision.known_upto),
        unheard_max: decision.unheard_max,
    }
}

fn put_region(
    region: RegionId,
    name: &Name,
    is_witness: bool,
    peer_address: Option<&str>,
) -> v1::MapRegion {
    v1::MapRegion {
        region: region.get().into(),
        name: name.to_string(),
        witness: is_witness,
        peer_address: peer_address.unwrap_or_default().to_owned(),
        removed: false,
        is_return: false,
    }
}

fn put_begin(partition: PartitionId, from: Epoch, lost: Lost) -> v1::MapBegin {
    v1::MapBegin {
        partition: put_partition(partition),
        from: put_epoch(from),
        lost: Some(put_lost(lost)),
    }
}

fn put_degraded(stretch: DegradedStretch) -> v1::MapDegraded {
    v1::MapDegraded {
        partition: put_partition(stretch.partition),
        epoch: put_epoch(stretch.epoch),
        since_ms: stretch.since_ms,
    }
}

fn take_degraded(it: v1::MapDegraded) -> Read<DegradedStretch> {
    Ok(DegradedStretch {
        partition: take_partition(&it.partition)?,
        epoch: take_epoch(it.epoch)?,
        since_ms: it.since_ms,
    })
}

fn put_switch(partition: PartitionId, from: Epoch, to: u64) -> v1::MapSwitch {
    v1::MapSwitch {
        partition: put_partition(partition),
        from: put_epoch(from),
        to,
        revision: None,
    }
}

fn put_command(command: &Command) -> v1::MapCommand {
    use map_command::Command as Put;
    let command = match command {
        Command::AddRegion {
            region,
            name,
            is_witness,
            peer_address,
            is_return,
        } => Put::AddRegion(v1::MapRegion {
            is_return: *is_return,
            ..put_region(*region, name, *is_witness, peer_address.as_deref())
        }),
        Command::RemoveRegion { region } => Put::RemoveRegion(region.get().into()),
        Command::AddNode { node, region } => Put::AddNode(v1::MapNode {
            node: node.get(),
            region: region.get().into(),
            retired: false,
        }),
        Command::RetireNode { node } => Put::RetireNode(node.get()),
        Command::CreateKeyspace(keyspace) => Put::CreateKeyspace(put_keyspace(keyspace)),
        Command::AlterKeyspace { keyspace, from } => Put::AlterKeyspace(v1::MapAlteration {
            keyspace: Some(put_keyspace(keyspace)),
            from: *from,
        }),
        Command::BeginTakeOver {
            partition,
            from,
            lost,
        } => Put::BeginTakeOver(put_begin(*partition, *from, *lost)),
        Command::TakeOver {
            partition,
            from,
            to,
            evidence,
            decision,
        } => Put::TakeOver(v1::MapTakeOver {
            partition: put_partition(*partition),
            from: put_epoch(*from),
            to: to.get(),
            decision: Some(put_decision(*decision)),
            evidence: Some(put_evidence(evidence)),
        }),
        Command::Note {
            partition,
            epoch,
            note,
        } => Put::Note(v1::MapNote {
            partition: put_partition(*partition),
            epoch: put_epoch(*epoch),
            note: Some(put_note(*note)),
        }),
        Command::BeginDegraded(stretch) => Put::BeginDegraded(put_degraded(*stretch)),
        Command::EndDegraded(stretch) => Put::EndDegraded(put_degraded(*stretch)),
        Command::BeginSwitchover { .. }
        | Command::CommitSwitchover { .. }
        | Command::AbortSwitchover { .. } => return put_planned(command),
    };
    let command = Some(command);
    v1::MapCommand { command }
}

/// Of a planned change; any other command is put down as none.
fn put_planned(command: &Command) -> v1::MapCommand {
    use map_command::Command as Put;
    let command = match command {
        Command::BeginSwitchover {
            partition,
            from,
            to,
        } => Some(Put::BeginSwitchover(put_switch(
            *partition,
            *from,
            to.get(),
        ))),
        Command::CommitSwitchover {
            partition,
            from,
            to,
            revision,
        } => Some(Put::CommitSwitchover(v1::MapSwitch {
            revision: *revision,
            ..put_switch(*partition, *from, to.get())
        })),
        Command::AbortSwitchover {
            partition,
            from,
            to,
        } => Some(Put::AbortSwitchover(put_switch(
            *partition,
            *from,
            to.get(),
        ))),
        _ => None,
    };
    v1::MapCommand { command }
}

fn take_command(message: v1::MapCommand) -> Read<Command> {
    use map_command::Command as Put;
    Ok(match needed("command", message.command)? {
        Put::AddRegion(it) => Command::AddRegion {
            region: take_region(it.region)?,
            name: take_name(&it.name)?,
            is_witness: it.witness,
            peer_address: take_address(it.peer_address),
            is_return: it.is_return,
        },
        Put::RemoveRegion(region) => {
            let region = take_region(region)?;
            Command::RemoveRegion { region }
        }
        Put::AddNode(it) => Command::AddNode {
            node: take_node(it.node)?,
            region: take_region(it.region)?,
        },
        Put::RetireNode(node) => {
            let node = take_node(node)?;
            Command::RetireNode { node }
        }
        Put::CreateKeyspace(it) => Command::CreateKeyspace(Box::new(take_keyspace(it)?)),
        Put::AlterKeyspace(it) => Command::AlterKeyspace {
            keyspace: Box::new(take_keyspace(needed("keyspace", it.keyspace)?)?),
            from: it.from,
        },
        Put::BeginTakeOver(it) => Command::BeginTakeOver {
            partition: take_partition(&it.partition)?,
            from: take_epoch(it.from)?,
            lost: take_lost(needed("lost", it.lost)?)?,
        },
        Put::TakeOver(it) => Command::TakeOver {
            partition: take_partition(&it.partition)?,
            from: take_epoch(it.from)?,
            to: take_node(it.to)?,
            evidence: take_evidence(needed("evidence", it.evidence)?)?,
            decision: take_decision(needed("decision", it.decision)?),
        },
        Put::Note(it) => Command::Note {
            partition: take_partition(&it.partition)?,
            epoch: take_epoch(it.epoch)?,
            note: take_note(needed("note", it.note)?)?,
        },
        Put::BeginDegraded(it) => Command::BeginDegraded(take_degraded(it)?),
        Put::EndDegraded(it) => Command::EndDegraded(take_degraded(it)?),
        Put::BeginSwitchover(it) => Command::BeginSwitchover {
            partition: take_partition(&it.partition)?,
            from: take_epoch(it.from)?,
            to: take_node(it.to)?,
        },
        Put::CommitSwitchover(it) => Command::CommitSwitchover {
            partition: take_partition(&it.partition)?,
            from: take_epoch(it.from)?,
            to: take_node(it.to)?,
            revision: it.revision,
        },
        Put::AbortSwitchover(it) => Command::AbortSwitchover {
            partition: take_partition(&it.partition)?,
            from: take_epoch(it.from)?,
            to: take_node(it.to)?,
        },
    })
}

fn put_evidence(evidence: &Evidence) -> map_take_over::Evidence {
    use map_take_over::Evidence as Put;
    match evidence {
        Evidence::LeaseRanOut => Put::LeaseRanOut(true),
        Evidence::HomePromised => Put::HomePromised(true),
        Evidence::AcksRevoked { by } => {
            let by = by.iter().map(|region| region.get().into()).collect();
            Put::AcksRevoked(v1::MapRevoked { by })
        }
        Evidence::Operator {
            is_fenced,
            accepts_split_brain,
        } => Put::Operator(v1::MapOperator {
            fenced: *is_fenced,
            accepts_split_brain: *accepts_split_brain,
        }),
    }
}

fn take_evidence(evidence: map_take_over::Evidence) -> Read<Evidence> {
    use map_take_over::Evidence as Put;
    Ok(match evidence {
        Put::LeaseRanOut(true) => Evidence::LeaseRanOut,
        Put::HomePromised(true) => Evidence::HomePromised,
        Put::LeaseRanOut(false) | Put::HomePromised(false) => return field("evidence", false),
        Put::AcksRevoked(it) => Evidence::AcksRevoked {
            by: it.by.into_iter().map(take_region).collect::<Read<_>>()?,
        },
        Put::Operator(it) => Evidence::Operator {
            is_fenced: it.fenced,
            accepts_split_brain: it.accepts_split_brain,
        },
    })
}

fn put_note(note: Note) -> map_note::Note {
    match note {
        Note::Opened { at_ms } => map_note::Note::OpenedMs(at_ms),
        Note::Served { at_ms } => map_note::Note::ServedMs(at_ms),
        Note::Orphaned {
            node,
            records,
            bytes,
            lost,
        } => map_note::Note::Orphaned(v1::MapOrphaned {
            node: node.get(),
            records,
            bytes,
            lost_writes: lost.map(|(writes, _)| writes),
            lost_bytes: lost.map(|(_, bytes)| bytes),
        }),
    }
}

fn take_note(note: map_note::Note) -> Read<Note> {
    Ok(match note {
        map_note::Note::OpenedMs(at_ms) => Note::Opened { at_ms },
        map_note::Note::ServedMs(at_ms) => Note::Served { at_ms },
        map_note::Note::Orphaned(it) => Note::Orphaned {
            node: take_node(it.node)?,
            records: it.records,
            bytes: it.bytes,
            lost: it.lost_writes.zip(it.lost_bytes),
        },
    })
}

fn put_change(change: &Change) -> v1::MapChange {
    let (lost, decision) = match change.why {
        Why::Lost(lost, decision) => (Some(put_lost(lost)), Some(put_decision(decision))),
        Why::Planned => (None, None),
    };
    let orphaned = change.orphaned.iter();
    let orphaned = orphaned.map(|(node, records, bytes)| v1::MapOrphaned {
        node: node.get(),
        records: *records,
        bytes: *bytes,
        lost_writes: None,
        lost_bytes: None,
    });
    v1::MapChange {
        partition: put_partition(change.partition),
        from: put_epoch(change.from),
        to: put_epoch(change.to),
        lost,
        decision,
        opened_ms: change.opened_ms,
        served_ms: change.served_ms,
        orphaned: orphaned.collect(),
        actual_records: change.actual.map(|(records, _)| records),
        actual_bytes: change.actual.map(|(_, bytes)| bytes),
        degraded_ms: change.degraded_ms,
    }
}

fn take_change(it: v1::MapChange) -> Read<Change> {
    let why = match (it.lost, it.decision) {
        (Some(lost), Some(decision)) => Why::Lost(take_lost(lost)?, take_decision(decision)),
        (None, None) => Why::Planned,
        _ => return field("change", "half lost"),
    };
    let actual = it.actual_records.zip(it.actual_bytes);
    let orphaned = it.orphaned.iter();
    let orphaned = orphaned.map(|it| Ok((take_node(it.node)?, it.records, it.bytes)));
    Ok(Change {
        partition: take_partition(&it.partition)?,
        from: take_epoch(it.from)?,
        to: take_epoch(it.to)?,
        why,
        opened_ms: it.opened_ms,
        served_ms: it.served_ms,
        orphaned: orphaned.collect::<Read<_>>()?,
        actual,
        degraded_ms: it.degraded_ms,
    })
}
