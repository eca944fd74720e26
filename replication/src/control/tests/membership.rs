//! Voters come and go while commands are written.

use std::time::Duration;

use super::super::ControlError;
use super::rig::{Cluster, PATIENCE};

#[tokio::test(start_paused = true)]
async fn voters_come_and_go_under_load() {
    let mut cluster = Cluster::founded(3).await;
    cluster.add_place(3);
    cluster.start(3).await.unwrap();
    let joined = cluster.places[3].id;
    cluster
        .wait_for("joined", |c| c.node(3).members().voters.contains(&joined))
        .await;
    for index in 0..4 {
        cluster.write(index).await;
    }
    // The leader itself goes.
    let leader = cluster.leader(None).await;
    let (id, other) = (cluster.places[leader].id, (leader + 1) % 4);
    cluster
        .node(other)
        .remove_voter(id, PATIENCE)
        .await
        .unwrap();
    let next = cluster.leader(Some(leader)).await;
    cluster.write(next).await;
    assert!(!cluster.node(next).members().members.contains_key(&id));
    // It is still running, thinks that it is a voter, and disturbs nobody.
    let term = cluster.node(next).term();
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.write(next).await;
    assert_eq!(cluster.node(next).term(), term);
    cluster.kill(leader).await;
    for _ in 0..3 {
        let leader = cluster.leader(None).await;
        cluster.kill(leader).await;
        let next = cluster.leader(None).await;
        cluster.write(next).await;
        cluster.start(leader).await.unwrap();
    }
    cluster.check_books().await;
    cluster.close().await;
}

#[tokio::test(start_paused = true)]
async fn the_last_voter_stays() {
    let mut cluster = Cluster::founded(1).await;
    cluster.write(0).await;
    let id = cluster.places[0].id;
    let refused = cluster
        .node(0)
        .remove_voter(id, PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, ControlError::LastVoter { node } if node == id),
        "{refused}"
    );
    cluster.kill(0).await;
    cluster.start(0).await.unwrap();
    cluster.write(0).await;
    cluster.check_books().await;
    cluster.close().await;
}

/// A leader lost half way through a change: whoever leads next finishes it.
#[tokio::test(start_paused = true)]
async fn a_change_whose_leader_is_lost_is_finished() {
    for wait_ms in [10, 50, 90, 130, 170, 210, 250, 330] {
        let mut cluster = Cluster::founded(3).await;
        let leader = cluster.leader(None).await;
        let gone = cluster.places[(leader + 1) % 3].id;
        let node = cluster.node(leader).clone();
        let removing =
            tokio::spawn(async move { node.remove_voter(gone, Duration::from_secs(5)).await });
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
        cluster.kill(leader).await;
        let _ = removing.await;
        cluster.start(leader).await.unwrap();
        let next = cluster.leader(None).await;
        cluster
            .wait_for("one set of voters", |c| !c.node(next).members().changing)
            .await;
        cluster.write(next).await;
        cluster.close().await;
    }
}

/// What was purged reaches a voter that was away as a snapshot, and survives a restart of all.
#[tokio::test(start_paused = true)]
async fn a_voter_that_was_away_long_is_sent_a_snapshot() {
    let mut cluster = Cluster::new(3);
    cluster.snapshot_entries = 20;
    cluster.start_all().await;
    let leader = cluster.leader(None).await;
    let away = (leader + 1) % 3;
    cluster.kill(away).await;
    for _ in 0..100 {
        cluster.write(leader).await;
    }
    cluster.start(away).await.unwrap();
    cluster.write(away).await;
    cluster.check_books().await;
    for index in 0..3 {
        cluster.kill(index).await;
    }
    cluster.start_all().await;
    cluster.write(away).await;
    cluster.check_books().await;
    cluster.close().await;
}
