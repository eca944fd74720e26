//! Regions that agree on homes, with one keyspace that changes hands.
//!
//! **Owns**: setting them up, knowing when all is well, handing the homes on.
//! **Does not own**: losing a region (`rig`), the figures (`takeover`, `switchover`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::NodeId;
use domicile_proto::v1::{HomeChange, StatusResponse, SwitchOverResponse};

use super::operator::Operator;
use super::writer::WriterPlan;
use crate::bench::options::BenchOptions;
use crate::rig::{Cluster, ClusterPlan, Door, HomePlan, KeyspacePlan, Stop};

/// The keyspace, at home in the first region when it begins.
pub(super) const KEYSPACE: &str = "bench-failover";

/// How long it may take until all is well after whatever happened: a region restarts, seals what
/// it had alone and catches up within a few seconds. Doubled, one that never does is reported
/// twice as late.
const WELL_MAX: Duration = Duration::from_secs(60);

/// How often it is looked whether it is.
const POLL: Duration = Duration::from_millis(50);

/// How often homes that stayed are handed on again: a region that has just come back may not keep
/// up at once.
const HAND_ON_TRIES: usize = 20;

/// A change of home, by the partition and the reign that began.
pub(super) type ChangeId = (Bytes, String);

/// Running regions with a door to each.
pub(super) struct Scene {
    pub(super) cluster: Cluster,
    pub(super) regions: Vec<String>,
    value_bytes: usize,
    doors: BTreeMap<String, Door>,
    operators: BTreeMap<String, Operator>,
}

impl Scene {
    /// Starts them and waits until all is well.
    ///
    /// # Errors
    /// A server does not start or is not ready in time, or an interrupt.
    pub(super) fn set(
        options: &BenchOptions,
        ack: &str,
        dir: PathBuf,
        stop: &Stop,
    ) -> anyhow::Result<Self> {
        let rtts = options.rtts()?;
        let plan = ClusterPlan {
            homes: options.failover.homes(&rtts),
            rtts,
            program: options.program.clone(),
            keyspaces: vec![KeyspacePlan {
                name: KEYSPACE.to_owned(),
                ack: ack.to_owned(),
                home: HomePlan::Pinned(options.home().to_owned()),
                buckets: None,
            }],
            dir,
        };
        let cluster = Cluster::start(&plan, stop)?;
        let (mut doors, mut operators) = (BTreeMap::new(), BTreeMap::new());
        for region in &options.regions {
            let endpoint = cluster.endpoint(region)?;
            doors.insert(region.clone(), Door::new(&endpoint)?);
            operators.insert(region.clone(), Operator::new(&endpoint)?);
        }
        let scene = Self {
            cluster,
            regions: options.regions.clone(),
            value_bytes: options.value_bytes,
            doors,
            operators,
        };
        scene.until_well(stop)?;
        Ok(scene)
    }

    /// An operator at the door of a region.
    ///
    /// # Errors
    /// There is no such region.
    pub(super) fn operator(&self, region: &str) -> anyhow::Result<&Operator> {
        let found = self.operators.get(region);
        found.with_context(|| format!("unknown region {region:?}"))
    }

    /// What a writer with a prefix of its own writes, through the doors of some regions.
    ///
    /// # Errors
    /// There is no such region.
    pub(super) fn writer<'a>(
        &self,
        prefix: String,
        regions: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<WriterPlan> {
        let endpoints = regions.into_iter().map(|it| self.cluster.endpoint(it));
        Ok(WriterPlan {
            endpoints: endpoints.collect::<anyhow::Result<_>>()?,
            keyspace: KEYSPACE.to_owned(),
            prefix,
            value_bytes: self.value_bytes,
        })
    }

