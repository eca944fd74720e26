//! Every planted bug is caught, by a seed that is clean without it.
//!
//! **Owns**: the list of bugs, each with a seed that is known to catch it.
//! **Does not own**: the bugs (`planted`, and those of the crates).

use std::fmt::Write as _;

use domicile_core::planted::Bug as C;
use domicile_storage::planted::Bug as S;

use crate::planted::NodeBug as N;
use crate::planted::Planted::{self, Core, Node, Storage};
use crate::scene::Tracing;
use crate::seeds::{mode_of, number, quietly};
use crate::world::run;

/// Seeds among which one has to catch a bug.
const SEEDS_MAX: u64 = 2_000;

/// Characters of a problem that the table shows.
const SHOWN: usize = 60;

/// Each bug, and a seed that caught it when this was last written down.
const BUGS: &[(Planted, u64)] = &[
    (Core(C::IgnoreEpoch), 5),
    (Core(C::IgnorePromise), 1),
    (Core(C::AckWithoutLease), 119),
    (Core(C::PromoteAny), 3),
    (Core(C::ForkByWatermark), 5),
    (Core(C::ClaimLevel), 1),
    (Core(C::DurableTooEarly), 2),
    (Core(C::VisibleBeforeMet), 1),
    (Core(C::ForgetRequests), 1),
    (Core(C::NoReignMark), 2),
    (Core(C::AttachAnyLog), 5),
    (Core(C::CasIgnoresInFlight), 2),
    (Core(C::ShowReceived), 53),
    (Storage(S::SkipSync), 1),
    (Storage(S::AckBeforeSync), 8),
    (Storage(S::CutBeforeSealed), 10),
    (Storage(S::SealTwice), 46),
    (Storage(S::SkipHeal), 13),
    (Storage(S::IgnoreCut), 10),
    (Node(N::PromiseNotPersisted), 10),
    (Node(N::CutByWatermark), 5),
    (Node(N::LeaseTwiceAsLong), 80),
    (Node(N::LeaseFromGrant), 2),
    (Node(N::GrantUnconfirmed), 61),
    (Node(N::ForgetRequests), 1),
    (Core(C::WriteBehindTheEnd), 6),
    (Node(N::FollowWithoutMark), 3),
    (Node(N::CommitBeforeMark), 11),
    (Node(N::ForgetHandedOn), 10),
    (Node(N::LeaveBeforeTheyHaveIt), 78),
    (Core(C::MintBesideSwitchover), 44),
    (Node(N::KeepOldSnapshot), 130),
];

/// Bugs that few seeds catch, or none so far: tried only if `SIM_RARE` asks for it.
const RARE: &[(Planted, u64)] = &[
    (Core(C::FenceByPresentPolicy), 1422),
    (Core(C::TrustUnbegun), 43),
    (Node(N::CallOffBehindTheMark), 1768),
    (Node(N::ServeWhenHandedOn), 755),
    (Core(C::AppendWithoutLease), 1),
    (Core(C::LeaseNotWaitedOut), 1),
    (Core(C::RevokeTooFew), 1),
    (Core(C::CountOldReigns), 1),
    (Core(C::AcksOfAnyReign), 1),
    (Core(C::GrantOfAnyMap), 20),
    (Storage(S::MarkBeforeCells), 1),
    (Node(N::SilentAfterPromise), 566),
    (Node(N::PromiseBeforeDurable), 1),
    (Node(N::HealReadTooEarly), 1),
    (Node(N::ReadWithoutLease), 20),
    (Node(N::LeaseByWall), 1),
    (Node(N::GrantOfAnotherLife), 1),
    (Node(N::ReadsOpenWhenFenced), 1),
    (Node(N::IgnoreAhead), 1),
    (Node(N::CutWithoutPromise), 1),
    (Node(N::TrustRefilled), 1),
    (Core(C::EndAnySwitchover), 1),
];

/// The bug that `SIM_BUGS` names, to look at it with one seed.
pub(crate) fn named() -> Option<Planted> {
    let name = std::env::var("SIM_BUGS").ok()?;
    let all = BUGS.iter().chain(RARE);
    let mut named = all.filter(|(bug, _)| format!("{bug:?}").contains(&name));
    named.next().map(|(bug, _)| *bug)
}

/// What caught a bug: the seed, the invariant, how many seeds were tried.
fn catch(bug: Planted, known: u64, seeds_max: u64) -> Option<(u64, String, u64)> {
    let seeds = std::iter::once(known).chain(1..=seeds_max);
    for (tried, seed) in (1..).zip(seeds) {
        let mode = mode_of(seed);
        let found = bug.with(|| run(seed, mode, Tracing::Hash));
        let Some(violation) = found.violation else {
            continue;
        };
        if run(seed, mode, Tracing::Hash).violation.is_none() {
            let problem: String = violation.problem.chars().take(SHOWN).collect();
            return Some((seed, format!("{}: {problem}", violation.invariant), tried));
        }
    }
    None
}

#[test]
#[cfg_attr(
    not(debug_assertions),
    ignore = "bugs are planted where debug assertions are on"
)]
fn every_planted_bug_is_caught() {
    let seeds_max = number("SIM_PLANTED").unwrap_or(SEEDS_MAX);
    let wanted = std::env::var("SIM_BUGS").unwrap_or_default();
    let bugs = match number("SIM_RARE") {
        Some(_) => RARE,
        None => BUGS,
    };
    let (mut table, mut escaped) = (String::new(), Vec::new());
    quietly(|| {
        for (bug, known) in bugs {
            let name = format!("{bug:?}");
            if !wanted.is_empty() && !wanted.split(',').any(|it| name.contains(it)) {
                continue;
            }
            let line = match catch(*bug, *known, seeds_max) {
                Some((seed, invariant, tried)) => {
                    format!("{name:<34} | {seed:>6} | {tried:>5} | {invariant}")
                }
                None => {
                    escaped.push(name.clone());
                    format!("{name:<34} | escaped")
                }
            };
            println!("{line}");
            writeln!(table, "{line}").expect("into memory");
        }
    });
    assert!(escaped.is_empty(), "not caught: {escaped:?}\n{table}");
}
