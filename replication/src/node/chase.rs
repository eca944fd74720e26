//! Looking for a home that changes, until the caller's time is up.
//!
//! **Owns**: which failures mean "ask again", how soon, what is said when the time is up, and that
//! nobody waits for a home that has a successor, or is sent away from one that is about to be home.
//! **Does not own**: where the home is (slots), doing the request.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::{Duration, Instant};

use domicile_proto::{PartitionId, Reason, RegionId};

use super::interior::{NodeCore, Route};
use crate::call::Forwarding;
use crate::error::Error;
use crate::peers::{ANSWER_LOST, PeerLink};

/// How soon a home is looked for again: a change of home is known here within a round trip of its
/// end. Half of it is what a caller waits longer than it must, on average.
const PAUSE: Duration = Duration::from_millis(5);

/// How often it is looked whether a home has come.
const HOMECOMING_POLL: Duration = Duration::from_millis(1);

/// How long whoever was sent to this node waits for it to become home. The end of the reign before
/// was written before anybody was sent: it is here or about to arrive, and has to be synced.
const HOMECOMING_MAX: Duration = Duration::from_millis(250);

/// One request, over all its attempts.
#[derive(Debug)]
pub(super) struct Chase {
    deadline: Instant,
    /// Homes do not change here, or no other node may be asked: whatever fails has failed.
    is_over: bool,
    /// What an attempt said of which nobody knows what became of it: a later one that was not done
    /// does not undo it.
    unknown: Option<Error>,
}

impl NodeCore {
    pub(super) fn chase(&self, timeout: Duration, forwarding: Forwarding) -> Chase {
        Chase {
            deadline: Instant::now() + timeout,
            is_over: self.plane.is_none() || forwarding == Forwarding::LocalOnly,
            unknown: None,
        }
    }

    /// The answer of region `at`; `None` once requests go to another region than when it was asked.
    /// A region that is lost answers nothing until its connection is given up, which takes longer
    /// than to succeed it.
    pub(super) async fn unless_moved<T>(
        &self,
        partition: PartitionId,
        at: RegionId,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        tokio::select! {
            biased;
            answer = answer => Some(answer),
            () = self.moved_from(partition, at) => None,
        }
    }

