//! A keyspace's policy in plain words, and what it promises.
//!
//! **Owns**: the wording.
//! **Does not own**: the policy (proto), what holds of it now (`status_report`).

use std::time::Duration;

use domicile_proto::{AckLevel, Failover, Keyspace, OnTimeout, Placement, RegionId, v1};
use domicile_replication::Node;

/// The policy of a keyspace as an operator reads it: what the regions have agreed on, or what this
/// node was told where they agree on nothing.
pub(crate) fn describe(node: &Node, told: &Keyspace) -> v1::KeyspaceDescription {
    let agreed = node.versioned_policy(told.name.as_str()).ok();
    let (keyspace, version) = match &agreed {
        Some(agreed) => (&*agreed.keyspace, agreed.version),
        None => (told, 0),
    };
    let name = |region: RegionId| node.region_name(region);
    let max_rpo = &keyspace.max_rpo;
    let age_ms = max_rpo
        .age
        .and_then(|age| u64::try_from(age.as_millis()).ok());
    let buffer = match keyspace.failover {
        Failover::Buffer(limit) => Some(limit),
        Failover::Promote | Failover::ReadOnly => None,
    };
    v1::KeyspaceDescription {
        name: keyspace.name.to_string(),
        regions: keyspace.regions.iter().copied().map(name).collect(),
        placement: placement(&keyspace.placement, &name),
        ack: keyspace.ack.to_string(),
        on_timeout: on_timeout(keyspace.on_timeout).to_owned(),
        ack_timeout_ms: u64::try_from(keyspace.ack_timeout.as_millis()).unwrap_or(u64::MAX),
        buckets: keyspace.buckets.get().into(),
        delimiter: char::from(keyspace.delimiter).to_string(),
        posture: posture(keyspace).to_owned(),
        promise: promise(keyspace, recovery(node, keyspace)),
        max_rpo_writes: max_rpo.writes.unwrap_or(0),
        max_rpo_bytes: max_rpo.bytes.unwrap_or(0),
        max_rpo_ms: age_ms.unwrap_or(0),
        failover: match keyspace.failover {
            Failover::Promote => "promote",
            Failover::ReadOnly => "read_only",
            Failover::Buffer(_) => "buffer",
        }
        .to_owned(),
        successors: keyspace.successors.iter().copied().map(name).collect(),
        version,
        buffer_bytes_max: buffer.map_or(0, |limit| limit.bytes),
        buffer_ms_max: buffer.map_or(0, |limit| {
            u64::try_from(limit.age.as_millis()).unwrap_or(u64::MAX)
        }),
    }
}

fn placement(placement: &Placement, name: &dyn Fn(RegionId) -> String) -> String {
    match placement {
        Placement::Pinned(region) => format!("pinned({})", name(*region)),
        Placement::Hash => "hash".to_owned(),
        Placement::Rule {
            prefixes,
            otherwise,
        } => {
            let rules = prefixes.iter();
            let rules: String = rules
                .map(|(prefix, region)| format!("{prefix}={}, ", name(*region)))
                .collect();
            format!("rule({rules}otherwise {})", name(*otherwise))
        }
    }
}

fn on_timeout(on_timeout: OnTimeout) -> &'static str {
    match on_timeout {
        OnTimeout::Fail => "fail",
        OnTimeout::Degrade => "degrade",
        OnTimeout::Block => "block",
    }
}

fn posture(keyspace: &Keyspace) -> &'static str {
    match (&keyspace.placement, keyspace.ack, keyspace.copies()) {
        (_, _, 0) => "single region",
        (_, AckLevel::Sync { .. }, _) => "synchronous multi-region",
        (Placement::Pinned(_), _, _) => "active-passive",
        _ => "active-active by home",
    }
}

/// When the keys of a lost home can be written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Recovery {
    /// Homes are static.
    WithTheHome,
    /// By itself, within this.
    ByItself(Duration),
    /// An operator decides, or has to see that the home is off.
    ByOperator,
}

fn recovery(node: &Node, keyspace: &Keyspace) -> Recovery {
    match (node.takeover_max(keyspace), keyspace.failover) {
        (None, _) => Recovery::WithTheHome,
        (Some(Some(within)), Failover::Promote) => Recovery::ByItself(within),
        _ => Recovery::ByOperator,
    }
}

