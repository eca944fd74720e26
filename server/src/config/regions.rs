//! The regions of a cluster, checked.
//!
//! **Owns**: which one is the own, that names and ids are distinct, that the others can be dialled.
//! **Does not own**: whether they answer (the node).

use domicile_proto::{Name, RegionId};
use domicile_replication::RegionSpec;

use super::error::Faults;
use super::given::{Given, RegionGiven};

/// The region of a node that is told of none.
const ONLY_REGION: &str = "local";

/// The own region: as given, or the only one there is.
pub(super) fn own(given: &Given, faults: &mut Faults) -> Option<Name> {
    let text = match (&given.node.region, &given.region[..]) {
        (Some(region), _) => region,
        (None, []) => ONLY_REGION,
        (None, [only]) => &only.name,
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|region| region.name.as_str()).collect();
            faults.note(
                "node.region",
                format_args!("missing, one of {}", names.join(", ")),
            );
            return None;
        }
    };
    faults.check("node.region", Name::new(text))
}

/// All regions; with none given, the own one alone.
pub(super) fn check(given: &Given, own: Option<&Name>, faults: &mut Faults) -> Vec<RegionSpec> {
    let mut regions: Vec<RegionSpec> = Vec::new();
    for each in &given.region {
        let key = format!("region.{}", each.name);
        let Some(name) = faults.check(&key, Name::new(&each.name)) else {
            continue;
        };
        let Some(id) = id(&key, each, &name, faults) else {
            continue;
        };
        if regions.iter().any(|other| other.name == name) {
            faults.note(&key, "listed twice");
            continue;
        }
        if let Some(other) = regions.iter().find(|other| other.id == id) {
            let message = format_args!(
                "its id {id} is that of {}: give one of them an id",
                other.name
            );
            faults.note(&key, message);
        }
        let peer_address = peer(&key, each, own == Some(&name), faults);
        regions.push(RegionSpec {
            name,
            id,
            peer_address,
            is_witness: each.witness.unwrap_or(false),
        });
    }
    if given.cluster.homes.as_deref() != Some("agreed")
        && let Some(witness) = regions.iter().find(|region| region.is_witness)
    {
        let key = format!("region.{}.witness", witness.name);
        faults.note(&key, "true, where homes are static nobody votes");
    }
    let Some(own) = own else { return regions };
    let spec = regions.iter().find(|region| region.name == *own);
    let is_witness = spec.is_some_and(|region| region.is_witness);
    if let Some(said) = given.node.witness.filter(|said| *said != is_witness) {
        let message = format_args!("{said}, region.{own}.witness is {is_witness}");
        faults.note("node.witness", message);
    }
    if given.region.is_empty() {
        regions.push(RegionSpec::new(own.clone(), None));
    } else if regions.iter().all(|region| region.name != *own) {
        faults.note(
            "node.region",
            format_args!("{own} is not among the regions"),
        );
    }
    regions
}

fn id(key: &str, given: &RegionGiven, name: &Name, faults: &mut Faults) -> Option<RegionId> {
    match given.id {
        Some(id) => faults.check(&format!("{key}.id"), RegionId::new(id)),
        None => Some(RegionId::of(name)),
    }
}

/// The own region's address is for the others, who may read the same file.
fn peer(key: &str, given: &RegionGiven, is_own: bool, faults: &mut Faults) -> Option<String> {
    let key = format!("{key}.peer");
    let Some(text) = given.peer.as_deref() else {
        if !is_own {
            faults.note(&key, "missing, host:port expected");
        }
        return None;
    };
    let address = faults.check(&key, peer_address(text))?;
    (!is_own).then_some(address)
}

/// Where a peer is dialled, in the form that the node takes.
///
/// # Errors
/// What is wrong with it.
pub fn peer_address(text: &str) -> Result<String, String> {
    let bare = text
        .strip_prefix("http://")
        .unwrap_or(text)
        .trim_end_matches('/');
    let parts = bare.rsplit_once(':');
    let sound = parts.is_some_and(|(host, port)| {
        let plain = |symbol: char| symbol.is_ascii_alphanumeric() || "-._[]:".contains(symbol);
        !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok_and(|p| p > 0)
    });
    match sound {
        true => Ok(format!("http://{bare}")),
        false => Err(format!("{text:?}, expected host:port or http://host:port")),
    }
}
