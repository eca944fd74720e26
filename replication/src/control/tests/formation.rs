//! Exactly one cluster comes out of a first start, however it goes.

use std::time::Duration;

use super::super::ControlError;
use super::rig::{Cluster, PATIENCE};

#[tokio::test(start_paused = true)]
async fn one_cluster_comes_out_of_nodes_that_start_in_any_order() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let mut cluster = Cluster::new(3);
        for index in order {
            cluster.start(index).await.unwrap();
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        cluster.leader(None).await;
        for index in 0..3 {
            cluster.write(index).await;
        }
        cluster.check_books().await;
        assert_eq!(cluster.node(0).members().voters.len(), 3);
        cluster.close().await;
    }
}

/// The founder dies at each operation of its disk while it founds, and starts again.
#[tokio::test(start_paused = true)]
async fn one_cluster_comes_out_of_a_founder_that_dies_at_any_step() {
    for dies_at in 1..=24 {
        let mut cluster = Cluster::new(3);
        cluster.start(1).await.unwrap();
        cluster.start(2).await.unwrap();
        cluster.places[0].disk.freeze_at_operation(dies_at);
        // Whether it starts at all depends on where it dies.
        let _ = cluster.start(0).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        cluster.kill(0).await;
        cluster.start(0).await.unwrap();
        cluster.leader(None).await;
        for index in 0..3 {
            cluster.write(index).await;
        }
        cluster.check_books().await;
        for index in 0..3 {
            assert_eq!(
                cluster.node(index).members().voters.len(),
                3,
                "died at {dies_at}"
            );
        }
        cluster.close().await;
    }
}

/// Nobody founds while a founder is silent: it may know of a cluster.
#[tokio::test(start_paused = true)]
async fn a_founder_waits_for_all_others() {
    let mut cluster = Cluster::new(3);
    cluster.start(0).await.unwrap();
    cluster.start(1).await.unwrap();
    tokio::time::sleep(PATIENCE).await;
    assert!(
        cluster
            .running()
            .all(|(_, node)| node.members().voters.is_empty())
    );
    cluster.start(2).await.unwrap();
    cluster.leader(None).await;
    cluster.close().await;
}

/// The founder's disk is lost: under its old id it is refused, and under a new one it finds the
/// cluster instead of founding another, in the place of the id that is gone.
#[tokio::test(start_paused = true)]
async fn a_founder_that_lost_its_disk_joins() {
    let mut cluster = Cluster::founded(3).await;
    cluster.write(0).await;
    cluster.kill(0).await;
    cluster.lose_disk(0);
    let refused = cluster.start(0).await.unwrap_err();
    assert!(
        refused.to_string().starts_with("control log lost"),
        "{refused}"
    );
    let lost = cluster.renew_id(0);
    cluster.start(0).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(
        cluster.node(0).members().voters.is_empty(),
        "founded or joined unasked"
    );
    let (id, member) = (cluster.places[0].id, cluster.places[0].member.clone());
    let taken = cluster
        .node(1)
        .add_voter(id, member.clone(), None, PATIENCE)
        .await
        .unwrap_err();
    assert!(
        matches!(taken, ControlError::RegionTaken { voter } if voter == lost),
        "{taken}"
    );
    cluster
        .node(1)
        .add_voter(id, member, Some(lost), PATIENCE)
        .await
        .unwrap();
    cluster.write(0).await;
    cluster.check_books().await;
    for index in 0..3 {
        let voters = cluster.node(index).members().voters;
        assert!(voters.len() == 3 && !voters.contains(&lost), "{voters:?}");
    }
    cluster.close().await;
}

/// The same, told at the start which id is gone.
#[tokio::test(start_paused = true)]
async fn a_node_told_whom_it_replaces_joins_by_itself() {
    let mut cluster = Cluster::founded(3).await;
    cluster.write(2).await;
    cluster.kill(2).await;
    cluster.lose_disk(2);
    let lost = cluster.renew_id(2);
    cluster.places[2].replaces = Some(lost);
    cluster.start(2).await.unwrap();
    let id = cluster.places[2].id;
    cluster
        .wait_for("joined", |c| c.node(2).members().voters.contains(&id))
        .await;
    cluster.write(2).await;
    cluster.check_books().await;
    cluster.close().await;
}
