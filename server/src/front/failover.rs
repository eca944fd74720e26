//! Homes at the operator's door: plans, takeovers, switchovers, reports.
//!
//! **Owns**: reading the requests, the fields of the answers.
//! **Does not own**: what is decided (the node).

use std::time::Duration;

use domicile_proto::{Name, PartitionId, Reason, RegionId, v1};
use domicile_replication::{Error, FailoverPlan, Fencing, HomeChange, Node, OperatorWord};

/// How long a change of homes may take if the request does not say: as long as an election takes,
/// and much more.
pub(super) const WITHIN_DEFAULT: Duration = Duration::from_secs(30);

/// The longest that a request may wait for one, in ms: ten minutes.
const WITHIN_MS_MAX: u32 = 600_000;

pub(super) fn invalid(message: String) -> Error {
    Error::new(Reason::InvalidArgument, message)
}

/// How long a request waits for homes to change.
pub(super) fn within(within_ms: u32) -> Result<Duration, Error> {
    match within_ms {
        0 => Ok(WITHIN_DEFAULT),
        1..=WITHIN_MS_MAX => Ok(Duration::from_millis(within_ms.into())),
        actual => Err(invalid(format!(
            "within_ms: {actual}, limit {WITHIN_MS_MAX}"
        ))),
    }
}

/// The region of this name.
pub(super) fn region(node: &Node, what: &str, name: &str) -> Result<RegionId, Error> {
    let known = node.regions();
    let found = known.iter().find(|spec| spec.name.as_str() == name);
    found.map(|spec| spec.id).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|spec| spec.name.as_str()).collect();
        invalid(format!(
            "{what}: no region {name:?}, there are {}",
            names.join(", ")
        ))
    })
}

/// The keyspace of this name; empty: all.
fn keyspace(node: &Node, name: &str) -> Result<Option<Name>, Error> {
    if name.is_empty() {
        return Ok(None);
    }
    let found = node.keyspace(name)?;
    Ok(Some(found.policy().name.clone()))
}

pub(super) fn bytes_of(partition: PartitionId) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&partition.to_bytes())
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn plan(
    node: &Node,
    request: &v1::PlanFailoverRequest,
) -> Result<v1::PlanFailoverResponse, Error> {
    let region = region(node, "region", &request.region)?;
    let keyspace = keyspace(node, &request.keyspace)?;
    let plans = node.failover_plan(region, keyspace.as_ref())?;
    let partitions = plans.into_iter().map(planned).collect();
    Ok(v1::PlanFailoverResponse { partitions })
}

fn planned(plan: FailoverPlan) -> v1::PlannedFailover {
    v1::PlannedFailover {
        partition: bytes_of(plan.partition),
        keyspace: plan.keyspace,
        home_region: plan.home.0,
        epoch: plan.home.1,
        fencing: match plan.fencing {
            Fencing::Lease => "lease",
            Fencing::AckRevocation => "ack-revocation",
            Fencing::Operator => "operator",
        }
        .to_owned(),
        automatic: plan.is_automatic,
        successors: plan.successors,
        loss: Some(v1::Loss {
            writes: plan.loss.writes,
            bytes: plan.loss.bytes,
            age_ms: ms(plan.loss.age),
        }),
        loss_exact: plan.is_loss_exact,
        rto_ms_max: plan.rto_max.map_or(0, ms),
        obstacle: plan.obstacle.unwrap_or_default(),
    }
}

pub(super) async fn give_up(
    node: &Node,
    request: v1::GiveUpHomesRequest,
) -> Result<v1::GiveUpHomesResponse, Error> {
    let from = region(node, "region", &request.region)?;
    let keyspace = keyspace(node, &request.keyspace)?;
    let to = match request.to.is_empty() {
        true => None,
        false => Some(region(node, "to", &request.to)?),
    };
    let word = OperatorWord {
        is_fenced: request.fenced,
        accepts_split_brain: request.accept_split_brain,
        to,
    };
    let given = node.give_up_homes(from, keyspace.as_ref(), word).await?;
    Ok(v1::GiveUpHomesResponse {
        partitions: u32::try_from(given.partitions).unwrap_or(u32::MAX),
        refused: stayed(given.refused),
    })
}

pub(super) async fn switch_over(
    node: &Node,
    request: v1::SwitchOverRequest,
) -> Result<v1::SwitchOverResponse, Error> {
    let from = match request.from.is_empty() {
        true => None,
        false => Some(region(node, "from", &request.from)?),
    };
    let to = region(node, "to", &request.to)?;
    let keyspace = keyspace(node, &request.keyspace)?;
    let within = within(request.within_ms)?;
    let outcome = node
        .switch_over(from, to, keyspace.as_ref(), within)
        .await?;
    Ok(v1::SwitchOverResponse {
        moved: outcome.moved.into_iter().map(bytes_of).collect(),
        stayed: stayed(outcome.stayed),
    })
}

fn stayed(stayed: Vec<(PartitionId, String)>) -> Vec<v1::StayedHome> {
    let stayed = stayed.into_iter().map(|(partition, why)| v1::StayedHome {
        partition: bytes_of(partition),
        why,
    });
    stayed.collect()
}

pub(super) fn changes(node: &Node) -> Result<v1::ListHomeChangesResponse, Error> {
    let changes = node.home_changes()?;
    Ok(v1::ListHomeChangesResponse {
        changes: changes.into_iter().map(change).collect(),
        forgotten: node.home_changes_forgotten()?,
    })
}

fn change(change: HomeChange) -> v1::HomeChange {
    v1::HomeChange {
        partition: bytes_of(change.partition),
        keyspace: change.keyspace,
        from_region: change.from.0,
        from_epoch: change.from.1,
        to_region: change.to.0,
        to_epoch: change.to.1,
        planned: change.is_planned,
        at_ms: change.at_ms.unwrap_or(0),
        detect_ms: change.detect_ms,
        fence_ms: change.fence_ms,
        promote_ms: change.promote_ms,
        route_ms: change.route_ms,
        estimated_writes_min: change.estimated_writes_min,
        estimated_writes_max: change.estimated_writes_max,
        actual_writes: change.actual_writes,
        actual_bytes: change.actual_bytes,
        degraded_ms: change.degraded_ms,
    }
}
