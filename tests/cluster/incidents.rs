//! What networks and operators did to real clusters, done to real servers.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::process::{Command, Output};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use domicile_server::wan::LinkConditions;

use crate::scene::{PATIENCE, REGIONS, Scene};

/// Between two writes of a client: what all of them write in a minute must be read again by three
/// regions in a second.
const PACE: Duration = Duration::from_millis(15);

/// Runs the command line against the servers of these regions.
fn domicile(scene: &Scene, regions: &[&str], words: &[&str]) -> Output {
    let endpoints = regions
        .iter()
        .map(|region| scene.cluster.endpoint(region).unwrap());
    let endpoints: Vec<String> = endpoints.collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_domicile"));
    command.args(words).arg("--endpoint");
    command.arg(endpoints.join(",")).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// How many partitions a command says that it has named, one a line, with the reason.
fn named(output: &Output, words: &str) -> usize {
    let said = said(output);
    said.lines().filter(|line| line.contains(words)).count()
}

/// The number that stands before these words.
fn number(output: &Output, words: &str) -> usize {
    let said = said(output);
    let (before, _) = said.split_once(words).unwrap_or_else(|| panic!("{said}"));
    let number = before.rsplit(|it: char| !it.is_ascii_digit()).next();
    number.unwrap().parse().unwrap_or_else(|_| panic!("{said}"))
}

/// GitHub, 21 October 2018: a site that had the home of the data was cut off for 43 seconds. Both
/// sides went on writing, the other one became home meanwhile, and what the first one had alone
/// took a day to set right.
#[test]
fn a_home_that_is_cut_off_for_43_seconds_loses_nothing_that_is_not_listed() {
    let scene = Scene::start(PACE);
    scene.wait(500);
    let cut = Instant::now();
    scene.cluster.wan().silence("eu").unwrap();
    scene.until_written(&["us", "ap"]);
    thread::sleep(Duration::from_secs(43).saturating_sub(cut.elapsed()));
    scene.cluster.wan().heal("eu").unwrap();
    let healed = Instant::now();
    let ended = scene.conclude(Vec::new());
    let meanwhile = ended.acked.iter();
    let meanwhile = meanwhile.filter(|it| it.begun > cut && it.at < healed);
    let (alone, elsewhere): (Vec<_>, Vec<_>) = meanwhile.partition(|it| it.region == "eu");
    assert!(!alone.is_empty(), "the old home wrote nothing alone");
    assert!(elsewhere.len() > 1000, "{}", elsewhere.len());
    for it in alone {
        assert!(it.space == "fast" && it.reign.0 == 1, "{it:?}");
    }
    // What a later home acknowledged is not lost, whoever returned.
    assert!(!ended.orphaned.is_empty(), "nothing was lost");
    for it in ended.orphaned {
        assert!(it.region == "eu" && it.reign.0 == 1, "{it:?}");
    }
}

/// The lost region is back with megabytes to catch up over a narrow link, and the operator wants
/// its homes back at once: what it has all of moves, what it does not is named, and nothing is
/// lost. Once it has caught up everything moves.
#[test]
fn homes_go_back_to_a_region_that_still_catches_up_once_it_has() {
    let scene = Scene::start(PACE);
    scene.wait(500);
    scene.cluster.wan().isolate("eu").unwrap();
    scene.until_written(&["us", "ap"]);
    let bulk = scene.write_bulk("us", 240, 32 << 10);
    for (from, to) in [("us", "eu"), ("ap", "eu"), ("eu", "us"), ("eu", "ap")] {
        let link = scene.cluster.wan().link(from, to).unwrap();
        let narrow = LinkConditions {
            bandwidth_bytes_per_s: NonZeroU64::new(1 << 20),
            ..link.conditions()
        };
        link.set_conditions(narrow).unwrap();
    }
    scene.cluster.wan().heal("eu").unwrap();
    let lag_bytes = lag_bytes(&scene, "eu");
    assert!(lag_bytes > 4 << 20, "{lag_bytes}");
    let words = ["switchover", "--to", "eu", "--within-ms", "2000"];
    let asked = domicile(&scene, &["us"], &words);
    let code = asked.status.code();
    assert_eq!(code, Some(4), "at once: {}", said(&asked));
    let stayed = number(&asked, " partitions have not moved");
    let why = ["called off", "not done in time", "by now", "meanwhile"];
    let reasons: usize = why.iter().map(|why| named(&asked, why)).sum();
    assert_eq!(reasons, stayed, "{}", said(&asked));
    let since = Instant::now();
    let words = ["switchover", "--to", "eu", "--within-ms", "10000"];
    loop {
        let again = domicile(&scene, &["us", "ap"], &words);
        if again.status.success() {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "{}", said(&again));
    }
    assert!(lost_and_planned(&scene).1 >= 16);
    let ended = scene.conclude(bulk);
    // Only what the first loss of the region cost: a switchover loses nothing.
    for it in ended.orphaned {
        assert!(it.region == "eu" && it.reign.0 == 1, "{it:?}");
    }
}

/// What a region lacks, as the homes of all keyspaces see it.
fn lag_bytes(scene: &Scene, region: &str) -> u64 {
    let homes = REGIONS.iter().filter(|it| **it != region);
    let statuses = homes.map(|home| scene.door(home).status_of_partitions().unwrap());
    let partitions = statuses.flat_map(|it| it.partitions);
    let homes = partitions.filter(|it| it.role == "home");
    let copies = homes.flat_map(|it| it.copies);
    let behind = copies.filter(|it| it.region == region);
    behind
        .map(|it| it.potential.unwrap_or_default().bytes)
        .sum()
}

/// How many changes of home there were, unplanned and planned; each reign ended once, and another
/// one followed that is above it.
fn lost_and_planned(scene: &Scene) -> (usize, usize) {
    let changes = scene.door("us").home_changes().unwrap();
    let mut ended = BTreeSet::new();
    for it in &changes {
        let reign = (it.partition.clone(), it.from_epoch.clone());
        assert!(ended.insert(reign), "{it:?} ends a reign a second time");
    }
    let planned = changes.iter().filter(|it| it.planned).count();
    (changes.len() - planned, planned)
}

/// Two operators give the same region's homes up, in favour of different ones, and a third hands
/// them on as planned, all at the same moment and each through another node.
#[test]
fn of_operators_who_act_at_once_each_is_told_what_became_of_their_word() {
    let scene = Scene::start(PACE);
    scene.wait(500);
    let barrier = Barrier::new(3);
    let run = |to| ["failover", "run", "--region", "eu", "--yes", "--to", to];
    let switchover = ["switchover", "--from", "eu", "--to", "ap"];
    let at_once = |at: &'static str, words: &[&str]| {
        barrier.wait();
        domicile(&scene, &[at], words)
    };
    let [one, other, planned] = thread::scope(|scope| {
        let one = scope.spawn(|| at_once("us", &run("us")));
        let other = scope.spawn(|| at_once("ap", &run("ap")));
        let planned = scope.spawn(|| at_once("eu", &switchover));
        [one, other, planned].map(|it| it.join().unwrap())
    });
    let mut given_up = 0;
    for output in [&one, &other] {
        let said = said(output);
        if said.contains("is home of nothing") {
            continue;
        }
        let count = number(output, " of ");
        let asked: usize = {
            let (_, behind) = said.split_once(" of ").unwrap();
            behind.split(' ').next().unwrap().parse().unwrap()
        };
        given_up += count;
        let refused = named(output, "already") + named(output, "by now");
        assert_eq!(count + refused, asked, "{said}");
        let code = if refused == 0 { 0 } else { 5 };
        assert_eq!(output.status.code(), Some(code), "{said}");
    }
    let moved = number(&planned, " partitions have moved");
    let stayed = match planned.status.success() {
        true => 0,
        false => number(&planned, " partitions have not moved"),
    };
    assert!(moved + stayed <= 16, "{}", said(&planned));
    // Whoever was refused was not counted, and everything has left the region.
    scene.until_written(&REGIONS);
    let (lost, handed_on) = lost_and_planned(&scene);
    assert!(given_up <= lost, "{}{}", said(&one), said(&other));
    assert!(lost + handed_on >= 16, "{lost} {handed_on}");
    let ended = scene.conclude(Vec::new());
    for it in ended.orphaned {
        // The second reign is the planned one's, which an operator's word ended before the map had
        // heard that it began.
        assert!(it.reign.0 <= 2, "{it:?}");
    }
}
