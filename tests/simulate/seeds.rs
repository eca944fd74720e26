//! Runs of seeds: a fixed set, those that failed once, and as many more as are asked for.
//!
//! **Owns**: which seeds are run, what a failure prints.
//! **Does not own**: what a seed stands for (`plan`).

use std::env;
use std::panic;
use std::time::{Duration, Instant};

use crate::plan::Mode;
use crate::planted_runs::named;
use crate::scene::Tracing;
use crate::world::{Run, run};

/// Seeds that are always run, half of them for safety, half for liveness.
const FIXED: u64 = 60;

/// The command that repeats a seed.
pub(crate) const COMMAND: &str = "cargo test -p domicile --no-default-features --features fjall \
                                  --test simulate seeds::seed -- --exact --nocapture";

pub(crate) fn mode_of(seed: u64) -> Mode {
    match seed % 2 {
        0 => Mode::Liveness,
        _ => Mode::Safety,
    }
}

pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Panics are caught and told of in one place.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let before = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let done = work();
    panic::set_hook(before);
    done
}

/// Runs a seed; a failure is told with the command that repeats it.
fn check(seed: u64) -> Result<Run, String> {
    let found = run(seed, mode_of(seed), Tracing::Hash);
    let Some(violation) = &found.violation else {
        return Ok(found);
    };
    let again = run(seed, mode_of(seed), Tracing::Last);
    let (invariant, problem) = (violation.invariant, &violation.problem);
    Err(format!(
        "{}\nseed {seed}: {invariant}: {problem}\nrepeat it: SIM_SEED={seed} {COMMAND}",
        again.lines.join("\n")
    ))
}

#[test]
fn seed() {
    let Some(seed) = number("SIM_SEED") else {
        return;
    };
    let tracing = match number("SIM_TRACE") {
        Some(_) => Tracing::All,
        None => Tracing::Last,
    };
    let work = || quietly(|| run(seed, mode_of(seed), tracing));
    let found = match named() {
        Some(bug) => bug.with(work),
        None => work(),
    };
    for line in &found.lines {
        println!("{line}");
    }
    if let Some(violation) = found.violation {
        panic!(
            "seed {seed}: {}: {}",
            violation.invariant, violation.problem
        );
    }
}

#[test]
fn the_same_seed_runs_the_same() {
    for seed in 1..=4 {
        let (one, other) = (
            run(seed, mode_of(seed), Tracing::Hash),
            run(seed, mode_of(seed), Tracing::Last),
        );
        assert_eq!(one.hash, other.hash, "seed {seed} came to two ends");
        assert_eq!(one.calls, other.calls);
    }
}

/// Runs seeds, until there are none left or time is up; what failed is told at once.
#[allow(clippy::print_stdout, reason = "what failed, at once")]
fn check_all(seeds: impl Iterator<Item = u64>) {
    let seconds = number("SIM_SECONDS").map(Duration::from_secs);
    let began = Instant::now();
    let (mut calls, mut takeovers, mut cuts) = (0, 0, 0);
    let (mut count, mut failed) = (0, Vec::new());
    quietly(|| {
        for seed in seeds {
            if seconds.is_some_and(|limit| began.elapsed() > limit) {
                break;
            }
            count += 1;
            match check(seed) {
                Ok(found) => {
                    calls += found.calls;
                    takeovers += found.takeovers;
                    cuts += found.cuts;
                }
                Err(problem) => {
                    let last: Vec<&str> = problem.lines().rev().take(2).collect();
                    println!("{} | {}", last[1], last[0]);
                    failed.push(problem);
                }
            }
        }
    });
    println!("{count} seeds, {calls} calls, {takeovers} takeovers, {cuts} logs cut");
    if let Some(first) = failed.first() {
        panic!("{} seeds failed, the first:\n{first}", failed.len());
    }
}

/// More of them by `SIM_SEEDS`, from `SIM_FROM` on; `SIM_SECONDS` ends it.
#[test]
fn fixed_seeds() {
    let from = number("SIM_FROM").unwrap_or(1);
    let count = match (number("SIM_SEEDS"), number("SIM_SECONDS")) {
        (Some(count), _) => count,
        (None, Some(_)) => u64::MAX - from,
        (None, None) => FIXED,
    };
    check_all(from..from + count);
}

#[test]
fn seeds_that_failed_once() {
    let lines = include_str!("../seeds.txt").lines();
    let seeds = lines.filter(|line| !line.starts_with('#') && !line.is_empty());
    let seed = |line: &str| line.split_whitespace().next()?.parse().ok();
    check_all(seeds.map(|line| seed(line).expect("a seed, then its cause")));
}
