//! Regions come and go while the cluster runs.
//!
//! **Owns**: doing what the map says of them: links, streams and ways of the control plane.
//! **Does not own**: which there are (the map), who votes (enrolment).

use std::sync::Arc;

use domicile_core::control::ControlMap;

use super::plane::Plane;
use crate::driver::Driver;
use crate::error::Error;
use crate::node::NodeCore;
use crate::options::RegionSpec;
use crate::peers::PeerLink;
use crate::shipping::run_shipper;

/// Follows the map until the node closes.
pub(crate) async fn run_regions(node: Arc<NodeCore>, plane: Arc<Plane>) {
    let mut maps = plane.maps.clone();
    let mut is_told = false;
    loop {
        let map = Arc::clone(&maps.borrow_and_update());
        follow(&node, &plane, &map);
        if map.has_left(node.topology.own.id) && !is_told {
            let region = &node.topology.own.name;
            tracing::error!(%region, "this region was removed from the cluster: this node can go");
            is_told = true;
        }
        tokio::select! {
            () = node.closed() => return,
            changed = maps.changed() => if changed.is_err() { return },
        }
    }
}

fn follow(node: &Arc<NodeCore>, plane: &Plane, map: &ControlMap) {
    let change = node.topology.follow(map);
    for region in change.left {
        node.links.remove(region);
        node.driver.peers.remove(region);
        plane.clients.remove(region);
        tracing::info!(%region, "the region has left the cluster");
    }
    for region in change.added {
        let added = plane.clients.add(&region);
        let link = added.and_then(|()| link_of(&region, &node.driver));
        match link {
            Ok(link) => {
                node.links.add(Arc::clone(&link));
                tokio::spawn(run_shipper(Arc::clone(node), link));
                tracing::info!(region = %region.name, "the region is part of the cluster");
            }
            Err(error) => tracing::error!(region = %region.name, %error, "no way to the region"),
        }
    }
}

/// The link to a region, with its signals. Must be called within the runtime.
pub(crate) fn link_of(region: &RegionSpec, driver: &Driver) -> Result<Arc<PeerLink>, Error> {
    let signals = driver.peers.add(region.id);
    let (ship, source) = (Arc::clone(&signals.ship), Arc::clone(&signals.source));
    Ok(Arc::new(PeerLink::new(region.clone(), ship, source)?))
}
