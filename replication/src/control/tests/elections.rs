//! Leaders are lost again and again; there is always a new one, and nothing that was told is lost.

use std::time::Duration;

use tokio::time::Instant;

use super::super::{ControlError, Pace};
use super::rig::{Cluster, PATIENCE, RTT, address};

/// Leaders that are killed in every run; `DOMICILE_LEADER_KILLS` sets another number for the long
/// run: `DOMICILE_LEADER_KILLS=500 cargo test -p domicile-replication leader_kills -- --ignored
/// --nocapture`.
const KILLS: usize = 30;

/// Kills the leader, waits until the survivors have another, writes, and brings the old one back.
async fn kill_leaders(size: usize, pace: Pace, kills: usize) -> Vec<Duration> {
    let mut cluster = Cluster::new(size);
    cluster.pace = pace;
    cluster.start_all().await;
    let mut leader = cluster.leader(None).await;
    let mut took = Vec::new();
    for kill in 0..kills {
        // At any moment between two beats.
        tokio::time::sleep(Duration::from_millis(500 + 37 * (kill as u64 % 11))).await;
        cluster.kill(leader).await;
        let lost_at = Instant::now();
        let next = cluster.leader(None).await;
        took.push(lost_at.elapsed());
        cluster.write(next).await;
        cluster.start(leader).await.unwrap();
        cluster.write(leader).await;
        leader = cluster.leader(None).await;
    }
    cluster.check_books().await;
    cluster.close().await;
    took.sort_unstable();
    took
}

#[tokio::test(start_paused = true)]
async fn three_voters_survive_the_loss_of_leader_after_leader() {
    let took = kill_leaders(3, Pace::Steady, KILLS).await;
    // The worst that the table of timings gives, a lost round, and the round of the confirmation.
    assert!(
        took.last().unwrap() < &Duration::from_millis(3000),
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn five_voters_survive_the_loss_of_leader_after_leader() {
    kill_leaders(5, Pace::Steady, KILLS / 3).await;
}

#[tokio::test(start_paused = true)]
async fn aggressive_timings_elect_sooner() {
    let took = kill_leaders(3, Pace::Aggressive, KILLS / 3).await;
    let median = took[took.len() / 2];
    assert!(median < Duration::from_millis(1000), "{took:?}");
}

/// The long run of the documentation: prints how long it took.
#[tokio::test(start_paused = true)]
#[ignore = "minutes; see KILLS"]
async fn many_leader_kills_all_converge() {
    let kills = std::env::var("DOMICILE_LEADER_KILLS")
        .ok()
        .and_then(|text| text.parse().ok());
    for (size, pace) in [(3, Pace::Steady), (3, Pace::Aggressive), (5, Pace::Steady)] {
        let took = kill_leaders(size, pace, kills.unwrap_or(KILLS)).await;
        let at = |share: usize| took[(took.len() * share / 100).min(took.len() - 1)].as_millis();
        println!(
            "{size} voters, {pace:?}, RTT {} ms, {} kills: p50 {} ms, p99 {} ms, p100 {} ms",
            RTT.as_millis(),
            took.len(),
            at(50),
            at(99),
            at(100)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_all_at_once_loses_nothing() {
    let mut cluster = Cluster::founded(3).await;
    for round in 0..5 {
        for index in 0..3 {
            cluster.write(index).await;
        }
        for index in 0..3 {
            cluster.kill(index).await;
        }
        cluster.start_all().await;
        cluster.leader(None).await;
        cluster.write(round % 3).await;
    }
    cluster.check_books().await;
    cluster.close().await;
}

/// A leader that is heard but hears nobody falls silent; one that hears but is not heard is
/// succeeded. Neither confirms itself once another may lead, and both follow when it heals.
#[tokio::test(start_paused = true)]
async fn a_leader_cut_one_way_is_succeeded() {
    for hears in [true, false] {
        let mut cluster = Cluster::founded(3).await;
        let leader = cluster.leader(None).await;
        for other in (0..3).filter(|other| *other != leader) {
            if hears {
                cluster.network.cut(&address(leader), &address(other));
            } else {
                cluster.network.cut(&address(other), &address(leader));
            }
        }
        let next = cluster.leader(Some(leader)).await;
        let refused = cluster
            .node(leader)
            .confirm_leadership(PATIENCE)
            .await
            .unwrap_err();
        let is_right = matches!(
            refused,
            ControlError::Unavailable { .. } | ControlError::NotLeader { .. }
        );
        assert!(is_right, "{refused}");
        cluster.write(next).await;
        let term = cluster.node(next).term();
        cluster.network.heal();
        cluster.write(leader).await;
        cluster.check_books().await;
        assert_eq!(cluster.leader(None).await, next, "hears: {hears}");
        assert_eq!(cluster.node(next).term(), term, "a needless election");
        cluster.close().await;
    }
}

/// A follower that was cut off and comes back does not depose the leader: it asked before it raised
/// the term, and nobody was ready to vote for it.
#[tokio::test(start_paused = true)]
async fn a_follower_that_returns_does_not_disturb() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader(None).await;
    let lonely = (leader + 1) % 3;
    let term = cluster.node(leader).term();
    for other in (0..3).filter(|other| *other != lonely) {
        cluster.network.cut(&address(lonely), &address(other));
        cluster.network.cut(&address(other), &address(lonely));
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.write(leader).await;
    cluster.network.heal();
    cluster.write(lonely).await;
    cluster.check_books().await;
    assert_eq!(cluster.node(lonely).term(), term);
    assert_eq!(cluster.leader(None).await, leader);
    cluster.close().await;
}

#[tokio::test(start_paused = true)]
async fn confirmations_at_the_same_time_share_a_round() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader(None).await;
    let node = cluster.node(leader).clone();
    let began = Instant::now();
    let calls = (0..200).map(|_| node.confirm_leadership(PATIENCE));
    for confirmed in futures::future::join_all(calls).await {
        assert_eq!(confirmed.unwrap().term, node.term());
    }
    assert!(began.elapsed() <= RTT * 2, "{:?}", began.elapsed());
    let follower = cluster.node((leader + 1) % 3);
    let refused = follower.confirm_leadership(PATIENCE).await.unwrap_err();
    let ControlError::NotLeader {
        leader: Some(known),
    } = refused
    else {
        panic!("{refused}");
    };
    assert_eq!(known.node, cluster.places[leader].id);
    cluster.close().await;
}

/// Without a majority nothing is promised: no confirmation, and an outcome that is not known.
#[tokio::test(start_paused = true)]
async fn a_minority_says_so() {
    let mut cluster = Cluster::founded(3).await;
    let leader = cluster.leader(None).await;
    for other in (0..3).filter(|other| *other != leader) {
        cluster.kill(other).await;
    }
    let node = cluster.node(leader);
    let refused = node.confirm_leadership(PATIENCE).await.unwrap_err();
    assert!(
        matches!(refused, ControlError::Unavailable { .. }),
        "{refused}"
    );
    let command = bytes::Bytes::from_static(b"12345678");
    let unknown = node
        .propose(command, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert!(
        matches!(unknown, ControlError::Indeterminate { .. }),
        "{unknown}"
    );
    cluster.close().await;
}