fn promise(keyspace: &Keyspace, recovery: Recovery) -> String {
    let copies = keyspace.copies();
    if copies == 0 {
        return "RPO: everything since the last backup, if the region is lost; no takeover".into();
    }
    let rpo = match keyspace.ack {
        AckLevel::Async => "RPO: the replication lag".to_owned(),
        AckLevel::SemiSync { regions } => {
            format!("RPO 0, unless home and {regions} other region(s) lose power within one fsync")
        }
        AckLevel::Sync { quorum: None } => "RPO 0".to_owned(),
        AckLevel::Sync {
            quorum: Some(quorum),
        } => {
            format!(
                "RPO 0 while at most {} region(s) are lost",
                quorum.get() - 1
            )
        }
    };
    let degraded = match keyspace.on_timeout {
        OnTimeout::Degrade if keyspace.ack != AckLevel::Async => {
            "; while degraded: the replication lag"
        }
        _ => "",
    };
    let rto = match recovery {
        Recovery::WithTheHome => "until the home returns (homes are static)".to_owned(),
        Recovery::ByItself(within) => format!("{} ms by itself", within.as_millis()),
        Recovery::ByOperator => "until an operator decides (failover run)".to_owned(),
    };
    let buffered = match keyspace.failover {
        Failover::Buffer(_) => "; meanwhile unconditional writes wait at the node that took them",
        Failover::Promote | Failover::ReadOnly => "",
    };
    format!("{rpo}{degraded}; RTO: {rto}{buffered}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::Name;

    fn keyspace(regions: u16) -> Keyspace {
        let regions: Vec<RegionId> = (1..=regions).map(|id| RegionId::new(id).unwrap()).collect();
        Keyspace::new(Name::new("users").unwrap(), regions.clone(), regions[0])
    }

    #[test]
    fn postures_are_told_apart() {
        assert_eq!(posture(&keyspace(1)), "single region");
        assert_eq!(posture(&keyspace(2)), "active-passive");
        let mut spread = keyspace(3);
        spread.placement = Placement::Hash;
        assert_eq!(posture(&spread), "active-active by home");
        spread.ack = AckLevel::SYNC;
        assert_eq!(posture(&spread), "synchronous multi-region");
    }

    #[test]
    fn promises_follow_the_level() {
        let promised = |ack: &str, on_timeout| {
            let mut keyspace = keyspace(3);
            keyspace.ack = ack.parse().unwrap();
            keyspace.on_timeout = on_timeout;
            promise(&keyspace, Recovery::WithTheHome)
        };
        assert!(promised("async", OnTimeout::Degrade).starts_with("RPO: the replication lag; RTO"));
        assert!(promised("sync", OnTimeout::Fail).starts_with("RPO 0;"));
        assert!(promised("sync:2", OnTimeout::Fail).contains("at most 1 region(s)"));
        assert!(promised("sync", OnTimeout::Degrade).contains("while degraded"));
        assert!(promise(&keyspace(1), Recovery::WithTheHome).contains("no takeover"));
        let within = Duration::from_millis(2400);
        let by_itself = promise(&keyspace(3), Recovery::ByItself(within));
        assert!(by_itself.ends_with("RTO: 2400 ms by itself"), "{by_itself}");
        let mut buffer = keyspace(3);
        buffer.failover = Failover::Buffer(domicile_proto::BufferLimit::default());
        let buffered = promise(&buffer, Recovery::ByOperator);
        assert!(
            buffered.ends_with(
                "(failover run); meanwhile unconditional writes wait at the node that took them"
            ),
            "{buffered}"
        );
    }

    #[test]
    fn placements_are_written_as_configured() {
        let name = |region: RegionId| format!("r{}", region.get());
        let region = |id| RegionId::new(id).unwrap();
        assert_eq!(
            placement(&Placement::Pinned(region(2)), &name),
            "pinned(r2)"
        );
        let prefixes = vec![("eu-".to_owned(), region(2))];
        let rule = Placement::Rule {
            prefixes,
            otherwise: region(1),
        };
        assert_eq!(placement(&rule, &name), "rule(eu-=r2, otherwise r1)");
    }
}
