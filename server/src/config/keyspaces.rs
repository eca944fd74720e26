//! The keyspaces and their policies, checked.
//!
//! **Owns**: defaults of a policy, names of regions in it, that no two keyspaces collide.
//! **Does not own**: what a policy may be (proto validates it).

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use domicile_proto::{
    BufferLimit, Failover, Keyspace, Name, OnTimeout, Placement, RegionId, RpoLimit,
};
use domicile_replication::RegionSpec;

use super::error::{ConfigError, Faults};
use super::given::{Given, KeyspaceGiven, PlacementGiven};

/// The keyspace of a node that is told of none.
const ONLY_KEYSPACE: &str = "default";

/// All keyspaces; with none given and one region, one with default policy.
pub(super) fn check(given: &Given, regions: &[RegionSpec], faults: &mut Faults) -> Vec<Keyspace> {
    let only = KeyspaceGiven {
        name: ONLY_KEYSPACE.to_owned(),
        ..KeyspaceGiven::default()
    };
    let all = match (&given.keyspace[..], regions) {
        ([], [_]) => &[only][..],
        ([], [_, _, ..]) => {
            faults.note(
                "keyspace",
                "none given, at least 1 expected with several regions",
            );
            return Vec::new();
        }
        (all, _) => all,
    };
    let mut keyspaces: Vec<Keyspace> = Vec::new();
    for each in all {
        let key = format!("keyspace.{}", each.name);
        let Some(keyspace) = (Check {
            key: &key,
            regions,
            faults,
        })
        .keyspace(each) else {
            continue;
        };
        if let Some(other) = keyspaces.iter().find(|other| other.id() == keyspace.id()) {
            let message = format_args!("its id {} is that of {}", other.id(), other.name);
            faults.note(&key, message);
        }
        keyspaces.push(keyspace);
    }
    keyspaces
}

/// A keyspace as a request defines it: a new one, or what is to become of one there is.
///
/// # Errors
/// Everything that is wrong with it.
pub(crate) fn define(
    given: &KeyspaceGiven,
    before: Option<&Keyspace>,
    regions: &[RegionSpec],
) -> Result<Keyspace, ConfigError> {
    let mut faults = Faults::default();
    let key = format!("keyspace.{}", given.name);
    let mut check = Check {
        key: &key,
        regions,
        faults: &mut faults,
    };
    let keyspace = match before {
        Some(before) => check.altered(given, before.clone()),
        None => check.keyspace(given),
    };
    faults.unless(keyspace)
}

/// One keyspace under check.
struct Check<'a> {
    key: &'a str,
    regions: &'a [RegionSpec],
    faults: &'a mut Faults,
}

