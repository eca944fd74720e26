//! Regions at the operator's door: added and removed.
//!
//! **Owns**: reading the requests.
//! **Does not own**: what an address or a name may be (config, proto), what is refused (the map).

use domicile_proto::{Name, RegionId, v1};
use domicile_replication::{Error, Node, RegionSpec};

use super::failover::{WITHIN_DEFAULT, invalid, region};
use crate::config::peer_address;

pub(super) async fn add(
    node: &Node,
    request: v1::AddRegionRequest,
) -> Result<v1::AddRegionResponse, Error> {
    let name = Name::new(&request.name).map_err(|error| invalid(format!("name: {error}")))?;
    let id = match request.id {
        0 => RegionId::of(&name),
        given => {
            let narrow = u16::try_from(given).ok();
            let id = narrow.and_then(|id| RegionId::new(id).ok());
            id.ok_or_else(|| invalid(format!("id: {given}, expected 1 to 65535")))?
        }
    };
    let address = peer_address(&request.peer);
    let address = address.map_err(|error| invalid(format!("peer: {error}")))?;
    let added = RegionSpec {
        name,
        id,
        peer_address: Some(address),
        is_witness: request.witness,
    };
    node.add_region(added, WITHIN_DEFAULT).await?;
    Ok(v1::AddRegionResponse {
        id: id.get().into(),
    })
}

pub(super) async fn remove(
    node: &Node,
    request: &v1::RemoveRegionRequest,
) -> Result<v1::RemoveRegionResponse, Error> {
    let region = region(node, "name", &request.name)?;
    node.remove_region(region, WITHIN_DEFAULT).await?;
    Ok(v1::RemoveRegionResponse {})
}
