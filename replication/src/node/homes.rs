//! Homes as an operator sees them: what changed hands, what it cost, giving a home up by hand.
//!
//! **Owns**: the shapes shown, which partitions an operator's word is about.
//! **Does not own**: deciding (the leader), orphan files (storage).

use std::sync::Arc;
use std::time::Duration;

use domicile_core::control::{Change, OperatorWord, Why};
use domicile_proto::{PartitionId, Reason, RegionId};
use domicile_storage::{Orphan, OrphanFile, OrphanState};
use tokio::sync::oneshot;

use super::interior::NodeCore;
use crate::error::Error;
use crate::ownership::{LeadInput, blocking};

/// How long the leader's task may take to hear an operator.
const HEARING_MAX: Duration = Duration::from_secs(2);

/// A change of home, for people. Times are in ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HomeChange {
    /// Of which partition.
    pub partition: PartitionId,
    /// The keyspace's name.
    pub keyspace: String,
    /// The region of the old home, and its reign.
    pub from: (String, String),
    /// The region of the new home, and its reign.
    pub to: (String, String),
    /// Whether it was planned.
    pub is_planned: bool,
    /// From when the home was last heard of until it was given up.
    pub detect_ms: Option<u64>,
    /// Until it could not acknowledge any more.
    pub fence_ms: Option<u64>,
    /// Until its successor served.
    pub promote_ms: Option<u64>,
    /// Records that were known to be lost when the successor was chosen: the old home may have had
    /// more.
    pub estimated_writes_min: u64,
    /// Records beyond the fork that the old home had; `None` until its journal was read.
    pub actual_writes: Option<u64>,
    /// Their bytes on disk.
    pub actual_bytes: Option<u64>,
}

/// A record that a new home never had.
#[derive(Debug, Clone)]
pub struct OrphanRecord {
    /// The file that keeps it.
    pub file: OrphanFile,
    /// The record, its place and what became of it.
    pub orphan: Orphan,
}

impl NodeCore {
    pub(super) fn home_changes(&self) -> Result<Vec<HomeChange>, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let map = plane.map();
        let region = |node| {
            let id = map.node(node).map(|it| it.region);
            let spec = id.and_then(|id| self.topology.region(id));
            spec.map_or_else(String::new, |spec| spec.name.to_string())
        };
        let shown = |change: &Change| {
            let times = change.times();
            let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            let keyspace = map.keyspace(change.partition.keyspace);
            let estimated = match change.why {
                Why::Lost(_, decision) => decision.known_upto.since(decision.upto),
                Why::Planned => 0,
            };
            HomeChange {
                partition: change.partition,
                keyspace: keyspace.map_or_else(String::new, |it| it.name.to_string()),
                from: (region(change.from.node), change.from.to_string()),
                to: (region(change.to.node), change.to.to_string()),
                is_planned: change.why == Why::Planned,
                detect_ms: times.map(|times| ms(times.detect)),
                fence_ms: times.map(|times| ms(times.fence)),
                promote_ms: times.map(|times| ms(times.promote)),
                estimated_writes_min: estimated,
                actual_writes: change.actual.map(|(records, _)| records),
                actual_bytes: change.actual.map(|(_, bytes)| bytes),
            }
        };
        Ok(map.history().iter().map(shown).collect())
    }

    pub(super) async fn give_up_homes(
        &self,
        region: RegionId,
        word: OperatorWord,
    ) -> Result<usize, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        if !plane.consensus.is_leader() {
            let leader = plane.consensus.leader().and_then(|leader| leader.member);
            let leader = leader.and_then(|member| self.topology.region(member.region));
            let leader = leader.map_or_else(|| "unknown".to_owned(), |it| it.name.to_string());
            let message = format!("this node does not lead the control plane; leader: {leader}");
            return Err(Error::new(Reason::NoHome, message).with("leader", leader));
        }
        let map = plane.map();
        let homes = map.assignments().filter(|(_, it)| {
            let home = map.node(it.home).map(|node| node.region);
            home == Some(region)
        });
        let partitions: Vec<PartitionId> = homes.map(|(partition, _)| partition).collect();
        let count = partitions.len();
        let (reply, heard) = oneshot::channel();
        let input = LeadInput::GiveUp {
            partitions,
            word,
            reply,
        };
        let busy = || Error::new(Reason::Overloaded, "the leader is busy");
        plane.lead.try_send(input).map_err(|_| busy())?;
        let heard = tokio::time::timeout(HEARING_MAX, heard).await;
        match heard {
            Ok(Ok(())) => Ok(count),
            _ => Err(busy()),
        }
    }

    pub(super) async fn orphans(self: &Arc<Self>) -> Result<Vec<OrphanRecord>, Error> {
        let store = Arc::clone(&self.store);
        let read = blocking(move || {
            let mut all = Vec::new();
            for file in store.orphan_files()?.files {
                for orphan in store.orphan_records(file.id())? {
                    let orphan = orphan?;
                    all.push(OrphanRecord { file, orphan });
                }
            }
            Ok(all)
        });
        read.await
    }
}

/// What became of an orphan, in a word.
#[must_use]
pub fn orphan_state(state: OrphanState) -> &'static str {
    match state {
        OrphanState::Open => "open",
        OrphanState::Replayed => "replayed",
        OrphanState::Discarded => "discarded",
    }
}

fn homes_are_static() -> Error {
    let message = "homes are static here: set cluster.homes to agreed at every node";
    Error::new(Reason::InvalidArgument, message)
}
