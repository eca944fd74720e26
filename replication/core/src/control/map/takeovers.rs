//! A home is given up, another one follows: when that may be.
//!
//! **Owns**: the checks of both commands, what counts as evidence.
//! **Does not own**: gathering it (`takeover`), minting the reign (map).

use domicile_proto::{Epoch, Keyspace, NodeId, PartitionId, RegionId};

use super::{ControlMap, Policy};
use crate::control::command::{CommandRefused, Decision, Evidence, Lost};
use crate::control::fencing::{Fencing, revokes};
use crate::control::history::Why;

impl ControlMap {
    pub(super) fn begin_take_over(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        lost: Lost,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        match before.lost {
            None if lost.word.is_none() && before.degraded_ms.is_some() => {
                let problem = "its home acknowledged alone: an operator decides";
                return Err(CommandRefused::Degraded { partition, problem });
            }
            None => self.assign(partition, |it| it.lost = Some(lost)),
            // An operator has something to add, once.
            Some(Lost { word: None, .. }) if lost.word.is_some() => {
                self.assign(partition, |it| {
                    it.lost = it.lost.map(|it| it.said(lost.word))
                });
            }
            Some(_) => {
                let problem = "its home is being given up already";
                return Err(CommandRefused::TakeOver { partition, problem });
            }
        }
        Ok(())
    }

    pub(super) fn take_over(
        &mut self,
        partition: PartitionId,
        from: Epoch,
        to: NodeId,
        evidence: &Evidence,
        decision: Decision,
    ) -> Result<(), CommandRefused> {
        let before = self.check_epoch(partition, from)?;
        let Some(lost) = before.lost else {
            let problem = "its home is not given up: begin with that";
            return Err(CommandRefused::TakeOver { partition, problem });
        };
        let region = self.check_successor(partition, to)?;
        self.check_evidence(partition, region, evidence)?;
        self.mint(partition, to, Why::Lost(lost, decision))
    }

    fn check_evidence(
        &self,
        partition: PartitionId,
        successor: RegionId,
        evidence: &Evidence,
    ) -> Result<(), CommandRefused> {
        let assignment = self.partition(partition)?;
        let policies: Vec<&Policy> = self.policies_in_force(partition, assignment).collect();
        match evidence {
            Evidence::HomePromised => Ok(()),
            Evidence::Operator {
                is_fenced,
                accepts_split_brain,
            } if is_fenced | accepts_split_brain => Ok(()),
            Evidence::Operator { .. } => {
                let problem = "neither evidence nor consent to two homes at once".to_owned();
                let fencing = policies.first().map(|policy| policy.fencing);
                not_fenced(partition, fencing.unwrap_or(Fencing::Operator), problem)
            }
            Evidence::LeaseRanOut => {
                let mut policies = policies.iter().map(|policy| policy.fencing);
                match policies.find(|fencing| *fencing != Fencing::Lease) {
                    None => Ok(()),
                    Some(fencing) => {
                        let problem = "homes of this keyspace have no lease".to_owned();
                        not_fenced(partition, fencing, problem)
                    }
                }
            }
            Evidence::AcksRevoked { by } => {
                let has = |fencing| policies.iter().any(|policy| policy.fencing == fencing);
                if has(Fencing::Operator) || !has(Fencing::AckRevocation) {
                    let problem = "its home acknowledges without its copies".to_owned();
                    return not_fenced(partition, Fencing::Lease, problem);
                }
                // Those with a lease were waited for: whoever proposes this has done so.
                let revoked = policies.iter();
                let mut revoked = revoked.filter(|it| it.fencing == Fencing::AckRevocation);
                revoked.try_for_each(|policy| {
                    self.check_revoked(partition, &policy.keyspace, successor, by)
                })
            }
        }
    }

    fn check_revoked(
        &self,
        partition: PartitionId,
        keyspace: &Keyspace,
        successor: RegionId,
        by: &[RegionId],
    ) -> Result<(), CommandRefused> {
        let assignment = self.partition(partition)?;
        let home_region = self.node(assignment.home).map(|node| node.region);
        // Whoever does not hold it yet acknowledges nothing either.
        let refuses = |it: &RegionId| by.contains(it) || !self.holds(partition, assignment, *it);
        let copies = keyspace.regions.iter();
        let copies = copies.filter(|it| Some(**it) != home_region);
        let promised = copies.filter(|it| refuses(it)).count();
        let (copies, level) = (keyspace.copies(), keyspace.ack);
        if !revokes(level, copies, promised) {
            let problem =
                format!("{promised} of {copies} copies have promised, and {level} needs fewer");
            return not_fenced(partition, Fencing::AckRevocation, problem);
        }
        // The old home may go on, if it is back and the node that it was handing on to is not.
        if Some(successor) != home_region && !by.contains(&successor) {
            let problem = format!("region {successor} has promised nothing");
            return not_fenced(partition, Fencing::AckRevocation, problem);
        }
        Ok(())
    }
}

fn not_fenced(
    partition: PartitionId,
    fencing: Fencing,
    problem: String,
) -> Result<(), CommandRefused> {
    Err(CommandRefused::NotFenced {
        partition,
        fencing,
        problem,
    })
}
