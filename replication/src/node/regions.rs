//! Regions are added and removed while the cluster runs.
//!
//! **Owns**: the commands, and that of a region that leaves nobody votes any more.
//! **Does not own**: what the map refuses (core), what nodes do about it (ownership).

use std::time::Duration;

use domicile_core::control::{Command, ControlMap};
use domicile_proto::{Reason, RegionId};
use tokio::time::Instant;

use super::homes::homes_are_static;
use super::interior::NodeCore;
use crate::error::Error;
use crate::options::RegionSpec;

/// How often it is looked whether nobody of a region votes any more.
const LOOK: Duration = Duration::from_millis(20);

impl NodeCore {
    pub(super) async fn add_region(
        &self,
        added: RegionSpec,
        within: Duration,
    ) -> Result<(), Error> {
        let (region, deadline) = (added.id, Instant::now() + within);
        let is_there = |map: &ControlMap| {
            map.regions().any(|(id, it)| {
                let is_same = it.name == added.name && it.is_witness == added.is_witness;
                id == region && is_same && it.peer_address == added.peer_address
            })
        };
        let command = Command::AddRegion {
            region,
            name: added.name.clone(),
            is_witness: added.is_witness,
            peer_address: added.peer_address.clone(),
            is_return: true,
        };
        self.decide(command, is_there, |_| false, deadline).await?;
        Ok(())
    }

    pub(super) async fn remove_region(
        &self,
        region: RegionId,
        within: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let command = Command::RemoveRegion { region };
        let is_gone = |map: &ControlMap| map.has_left(region);
        self.decide(command, is_gone, |_| false, deadline).await?;
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let votes = || {
            let members = plane.consensus.members();
            let mut of_region = members.members.values();
            of_region.any(|member| member.region == region)
        };
        // A node that is removed itself may never hear that it is.
        while votes() && region != self.topology.own.id {
            if Instant::now() >= deadline {
                let message = "removed, and its node is still a voter: no majority is up";
                return Err(Error::new(Reason::NoHome, message.to_owned()));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}