impl Check<'_> {
    fn keyspace(&mut self, given: &KeyspaceGiven) -> Option<Keyspace> {
        let name = self.faults.check(self.key, Name::new(&given.name))?;
        let regions = self.allowed(given.regions.as_deref())?;
        let first = *regions.first().or_else(|| {
            self.faults
                .note(self.key, "no regions, at least 1 expected");
            None
        })?;
        let keyspace = Keyspace::new(name, regions, first);
        self.altered(given, keyspace)
    }

    /// What is given takes the place of what is there.
    fn altered(&mut self, given: &KeyspaceGiven, mut keyspace: Keyspace) -> Option<Keyspace> {
        if given.regions.is_some() {
            keyspace.regions = self.allowed(given.regions.as_deref())?;
        }
        if let Some(placement) = &given.placement {
            keyspace.placement = self.placement(placement)?;
        }
        if let Some(ack) = &given.ack {
            keyspace.ack = self.faults.check(&self.part("ack"), ack.parse())?;
        }
        if let Some(text) = &given.on_timeout {
            keyspace.on_timeout = self.on_timeout(text)?;
        }
        if let Some(timeout_ms) = given.ack_timeout_ms {
            keyspace.ack_timeout = Duration::from_millis(timeout_ms);
        }
        if let Some(buckets) = given.buckets {
            let buckets = NonZeroU16::new(buckets).ok_or("0, expected 1 to 1024");
            keyspace.buckets = self.faults.check(&self.part("buckets"), buckets)?;
        }
        if let Some(text) = &given.delimiter {
            let &[delimiter] = text.as_bytes() else {
                let message = format_args!("{text:?}, one byte expected");
                self.faults.note(&self.part("delimiter"), message);
                return None;
            };
            keyspace.delimiter = delimiter;
        }
        keyspace.max_rpo = self.max_rpo(given, keyspace.max_rpo)?;
        keyspace.failover = self.failover(given, keyspace.failover)?;
        if let Some(names) = &given.successors {
            keyspace.successors = self.successors(names, &keyspace.regions)?;
        }
        self.faults.check(self.key, keyspace.validate())
    }

    fn allowed(&mut self, names: Option<&[String]>) -> Option<Vec<RegionId>> {
        let Some(names) = names else {
            let holders = self.regions.iter().filter(|region| !region.is_witness);
            return Some(holders.map(|region| region.id).collect());
        };
        let key = self.part("regions");
        let ids: Vec<_> = names.iter().map(|name| self.region(&key, name)).collect();
        ids.into_iter().collect()
    }

    fn placement(&mut self, given: &PlacementGiven) -> Option<Placement> {
        let key = self.part("placement");
        let PlacementGiven {
            pinned,
            hash,
            rule,
            otherwise,
        } = given;
        match (pinned, hash, rule, otherwise) {
            (Some(region), None, None, None) => self.region(&key, region).map(Placement::Pinned),
            (None, Some(true), None, None) => Some(Placement::Hash),
            (None, None, Some(rules), Some(otherwise)) => {
                let prefixes = self.prefixes(&key, rules);
                let otherwise = self.region(&key, otherwise)?;
                Some(Placement::Rule {
                    prefixes: prefixes?,
                    otherwise,
                })
            }
            (None, None, Some(_), None) => {
                self.faults
                    .note(&key, "rule without otherwise, a region expected");
                None
            }
            _ => {
                let expected = "exactly one of pinned, hash = true, rule with otherwise expected";
                self.faults.note(&key, expected);
                None
            }
        }
    }

    fn prefixes(
        &mut self,
        key: &str,
        rules: &BTreeMap<String, String>,
    ) -> Option<Vec<(String, RegionId)>> {
        let mut prefix = |(prefix, region): (&String, &String)| {
            Some((prefix.clone(), self.region(key, region)?))
        };
        let prefixes: Vec<_> = rules.iter().map(&mut prefix).collect();
        prefixes.into_iter().collect()
    }

    fn failover(&mut self, given: &KeyspaceGiven, before: Failover) -> Option<Failover> {
        let limit = match before {
            Failover::Buffer(limit) => limit,
            Failover::Promote | Failover::ReadOnly => BufferLimit::default(),
        };
        let failover = match given.failover.as_deref() {
            None => before,
            Some("promote") => Failover::Promote,
            Some("read_only") => Failover::ReadOnly,
            Some("buffer") => Failover::Buffer(limit),
            Some(other) => {
                let message = format_args!("{other:?}, expected promote, read_only or buffer");
                self.faults.note(&self.part("failover"), message);
                return None;
            }
        };
        let (bytes, age_ms) = (given.buffer_bytes_max, given.buffer_ms_max);
        let caps = [
            ("buffer_bytes_max", bytes.is_some()),
            ("buffer_ms_max", age_ms.is_some()),
        ];
        match (failover, caps.into_iter().find(|(_, is_given)| *is_given)) {
            (Failover::Buffer(_), _) => Some(Failover::Buffer(BufferLimit {
                bytes: bytes.unwrap_or(limit.bytes),
                age: age_ms.map_or(limit.age, Duration::from_millis),
            })),
            (_, Some((cap, _))) => {
                let message = "given without failover = \"buffer\"";
                self.faults.note(&self.part(cap), message);
                None
            }
            (other, None) => Some(other),
        }
    }

    fn successors(&mut self, names: &[String], allowed: &[RegionId]) -> Option<Vec<RegionId>> {
        let key = self.part("successors");
        let mut found = Vec::new();
        for name in names {
            let region = self.region(&key, name)?;
            if !allowed.contains(&region) || found.contains(&region) {
                let message =
                    format_args!("{name:?}, each of the keyspace's regions once expected");
                self.faults.note(&key, message);
                return None;
            }
            found.push(region);
        }
        Some(found)
    }

    fn on_timeout(&mut self, text: &str) -> Option<OnTimeout> {
        match text {
            "fail" => Some(OnTimeout::Fail),
            "degrade" => Some(OnTimeout::Degrade),
            "block" => Some(OnTimeout::Block),
            other => {
                let message = format_args!("{other:?}, expected fail, degrade or block");
                self.faults.note(&self.part("on_timeout"), message);
                None
            }
        }
    }

    fn max_rpo(&mut self, given: &KeyspaceGiven, before: RpoLimit) -> Option<RpoLimit> {
        let limits = [
            ("max_rpo_writes", given.max_rpo_writes),
            ("max_rpo_bytes", given.max_rpo_bytes),
            ("max_rpo_ms", given.max_rpo_ms),
        ];
        if let Some((limit, _)) = limits.into_iter().find(|(_, value)| *value == Some(0)) {
            let message = "0 would refuse every write; ack = \"sync\" loses nothing";
            self.faults.note(&self.part(limit), message);
            return None;
        }
        Some(RpoLimit {
            writes: given.max_rpo_writes.or(before.writes),
            bytes: given.max_rpo_bytes.or(before.bytes),
            age: given.max_rpo_ms.map(Duration::from_millis).or(before.age),
        })
    }

    fn region(&mut self, key: &str, name: &str) -> Option<RegionId> {
        let found = self
            .regions
            .iter()
            .find(|region| region.name.as_str() == name);
        if found.is_none() {
            let names: Vec<&str> = self.regions.iter().map(|each| each.name.as_str()).collect();
            let message = format_args!("no region {name:?}, there are {}", names.join(", "));
            self.faults.note(key, message);
        }
        found.map(|region| region.id)
    }

    fn part(&self, part: &str) -> String {
        format!("{}.{part}", self.key)
    }
}