    /// Ends once requests for the partition go neither to region `at` nor where they went before.
    async fn moved_from(&self, partition: PartitionId, at: RegionId) {
        let Some(plane) = &self.plane else {
            return pending().await;
        };
        let target = || {
            let slot = self.driver.slot(partition)?;
            Some(slot.handed_on().unwrap_or_else(|| slot.home()))
        };
        let known = [Some(at), target()];
        let mut maps = plane.maps.clone();
        loop {
            // The map knows first, the slot follows: only then another attempt goes elsewhere.
            let is_elsewhere = maps.wait_for(|map| {
                let home = map.assignment(partition).map(|it| it.home);
                let home = home.and_then(|home| map.node(home));
                !known.contains(&home.map(|it| it.region))
            });
            if is_elsewhere.await.is_err() {
                return pending().await;
            }
            if !known.contains(&target()) {
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// As [`NodeCore::route`], for what may have been sent here by the home that hands a partition
    /// on: that waits until it has come.
    pub(super) async fn route_in_time(
        &self,
        partition: PartitionId,
        forwarding: Forwarding,
        within: Duration,
    ) -> Result<Route, Error> {
        let route = self.route(partition, forwarding);
        let is_refused = |error: &Error| error.reason() == Reason::WrongHome;
        if !route.as_ref().is_err_and(is_refused) || !self.is_coming_home(partition) {
            return route;
        }
        self.homecoming(partition, within).await;
        self.route(partition, forwarding)
    }

    /// Waits a moment, and until a partition is at home here, as an answer says that it is now, for
    /// as long as it is about to be.
    async fn homecoming(&self, partition: PartitionId, within: Duration) {
        let deadline = Instant::now() + within.min(HOMECOMING_MAX);
        loop {
            tokio::time::sleep(HOMECOMING_POLL).await;
            if !self.is_coming_home(partition) || Instant::now() >= deadline {
                return;
            }
        }
    }

    /// Whether a partition is being handed on to this node, or was, and is not at home here so far.
    fn is_coming_home(&self, partition: PartitionId) -> bool {
        let (Some(plane), Some(slot)) = (&self.plane, self.driver.slot(partition)) else {
            return false;
        };
        let map = plane.map();
        let Some(assignment) = map.assignment(partition).filter(|it| it.lost.is_none()) else {
            return false;
        };
        let handed = self.ownership.handed(partition).map(|it| it.epoch);
        let handed = handed.filter(|epoch| *epoch > assignment.epoch);
        let home = handed.map_or(assignment.home, |epoch| epoch.node);
        let own = self.store.node_id();
        !slot.is_home() && (home == own || assignment.moving_to == Some(own))
    }

    /// The region that an answer names as the home: whoever has handed a partition on knows of its
    /// successor before the map does here.
    pub(super) fn named_by<T>(&self, outcome: &Result<T, Error>) -> Option<RegionId> {
        let error = outcome.as_ref().err()?;
        let error = Some(error).filter(|error| error.reason() == Reason::WrongHome)?;
        let name = error.metadata().get("home")?;
        Some(self.topology.region_named(name)?.id)
    }

    /// The link to a region that is named, if it is another one.
    pub(super) fn link_to_named(&self, named: Option<RegionId>) -> Option<Arc<PeerLink>> {
        let other = named.filter(|region| *region != self.topology.own.id);
        self.link(other?)
    }

    /// Passes the time between two attempts. Where this region was named as the home it is waited
    /// for: the next attempt would only be sent back.
    pub(super) async fn pause(
        &self,
        chase: &Chase,
        partition: PartitionId,
        named: Option<RegionId>,
    ) {
        match named == Some(self.topology.own.id) {
            true => self.homecoming(partition, chase.left()).await,
            false => tokio::time::sleep(PAUSE).await,
        }
    }
}

impl Chase {
    /// How long the next attempt may take.
    pub(super) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What the caller is told after an attempt; `None`: another one is worth it.
    pub(super) fn settle<T>(&mut self, outcome: Result<T, Error>) -> Option<Result<T, Error>> {
        let error = match outcome {
            Ok(done) => return Some(Ok(done)),
            Err(error) => error,
        };
        let is_worth_it = !self.is_over && may_end(&error) && self.left() > PAUSE;
        let is_unknown = error.reason() == Reason::Indeterminate;
        match (is_worth_it, is_unknown) {
            (true, true) => self.unknown = Some(error),
            (true, false) => {}
            (false, true) => return Some(Err(error)),
            // An earlier attempt may still arrive.
            (false, false) => return Some(Err(self.unknown.take().unwrap_or(error))),
        }
        None
    }
}

/// Whether this failure ends by itself once the home is settled.
fn may_end(error: &Error) -> bool {
    match error.reason() {
        Reason::NoHome | Reason::WrongHome | Reason::StaleEpoch | Reason::Recovering => true,
        Reason::Indeterminate => error.metadata().contains_key(ANSWER_LOST),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chase(left: Duration) -> Chase {
        Chase {
            deadline: Instant::now() + left,
            is_over: false,
            unknown: None,
        }
    }

    fn failed(reason: Reason) -> Result<(), Error> {
        Err(Error::new(reason, "failed"))
    }

    fn reason(outcome: Option<Result<(), Error>>) -> Option<Reason> {
        outcome.map(|outcome| outcome.unwrap_err().reason())
    }

    #[test]
    fn an_attempt_of_unknown_fate_is_not_undone_by_a_later_refusal() {
        let mut chase = chase(Duration::from_secs(60));
        assert_eq!(reason(chase.settle(failed(Reason::NoHome))), None);
        let lost = Error::new(Reason::Indeterminate, "lost").with(ANSWER_LOST, true);
        assert_eq!(reason(chase.settle::<()>(Err(lost))), None);
        assert_eq!(reason(chase.settle(failed(Reason::StaleEpoch))), None);
        let refused = chase.settle(failed(Reason::VersionMismatch));
        assert_eq!(reason(refused), Some(Reason::Indeterminate));
    }

    #[test]
    fn what_ends_an_attempt_ends_the_chase() {
        let ends = [
            Reason::VersionMismatch,
            Reason::RpoExceeded,
            Reason::Indeterminate,
        ];
        for ends in ends {
            let mut chase = chase(Duration::from_secs(60));
            assert_eq!(reason(chase.settle(failed(ends))), Some(ends));
        }
        let mut late = chase(Duration::ZERO);
        assert_eq!(
            reason(late.settle(failed(Reason::NoHome))),
            Some(Reason::NoHome)
        );
    }
}
