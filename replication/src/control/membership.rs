//! Changing who votes, at the leader.
//!
//! **Owns**: the order of a change: learner first, voter once it has the log.
//! **Does not own**: finding the leader (consensus), changes that were left half done (leadership).
//!
//! Every step may be repeated: a change that is there already is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use domicile_proto::NodeId;
use openraft::ChangeMembers;

use super::core::Core;
use super::error::ControlError;
use super::member::Member;

/// Makes a node a voter, in the place of `replaces` if that is given. Only at the leader.
///
/// # Errors
/// [`ControlError::NotLeader`], [`ControlError::RegionTaken`], [`ControlError::Unavailable`] while
/// another change is under way; [`ControlError::Indeterminate`] if the node, or a quorum, is not
/// reached in time.
pub(super) async fn admit(
    core: &Core,
    node: NodeId,
    member: &Member,
    replaces: Option<NodeId>,
    within: Duration,
) -> Result<(), ControlError> {
    let admitted = admit_as_leader(core, node, member, replaces);
    let admitted = tokio::time::timeout(within, admitted).await;
    admitted.unwrap_or(Err(ControlError::Indeterminate { within }))
}

async fn admit_as_leader(
    core: &Core,
    node: NodeId,
    member: &Member,
    replaces: Option<NodeId>,
) -> Result<(), ControlError> {
    check_leads(core)?;
    let _one = core.changes.lock().await;
    if !core.calls.knows(member) {
        let region = member.region;
        let problem = format!("region {region} is not of this cluster: it has to be added first");
        return Err(ControlError::unavailable(problem));
    }
    let members = core.members();
    let other = members.other_voter_of(member.region, node);
    if let Some(voter) = other.filter(|voter| replaces != Some(*voter)) {
        return Err(ControlError::RegionTaken { voter });
    }
    let place_of = |node: NodeId| members.members.get(&node).map(|member| member.region);
    if let Some(elsewhere) =
        replaces.filter(|it| place_of(*it).is_some_and(|at| at != member.region))
    {
        return Err(ControlError::ReplacesElsewhere { voter: elsewhere });
    }
    let known = members.members.get(&node);
    if known.is_some_and(|known| known != member) {
        // Safe: whoever answers there checks that it is this node.
        let moved = BTreeMap::from([(node.get(), Core::seat_of(member))]);
        change(core, ChangeMembers::SetNodes(moved)).await?;
    }
    let replaced = replaces.filter(|voter| members.voters.contains(voter));
    if members.voters.contains(&node) && replaced.is_none() && !members.changing {
        return Ok(());
    }
    if !members.voters.contains(&node) {
        let added = core
            .raft
            .0
            .add_learner(node.get(), Core::seat_of(member), true)
            .await;
        added.map_err(|error| core.write_error(error))?;
    }
    let mut voters: BTreeSet<u64> = members.voters.iter().map(|voter| voter.get()).collect();
    voters.insert(node.get());
    if let Some(replaced) = replaced {
        voters.remove(&replaced.get());
    }
    change(core, ChangeMembers::ReplaceAllVoters(voters)).await
}

/// Lets a node be a voter and member no longer. Only at the leader, which may be that node.
///
/// # Errors
/// As [`admit`]; [`ControlError::LastVoter`].
pub(super) async fn dismiss(
    core: &Core,
    node: NodeId,
    within: Duration,
) -> Result<(), ControlError> {
    let dismissed = tokio::time::timeout(within, dismiss_as_leader(core, node)).await;
    dismissed.unwrap_or(Err(ControlError::Indeterminate { within }))
}

async fn dismiss_as_leader(core: &Core, node: NodeId) -> Result<(), ControlError> {
    check_leads(core)?;
    let _one = core.changes.lock().await;
    let members = core.members();
    if !members.members.contains_key(&node) {
        return Ok(());
    }
    if !members.voters.contains(&node) {
        return change(core, ChangeMembers::RemoveNodes([node.get()].into())).await;
    }
    if members.voters.len() == 1 {
        return Err(ControlError::LastVoter { node });
    }
    change(core, ChangeMembers::RemoveVoters([node.get()].into())).await
}

fn check_leads(core: &Core) -> Result<(), ControlError> {
    if core
        .leader()
        .is_some_and(|leader| leader.node == core.node())
    {
        return Ok(());
    }
    Err(core.not_leader())
}

async fn change(
    core: &Core,
    change: ChangeMembers<u64, super::member::Seat>,
) -> Result<(), ControlError> {
    let changed = core.raft.0.change_membership(change, false).await;
    changed.map(drop).map_err(|error| core.write_error(error))
}
