//! Bugs that tests plant, to see that the tests which should catch them do.
//!
//! **Owns**: their list, the switch; outside of tests it is a constant `false`, and so it is with
//! the feature `planted` in every build without debug assertions.
//! **Does not own**: what each one breaks (the line that asks).

/// A bug, by what it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted"),
    expect(unreachable_pub, reason = "tests alone name it")
)]
pub enum Bug {
    /// A commit does not sync.
    SkipSync,
    /// A commit is acknowledged whatever its sync came to.
    AckBeforeSync,
    /// A flush publishes the applied mark before the cells.
    MarkBeforeCells,
    /// One journal file more than allowed is deleted.
    CutTooEarly,
    /// A bad checksum is accepted.
    AcceptBadChecksum,
    /// A log is cut before what is cut is durable elsewhere.
    CutBeforeSealed,
    /// A tail that is sealed again keeps what it was sealed into before.
    SealTwice,
    /// Cells that hold orphans count as healed.
    SkipHeal,
    /// A snapshot that holds orphans stays.
    KeepOrphanSnapshot,
    /// The requests in a snapshot that a cut takes away go with it.
    ForgetCutRequests,
    /// An open does not know of cuts.
    IgnoreCut,
    /// A vote of the control plane is told before it is synced.
    SkipVoteSync,
    /// Entries of the control log are told before they are synced.
    SkipEntrySync,
    /// Entries of the control log are told whatever their sync came to.
    AckEntryBeforeSync,
}

#[cfg(not(any(test, all(feature = "planted", debug_assertions))))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(any(test, all(feature = "planted", debug_assertions)))]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(any(test, all(feature = "planted", debug_assertions)))]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug in this thread, or takes it out again.
#[cfg(all(feature = "planted", debug_assertions))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Runs a test with a bug planted in this thread; whether the test failed, as it should.
#[cfg(test)]
pub(crate) fn is_caught(bug: Bug, test: fn()) -> bool {
    PLANTED.set(Some(bug));
    let outcome = std::panic::catch_unwind(test);
    PLANTED.set(None);
    outcome.is_err()
}