    /// The node of a region.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn node(&self, region: &str) -> anyhow::Result<NodeId> {
        Ok(NodeId::new(self.door(region)?.status()?.node)?)
    }

    /// What has changed hands so far, as a region knows it.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn changes_known(&self, region: &str) -> anyhow::Result<BTreeSet<ChangeId>> {
        let changes = self.operator(region)?.changes()?;
        let id = |it: HomeChange| (it.partition, it.to_epoch);
        Ok(changes.into_iter().map(id).collect())
    }

    /// What was lost by a home and taken by another beside what was `known`, as a region knows it.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn losses_since(
        &self,
        region: &str,
        known: &BTreeSet<ChangeId>,
    ) -> anyhow::Result<Vec<HomeChange>> {
        let mut changes = self.operator(region)?.changes()?;
        changes.retain(|it| {
            let id = (it.partition.clone(), it.to_epoch.clone());
            !it.planned && !known.contains(&id)
        });
        Ok(changes)
    }

    /// Partitions of the keyspace that are at home in a region, as the region says.
    ///
    /// # Errors
    /// It does not answer.
    pub(super) fn homes_in(&self, region: &str) -> anyhow::Result<usize> {
        let status = self.door(region)?.status_of_partitions()?;
        let at_home = status.partitions.iter().filter(|it| it.role == "home");
        Ok(at_home.count())
    }

    /// Hands on all homes, again if some stay, and waits until all is well.
    ///
    /// # Errors
    /// Some stay for good, or not all is well in time, or an interrupt.
    pub(super) fn hand_on(&self, to: &str, stop: &Stop) -> anyhow::Result<()> {
        let mut stayed = SwitchOverResponse::default().stayed;
        for _ in 0..HAND_ON_TRIES {
            stayed = self.operator(to)?.hand_on(KEYSPACE, to)?.stayed;
            if stayed.is_empty() {
                return self.until_well(stop);
            }
            stop.sleep(POLL)?;
        }
        anyhow::bail!("homes cannot be handed on to {to}: {stayed:?}")
    }

    /// Waits until every partition has one home, and each copy has all of it.
    ///
    /// # Errors
    /// It takes too long, or an interrupt.
    pub(super) fn until_well(&self, stop: &Stop) -> anyhow::Result<()> {
        let since = Instant::now();
        while let Some(why) = self.obstacle() {
            anyhow::ensure!(since.elapsed() < WELL_MAX, "not well in time: {why}");
            stop.sleep(POLL)?;
        }
        Ok(())
    }

    /// What is not well.
    fn obstacle(&self) -> Option<String> {
        let mut all = Vec::new();
        for (region, door) in &self.doors {
            match door.status_of_partitions() {
                Ok(status) => all.push(status),
                Err(error) => return Some(format!("{region}: {error:#}")),
            }
        }
        obstacle_in(&all)
    }

    fn door(&self, region: &str) -> anyhow::Result<&Door> {
        let found = self.doors.get(region);
        found.with_context(|| format!("unknown region {region:?}"))
    }
}

/// What is not well by what all regions say.
fn obstacle_in(all: &[StatusResponse]) -> Option<String> {
    let mut homes: BTreeMap<&Bytes, usize> = BTreeMap::new();
    for status in all {
        let region = &status.region;
        for it in &status.partitions {
            let (at, is_home) = (format!("{region}: {:?}", it.partition), it.role == "home");
            *homes.entry(&it.partition).or_default() += usize::from(is_home);
            // What a home has said of its copies stays, and after its reign, too.
            let is_of_copies = it.alarm.starts_with("Copy");
            if !it.alarm.is_empty() && !is_of_copies {
                return Some(format!("{at}: {}", it.alarm));
            }
            if is_home && it.copies.len() + 1 != all.len() {
                return Some(format!("{at} has {} copies", it.copies.len()));
            }
            let lacks = |upto: u64| upto < it.appended_upto;
            let behind = it
                .copies
                .iter()
                .find(|it| !it.connected || lacks(it.durable_upto));
            if let Some(copy) = behind.filter(|_| is_home) {
                let (has, of) = (copy.durable_upto, it.appended_upto);
                return Some(format!("{at}: {} has {has} of {of}", copy.region));
            }
        }
    }
    let odd = homes.iter().find(|(_, homes)| **homes != 1);
    let odd = odd.map(|(id, homes)| format!("{id:?} has {homes} homes"));
    odd.or_else(|| {
        homes
            .is_empty()
            .then(|| "there are no partitions".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use domicile_proto::v1::{CopyStatus, PartitionStatus};

    use super::*;

    fn status(region: &str, role: &str) -> StatusResponse {
        let copy = CopyStatus {
            region: "b".to_owned(),
            connected: true,
            durable_upto: 9,
            ..CopyStatus::default()
        };
        let partition = PartitionStatus {
            partition: Bytes::from_static(b"p"),
            role: role.to_owned(),
            appended_upto: 9,
            copies: vec![copy],
            ..PartitionStatus::default()
        };
        StatusResponse {
            region: region.to_owned(),
            partitions: vec![partition],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn all_is_well_with_one_home_and_copies_that_have_all() {
        let well = [status("a", "home"), status("b", "copy")];
        assert_eq!(obstacle_in(&well), None);
        let two = [status("a", "home"), status("b", "home")];
        assert!(obstacle_in(&two).unwrap().contains("2 homes"));
        let none = [status("a", "copy"), status("b", "copy")];
        assert!(obstacle_in(&none).unwrap().contains("0 homes"));
        let mut behind = well.clone();
        behind[0].partitions[0].appended_upto = 10;
        assert!(obstacle_in(&behind).unwrap().contains("b has 9 of 10"));
        let mut alarmed = well.clone();
        alarmed[1].partitions[0].alarm = "its log has left its home's".to_owned();
        assert!(obstacle_in(&alarmed).unwrap().contains("has left"));
        assert!(obstacle_in(&[]).unwrap().contains("no partitions"));
    }
}
