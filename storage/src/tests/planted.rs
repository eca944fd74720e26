//! Each planted bug must be caught by the test named beside it, which passes without it.
//!
//! **Owns**: which test answers for which bug.
//! **Does not own**: the tests.

use super::{damage, model, orphans, power, snapshots};
use crate::planted::{Bug, is_caught};

#[test]
fn a_commit_without_its_sync_is_caught() {
    let test = power::what_was_acked_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::SkipSync, test));
}

#[test]
fn an_ack_before_the_sync_is_caught() {
    let test = power::what_was_acked_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::AckBeforeSync, test));
}

#[test]
fn an_applied_mark_before_its_cells_is_caught() {
    let test = power::a_flush_that_stops_at_any_batch_is_folded_again;
    assert!(is_caught(Bug::MarkBeforeCells, test));
}

#[test]
fn a_journal_file_deleted_one_too_early_is_caught() {
    let test = snapshots::what_was_acked_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::CutTooEarly, test));
}

#[test]
fn an_accepted_checksum_is_caught_in_the_journal_and_in_snapshots() {
    let test = damage::a_flipped_bit_before_an_intact_frame_is_corruption;
    assert!(is_caught(Bug::AcceptBadChecksum, test));
    let test = snapshots::a_damaged_snapshot_is_named_where_the_engine_needs_it;
    assert!(is_caught(Bug::AcceptBadChecksum, test));
}

#[test]
fn a_log_cut_before_its_tail_is_durable_elsewhere_is_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::CutBeforeSealed, test));
}

#[test]
fn a_tail_that_is_sealed_twice_is_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::SealTwice, test));
}

#[test]
fn cells_that_are_not_healed_are_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::SkipHeal, test));
}

#[test]
fn a_snapshot_that_keeps_orphans_is_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::KeepOrphanSnapshot, test));
}

#[test]
fn requests_that_go_with_a_snapshot_are_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::ForgetCutRequests, test));
}

#[test]
fn a_cut_that_an_open_ignores_is_caught() {
    let test = orphans::a_cut_survives_an_end_at_every_operation;
    assert!(is_caught(Bug::IgnoreCut, test));
}

/// Found by chance, without a script that leads there.
#[test]
fn random_lives_catch_what_costs_an_acknowledged_write() {
    for bug in [
        Bug::SkipSync,
        Bug::AckBeforeSync,
        Bug::MarkBeforeCells,
        Bug::CutTooEarly,
    ] {
        assert!(is_caught(bug, model::random_lives_match_a_map), "{bug:?}");
    }
}
