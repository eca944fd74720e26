//! An operator's decision is put before the map, from any node.
//!
//! **Owns**: what a refusal means after a lost answer, waiting until it is known here.
//! **Does not own**: what is decided (keyspaces, regions), what the map refuses (core).

use std::sync::Arc;

use domicile_core::control::{Command, ControlMap};
use domicile_proto::Reason;
use tokio::time::Instant;

use super::homes::homes_are_static;
use super::interior::NodeCore;
use crate::error::Error;

impl NodeCore {
    /// The map once the command is done there, as it is known here. What another decision has
    /// overtaken is not waited for: whoever made that one does.
    pub(super) async fn decide(
        &self,
        command: Command,
        is_done: impl Fn(&ControlMap) -> bool,
        is_overtaken: impl Fn(&ControlMap) -> bool,
        deadline: Instant,
    ) -> Result<Arc<ControlMap>, Error> {
        let plane = self.plane.as_ref().ok_or_else(homes_are_static)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let refused = plane.propose(&[command], left).await?;
        // Asked for again as its answer was lost, it is done already.
        if let Some(why) = refused.into_iter().find(|why| !why.is_empty())
            && !is_done(&plane.map())
        {
            return Err(Error::new(Reason::InvalidArgument, why));
        }
        let mut maps = plane.maps.clone();
        let is_known = |map: &Arc<ControlMap>| is_done(map) || is_overtaken(map);
        let known = tokio::time::timeout_at(deadline, maps.wait_for(is_known)).await;
        match known {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            _ => {
                let message = "done, and not known at this node so far".to_owned();
                Err(Error::new(Reason::Recovering, message))
            }
        }
    }
}
