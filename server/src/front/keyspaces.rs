//! Keyspaces at the operator's door: made and altered.
//!
//! **Owns**: reading a definition, the fields of the answers.
//! **Does not own**: what a policy may be (config, proto), what may be altered (the map).

use domicile_proto::{Keyspace, v1};
use domicile_replication::{Error, Node};

use super::failover::{WITHIN_DEFAULT, bytes_of, invalid, within};
use super::posture;
use crate::config::{KeyspaceGiven, PlacementGiven, define};

pub(super) async fn create(
    node: &Node,
    request: v1::CreateKeyspaceRequest,
) -> Result<v1::CreateKeyspaceResponse, Error> {
    let missing = || invalid("keyspace: none given".to_owned());
    let definition = request.keyspace.ok_or_else(missing)?;
    let keyspace = defined(node, definition, None)?;
    node.create_keyspace(keyspace.clone(), WITHIN_DEFAULT)
        .await?;
    Ok(v1::CreateKeyspaceResponse {
        keyspace: Some(posture::describe(node, &keyspace)),
    })
}

pub(super) async fn alter(
    node: &Node,
    request: v1::AlterKeyspaceRequest,
) -> Result<v1::AlterKeyspaceResponse, Error> {
    let missing = || invalid("changes: none given".to_owned());
    let changes = request.changes.ok_or_else(missing)?;
    let within = within(request.within_ms)?;
    // What this node knows is what the changes are put on, and so what must still be in force.
    let known = node.versioned_policy(&changes.name)?;
    let version = request.version.unwrap_or(known.version);
    let mut before = (*known.keyspace).clone();
    let limits = &mut before.max_rpo;
    limits.writes = limits.writes.filter(|_| changes.max_rpo_writes != Some(0));
    limits.bytes = limits.bytes.filter(|_| changes.max_rpo_bytes != Some(0));
    limits.age = limits.age.filter(|_| changes.max_rpo_ms != Some(0));
    let keyspace = defined(node, changes, Some(&before))?;
    let altered = node.alter_keyspace(keyspace.clone(), version, within);
    let altered = altered.await?;
    Ok(v1::AlterKeyspaceResponse {
        keyspace: Some(posture::describe(node, &keyspace)),
        in_force: u32::try_from(altered.in_force.len()).unwrap_or(u32::MAX),
        waiting: altered.waiting.into_iter().map(bytes_of).collect(),
    })
}

fn defined(
    node: &Node,
    definition: v1::KeyspaceDefinition,
    before: Option<&Keyspace>,
) -> Result<Keyspace, Error> {
    let list = |names: Vec<String>| (!names.is_empty()).then_some(names);
    let limit = |limit: Option<u64>| limit.filter(|limit| *limit > 0);
    let buckets = |buckets: u32| {
        let narrow = u16::try_from(buckets);
        narrow.map_err(|_| invalid(format!("buckets: {buckets}, expected 1 to 1024")))
    };
    let given = KeyspaceGiven {
        name: definition.name,
        regions: list(definition.regions),
        placement: definition.placement.map(placement),
        ack: definition.ack,
        on_timeout: definition.on_timeout,
        ack_timeout_ms: definition.ack_timeout_ms,
        max_rpo_writes: limit(definition.max_rpo_writes),
        max_rpo_bytes: limit(definition.max_rpo_bytes),
        max_rpo_ms: limit(definition.max_rpo_ms),
        failover: definition.failover,
        buffer_bytes_max: definition.buffer_bytes_max,
        buffer_ms_max: definition.buffer_ms_max,
        successors: list(definition.successors),
        buckets: definition.buckets.map(buckets).transpose()?,
        delimiter: definition.delimiter,
    };
    define(&given, before, &node.regions()).map_err(|error| invalid(error.to_string()))
}

fn placement(it: v1::KeyspacePlacement) -> PlacementGiven {
    let text = |text: String| (!text.is_empty()).then_some(text);
    PlacementGiven {
        pinned: text(it.pinned),
        hash: it.hash.then_some(true),
        rule: (!it.rules.is_empty()).then(|| it.rules.into_iter().collect()),
        otherwise: text(it.otherwise),
    }
}
