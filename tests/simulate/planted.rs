//! Bugs that are planted to see that the simulator catches them.
//!
//! **Owns**: those of the simulated node, which does what the product's driver does; the switch.
//! **Does not own**: those of the core and of storage, which their crates have, and only where
//! debug assertions are on: without them, as in a release build, no bug can be planted.

use std::cell::Cell;

use domicile_core::planted as core_planted;
use domicile_storage::planted as storage_planted;

/// A bug of the node, by what it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeBug {
    /// A promise is told and not written down.
    PromiseNotPersisted,
    /// A promise is answered before what was received is on disk.
    PromiseBeforeDurable,
    /// A copy that refused segments while it promised does not ask for them again.
    SilentAfterPromise,
    /// What a snapshot of an older home stands for stays, although the new home never had it.
    KeepOldSnapshot,
    /// A log is cut where it is longer than its home's, whoever wrote it.
    CutByWatermark,
    /// The home says what it has of a key before it has applied enough.
    HealReadTooEarly,
    /// A home answers reads without asking for its lease.
    ReadWithoutLease,
    /// A lease is counted by the wall clock.
    LeaseByWall,
    /// A lease is used for twice as long.
    LeaseTwiceAsLong,
    /// A grant to another life of the process counts.
    GrantOfAnotherLife,
    /// A lease is granted without asking a majority.
    GrantUnconfirmed,
    /// A home that restarts knows no requests.
    ForgetRequests,
    /// A home that has promised still answers reads while its lease lasts.
    ReadsOpenWhenFenced,
    /// A copy that was filled anew counts as one that has what it acknowledged.
    TrustRefilled,
    /// A log is cut without a promise that outlives what is cut.
    CutWithoutPromise,
    /// Cells that are newer than the log do not matter to a new home.
    IgnoreAhead,
    /// The node that follows begins as soon as the map says that it is to.
    FollowWithoutMark,
    /// The map is told of the new home before that has the end of the old reign.
    CommitBeforeMark,
    /// A home that has handed on and follows calls the change off, as it sees nobody follow.
    CallOffBehindTheMark,
    /// A home that restarts does not know that it has handed on.
    ForgetHandedOn,
    /// A home that has handed on still answers reads.
    ServeWhenHandedOn,
    /// A home that has handed on begins to follow before the other one has the end of its reign.
    LeaveBeforeTheyHaveIt,
    /// A lease counts from when it was granted, not from when it was asked for.
    LeaseFromGrant,
}

/// A bug anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planted {
    Core(core_planted::Bug),
    Storage(storage_planted::Bug),
    Node(NodeBug),
}

impl Planted {
    /// Runs with the bug in place.
    #[cfg(debug_assertions)]
    pub(crate) fn with<T>(self, work: impl FnOnce() -> T) -> T {
        match self {
            Self::Core(bug) => core_planted::plant(Some(bug)),
            Self::Storage(bug) => storage_planted::plant(Some(bug)),
            Self::Node(bug) => PLANTED.set(Some(bug)),
        }
        let done = work();
        core_planted::plant(None);
        storage_planted::plant(None);
        PLANTED.set(None);
        done
    }

    /// There are none to run with.
    #[cfg(not(debug_assertions))]
    pub(crate) fn with<T>(self, _: impl FnOnce() -> T) -> T {
        panic!("{self:?} is not planted: that needs debug assertions");
    }
}

thread_local! {
    static PLANTED: Cell<Option<NodeBug>> = const { Cell::new(None) };
}

pub(crate) fn is_planted(bug: NodeBug) -> bool {
    PLANTED.get() == Some(bug)
}
