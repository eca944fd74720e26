//! A keyspace's policy as bytes, in the control plane's log and in its snapshots.
//!
//! **Owns**: both directions, checked values.
//! **Does not own**: what a policy means (proto).

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Fencing, Policies, Policy};
use domicile_proto::v1::{self, map_keyspace};
use domicile_proto::{BufferLimit, Failover, Keyspace, OnTimeout, Placement, RegionId, RpoLimit};

use super::{Read, field, needed, take_name, take_region};

pub(super) fn put_policies(policies: &Policies) -> v1::MapPolicies {
    v1::MapPolicies {
        present: Some(put_policy(&policies.present)),
        former: policies.former.as_ref().map(put_policy),
        version: policies.version,
    }
}

fn put_policy(policy: &Policy) -> v1::MapPolicy {
    let fencing = match policy.fencing {
        Fencing::Lease => v1::MapFencing::Lease,
        Fencing::AckRevocation => v1::MapFencing::AckRevocation,
        Fencing::Operator => v1::MapFencing::Operator,
    };
    v1::MapPolicy {
        revision: policy.revision,
        keyspace: Some(put_keyspace(&policy.keyspace)),
        fencing: fencing.into(),
    }
}

pub(super) fn take_policies(it: v1::MapPolicies) -> Read<Policies> {
    Ok(Policies {
        present: take_policy(needed("policy", it.present)?)?,
        former: it.former.map(take_policy).transpose()?,
        version: it.version,
    })
}

fn take_policy(it: v1::MapPolicy) -> Read<Policy> {
    Ok(Policy {
        revision: it.revision,
        fencing: match it.fencing() {
            v1::MapFencing::Lease => Fencing::Lease,
            v1::MapFencing::AckRevocation => Fencing::AckRevocation,
            v1::MapFencing::Operator => Fencing::Operator,
            v1::MapFencing::Unspecified => return field("fencing", it.fencing),
        },
        keyspace: Arc::new(take_keyspace(needed("keyspace", it.keyspace)?)?),
    })
}

pub(super) fn put_keyspace(keyspace: &Keyspace) -> v1::MapKeyspace {
    use map_keyspace::Placement as Put;
    let regions = |regions: &[RegionId]| regions.iter().map(|id| id.get().into()).collect();
    let placement = match &keyspace.placement {
        Placement::Pinned(region) => Put::Pinned(region.get().into()),
        Placement::Hash => Put::Hash(true),
        Placement::Rule {
            prefixes,
            otherwise,
        } => {
            let prefixes = prefixes.iter().map(|(prefix, region)| v1::MapPrefix {
                prefix: prefix.clone(),
                region: region.get().into(),
            });
            Put::Rule(v1::MapRule {
                prefixes: prefixes.collect(),
                otherwise: otherwise.get().into(),
            })
        }
    };
    let on_timeout = match keyspace.on_timeout {
        OnTimeout::Fail => v1::MapOnTimeout::Fail,
        OnTimeout::Degrade => v1::MapOnTimeout::Degrade,
        OnTimeout::Block => v1::MapOnTimeout::Block,
    };
    let failover = match keyspace.failover {
        Failover::Promote => v1::MapFailover::Promote,
        Failover::ReadOnly => v1::MapFailover::ReadOnly,
        Failover::Buffer(_) => v1::MapFailover::Buffer,
    };
    let buffer = match keyspace.failover {
        Failover::Buffer(limit) => Some(limit),
        Failover::Promote | Failover::ReadOnly => None,
    };
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    v1::MapKeyspace {
        name: keyspace.name.to_string(),
        regions: regions(&keyspace.regions),
        placement: Some(placement),
        delimiter: keyspace.delimiter.into(),
        buckets: keyspace.buckets.get().into(),
        ack: keyspace.ack.to_string(),
        on_timeout: on_timeout.into(),
        ack_timeout_us: micros(keyspace.ack_timeout),
        max_rpo_writes: keyspace.max_rpo.writes,
        max_rpo_bytes: keyspace.max_rpo.bytes,
        max_rpo_us: keyspace.max_rpo.age.map(micros),
        failover: failover.into(),
        successors: regions(&keyspace.successors),
        buffer_bytes_max: buffer.map_or(0, |limit| limit.bytes),
        buffer_us_max: buffer.map_or(0, |limit| micros(limit.age)),
    }
}

pub(super) fn take_keyspace(it: v1::MapKeyspace) -> Read<Keyspace> {
    use map_keyspace::Placement as Put;
    let regions = |ids: &[u32]| {
        ids.iter()
            .copied()
            .map(take_region)
            .collect::<Read<Vec<_>>>()
    };
    let on_timeout = match it.on_timeout() {
        v1::MapOnTimeout::Fail => OnTimeout::Fail,
        v1::MapOnTimeout::Degrade => OnTimeout::Degrade,
        v1::MapOnTimeout::Block => OnTimeout::Block,
        v1::MapOnTimeout::Unspecified => return field("on_timeout", it.on_timeout),
    };
    let failover = match it.failover() {
        v1::MapFailover::Promote => Failover::Promote,
        v1::MapFailover::ReadOnly => Failover::ReadOnly,
        v1::MapFailover::Buffer => Failover::Buffer(BufferLimit {
            bytes: it.buffer_bytes_max,
            age: Duration::from_micros(it.buffer_us_max),
        }),
        v1::MapFailover::Unspecified => return field("failover", it.failover),
    };
    let placement = match needed("placement", it.placement)? {
        Put::Pinned(region) => Placement::Pinned(take_region(region)?),
        Put::Hash(true) => Placement::Hash,
        Put::Hash(false) => return field("placement", false),
        Put::Rule(rule) => {
            let prefixes = rule.prefixes.into_iter();
            let prefixes = prefixes.map(|it| Ok((it.prefix, take_region(it.region)?)));
            Placement::Rule {
                prefixes: prefixes.collect::<Read<_>>()?,
                otherwise: take_region(rule.otherwise)?,
            }
        }
    };
    let buckets = u16::try_from(it.buckets).ok().and_then(NonZeroU16::new);
    let keyspace = Keyspace {
        name: take_name(&it.name)?,
        regions: regions(&it.regions)?,
        placement,
        delimiter: u8::try_from(it.delimiter).or_else(|_| field("delimiter", it.delimiter))?,
        buckets: buckets.map_or_else(|| field("buckets", it.buckets), Ok)?,
        ack: it.ack.parse().or_else(|error| {
            let error: domicile_proto::level::AckLevelError = error;
            field("ack", error)
        })?,
        on_timeout,
        ack_timeout: Duration::from_micros(it.ack_timeout_us),
        max_rpo: RpoLimit {
            writes: it.max_rpo_writes,
            bytes: it.max_rpo_bytes,
            age: it.max_rpo_us.map(Duration::from_micros),
        },
        failover,
        successors: regions(&it.successors)?,
    };
    keyspace
        .validate()
        .or_else(|error| field("keyspace", error))
}
