//! The simulation bites: a store that is broken on purpose is caught, and for the right reason.

use std::io::Write;

use super::history::{self, Shape};
use crate::store::apply::Sabotage;

/// Histories within which each must be caught.
const HISTORIES: u64 = 24;

/// Who notices.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// The process itself sees nothing wrong.
    Cut,
    /// Without any cut.
    Reader,
}

#[track_caller]
fn check(sabotage: Sabotage, by: By, reason: &str) {
    let shape = Shape { lives: 2, batches: 30, sabotage };
    let mut cuts = 0;
    for seed in 1..=HISTORIES {
        let failure = match history::run(seed, &shape) {
            Ok(report) => {
                cuts += report.cuts;
                continue;
            }
            Err(failure) => failure,
        };
        assert!(failure.why.contains(reason), "{sabotage:?}: {failure}");
        assert_eq!(failure.cut.is_some(), by == By::Cut, "{sabotage:?}: {failure}");
        let cuts = cuts + failure.cuts;
        let _ = writeln!(
            std::io::stderr(),
            "power cuts: broken on purpose, {sabotage:?}: caught in history {seed} at cut {cuts}"
        );
        return;
    }
    panic!("{sabotage:?} was not caught in {cuts} cuts");
}

#[test]
fn an_acknowledgement_before_the_commit_is_caught() {
    check(Sabotage::AckBeforeCommit, By::Cut, "none of the states");
}

#[test]
fn a_settle_in_two_commits_is_caught() {
    check(Sabotage::SettleInTwoCommits, By::Cut, "none of the states");
}

#[test]
fn a_promise_without_a_sync_is_caught() {
    check(Sabotage::NoSync, By::Cut, "none of the states");
}

#[test]
fn a_claim_that_is_not_written_is_caught() {
    check(Sabotage::ClaimForgotten, By::Cut, "not as it was");
}

#[test]
fn an_end_that_leaves_its_row_is_caught() {
    check(Sabotage::EndForgotten, By::Reader, "both due and done");
}

#[test]
fn a_flush_without_the_relaxed_rows_is_caught() {
    check(Sabotage::RelaxedForgotten, By::Reader, "lost");
}

#[test]
fn changes_before_their_end_are_caught() {
    check(Sabotage::EffectsInTwoCommits, By::Cut, "none of the states");
}

#[test]
fn an_end_before_its_changes_is_caught() {
    check(Sabotage::EffectsLeftBehind, By::Reader, "none of the states");
}

#[test]
fn changes_that_are_not_written_are_caught() {
    check(Sabotage::EffectsForgotten, By::Reader, "none of the states");
}
