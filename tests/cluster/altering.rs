//! Keyspaces that are made and altered while others write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domicile::{AckLevel, Consistency, Failover, Keyspace, Node};

use crate::rig::{Cluster, PATIENCE, REGIONS, keyspace, region, until};
use crate::switchover::{shown, start, write};

fn orders(ack: AckLevel, regions: &[&str]) -> Keyspace {
    let regions = regions.iter().map(|name| region(name)).collect();
    Keyspace {
        regions,
        ack,
        ..keyspace("orders", ack, "eu")
    }
}

async fn alter(cluster: &Cluster, node: &Node, keyspace: Keyspace) {
    let from = version(cluster);
    let altered = node.alter_keyspace(keyspace, from, PATIENCE).await.unwrap();
    assert_eq!((altered.in_force.len(), altered.waiting.len()), (8, 0));
}

/// The newest version that any node knows.
fn version(cluster: &Cluster) -> u64 {
    let known = REGIONS.map(|node| cluster.node(node).versioned_policy("orders").unwrap());
    known.iter().map(|it| it.version).max().unwrap()
}

/// Writers at all regions keep on while the keyspace's level goes up and down and a region is
/// added: no write fails or is lost, each is acknowledged at the level that is in force, and what
/// was there before arrives at the new region.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_go_on_while_their_keyspace_is_altered() {
    let cluster = start(vec![keyspace("others", AckLevel::Async, "us")]).await;
    let made = orders(AckLevel::Async, &["eu", "us"]);
    let us = cluster.node("us");
    us.create_keyspace(made.clone(), PATIENCE).await.unwrap();
    // Asked for again, as after a lost answer.
    us.create_keyspace(made, PATIENCE).await.unwrap();
    for node in REGIONS {
        let known = || cluster.node(node).keyspace("orders").is_ok();
        until("the keyspace is known", known).await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for node in ["eu", "us"] {
        let handle = cluster.node(node).keyspace("orders").unwrap();
        let task = write(handle, node.to_owned(), Arc::clone(&stop));
        writers.push(tokio::spawn(task));
    }
    let all = ["eu", "us", "ap"];
    let steps = [
        orders(AckLevel::SEMI_SYNC, &["eu", "us"]),
        orders(AckLevel::SYNC, &["eu", "us"]),
        orders(AckLevel::Async, &["eu", "us"]),
        orders(AckLevel::Async, &all),
        orders(AckLevel::SYNC, &all),
    ];
    let handle = cluster.node("eu").keyspace("orders").unwrap();
    for (step, to) in steps.into_iter().enumerate() {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let level = to.ack;
        alter(&cluster, cluster.node(REGIONS[step % 3]), to).await;
        let put = handle.put(format!("probe/{step}"), "x").timeout(PATIENCE);
        let receipt = put.await.unwrap();
        assert_eq!(receipt.asked, level, "step {step}");
    }
    stop.store(true, Ordering::Release);
    for writer in writers {
        let told = writer.await.unwrap();
        assert!(told.failed.is_empty(), "{:?}", told.failed);
        assert!(!told.acked.is_empty());
        for (key, value) in told.acked {
            let seen = shown(&cluster, "us", "orders", &key).await;
            assert_eq!(seen.as_ref(), Some(&value), "{key}");
        }
    }
    let added = cluster.node("ap").keyspace("orders").unwrap();
    let read = added.get("probe/0").consistency(Consistency::Local).await;
    assert_eq!(&read.unwrap().unwrap().value[..], b"x");
    assert!(
        cluster.node("eu").home_changes().unwrap().is_empty(),
        "no home has changed"
    );
}

/// What cannot be altered is refused with the reason, whichever node is asked; who may succeed is
/// altered without a new reign.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_altered_is_refused_with_the_reason() {
    let others = keyspace("others", AckLevel::Async, "us");
    let cluster = start(vec![others, orders(AckLevel::Async, &["eu", "us"])]).await;
    let refused = |keyspace: Keyspace| async {
        let answer = cluster.node("ap").alter_keyspace(keyspace, 1, PATIENCE);
        answer.await.unwrap_err().to_string()
    };
    let fewer = refused(orders(AckLevel::Async, &["eu"])).await;
    assert!(fewer.contains("its regions, but for new ones"), "{fewer}");
    let unknown = refused(keyspace("nothing", AckLevel::Async, "eu")).await;
    assert!(unknown.contains("no keyspace"), "{unknown}");
    let too_many = refused(orders("semi-sync:2".parse().unwrap(), &["eu", "us"])).await;
    assert!(too_many.contains("needs 2 other regions"), "{too_many}");
    let again = orders(AckLevel::SYNC, &["eu", "us"]);
    let exists = cluster.node("us").create_keyspace(again, PATIENCE).await;
    let exists = exists.unwrap_err().to_string();
    assert!(exists.contains("keyspace orders exists"), "{exists}");
    let epochs = || {
        let status = cluster.node("eu").status(domicile::Detail::Partitions);
        let partitions = status.partitions.iter();
        let partitions = partitions.filter(|it| it.keyspace == "orders");
        let epochs = partitions.map(|it| it.epoch);
        epochs.collect::<Vec<_>>()
    };
    let before = epochs();
    let read_only = Keyspace {
        failover: Failover::ReadOnly,
        ..orders(AckLevel::Async, &["eu", "us"])
    };
    alter(&cluster, cluster.node("us"), read_only).await;
    assert_eq!(epochs(), before);
    let policy = cluster.node("us").policy("orders").unwrap();
    assert_eq!(policy.failover, Failover::ReadOnly);
}

/// Two operators alter the same keyspace at once, at different nodes, from what they both saw: one
/// of them is told that the other was faster, and nothing of the other's is undone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_alterations_at_once_the_later_one_is_refused() {
    let cluster = start(vec![orders(AckLevel::Async, &REGIONS)]).await;
    for round in 0..4 {
        let from = version(&cluster);
        let seen = || REGIONS.map(|node| cluster.node(node).versioned_policy("orders").unwrap());
        until("both see the same", || {
            seen().iter().all(|it| it.version == from)
        })
        .await;
        let base = (*seen()[0].keyspace).clone();
        let level = Keyspace {
            ack: match base.ack {
                AckLevel::Async => AckLevel::SYNC,
                _ => AckLevel::Async,
            },
            ..base.clone()
        };
        let policy = Keyspace {
            failover: match base.failover {
                Failover::Promote => Failover::ReadOnly,
                Failover::ReadOnly | Failover::Buffer(_) => Failover::Promote,
            },
            ..base.clone()
        };
        let (eu, us) = (cluster.node("eu"), cluster.node("us"));
        let both = tokio::join!(
            eu.alter_keyspace(level.clone(), from, PATIENCE),
            us.alter_keyspace(policy.clone(), from, PATIENCE),
        );
        let (done, refused) = match both {
            (Ok(_), Err(error)) => (level, error),
            (Err(error), Ok(_)) => (policy, error),
            both => panic!("round {round}: not one of the two: {both:?}"),
        };
        let message = refused.to_string();
        assert!(message.contains("look at it and decide again"), "{message}");
        until("all have it", || {
            let seen = seen();
            seen.iter()
                .all(|it| it.version == from + 1 && *it.keyspace == done)
        })
        .await;
    }
}
