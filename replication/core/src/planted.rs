//! Bugs that tests plant, to see that the simulator which should catch them does.
//!
//! **Owns**: their list, the switch; without the feature `planted`, and in every build without
//! debug assertions, it is a constant `false`.
//! **Does not own**: what each one breaks (the line that asks).

/// A bug, by what it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(
    not(feature = "planted"),
    expect(unreachable_pub, reason = "tests alone name it")
)]
pub enum Bug {
    /// A copy takes segments of any reign.
    IgnoreEpoch,
    /// What was promised is not looked at.
    IgnorePromise,
    /// A home appends without a lease.
    AppendWithoutLease,
    /// A home acknowledges without a lease.
    AckWithoutLease,
    /// Any copy takes over, not the one that has most.
    PromoteAny,
    /// A takeover does not wait the leases out.
    LeaseNotWaitedOut,
    /// One promise is enough to revoke acknowledgements.
    RevokeTooFew,
    /// Logs part where the shorter one ends.
    ForkByWatermark,
    /// A receipt claims the level whatever was met.
    ClaimLevel,
    /// What was appended counts as durable once something is.
    DurableTooEarly,
    /// What is durable here is shown and acknowledged whatever copies have.
    VisibleBeforeMet,
    /// A request that is known is done again.
    ForgetRequests,
    /// A reign begins without its mark.
    NoReignMark,
    /// What older reigns wrote counts without a record of this one.
    CountOldReigns,
    /// Acks that answer to another reign count.
    AcksOfAnyReign,
    /// A copy is attached whatever its log is.
    AttachAnyLog,
    /// Conditions do not see what is in flight.
    CasIgnoresInFlight,
    /// A copy shows what it received, whatever its level.
    ShowReceived,
    /// A lease counts whatever map it was granted on.
    GrantOfAnyMap,
    /// A home that has handed on takes writes behind the end of its reign.
    WriteBehindTheEnd,
    /// Evidence for a takeover holds under the present policy of the keyspace, whatever its home
    /// goes by.
    FenceByPresentPolicy,
    /// Enough promises count, though nobody who promised has the beginning of the reign that ends,
    /// whose policy is another one than the reign's before.
    TrustUnbegun,
    /// A takeover does not keep clear of the reign that a planned change may have begun.
    MintBesideSwitchover,
    /// A planned change is ended by the word about another one of the same reign.
    EndAnySwitchover,
}

#[cfg(not(all(feature = "planted", debug_assertions)))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}

#[cfg(all(feature = "planted", debug_assertions))]
std::thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

#[cfg(all(feature = "planted", debug_assertions))]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Plants a bug in this thread, or takes it out again.
#[cfg(all(feature = "planted", debug_assertions))]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}
