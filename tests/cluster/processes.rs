//! Real servers as processes of their own, lost in every way, while clients in all regions write.

use std::time::Duration;

use bytes::Bytes;
use domicile_proto::v1::Consistency;
use domicile_server::rig::{Door, Stop};

use crate::scene::Scene;

/// As fast as they can.
const PACE: Duration = Duration::ZERO;

#[test]
fn a_home_is_killed_and_its_successor_too() {
    let mut scene = Scene::start(PACE);
    scene.wait(500);
    scene.cluster.kill("eu").unwrap();
    scene.until_written(&["us"]);
    scene.cluster.start_server("eu").unwrap();
    scene
        .cluster
        .wait_until_ready("eu", &Stop::default())
        .unwrap();
    // Whoever followed is lost before the first one has caught up.
    let door = Door::new(&scene.cluster.endpoint("us").unwrap()).unwrap();
    let key = Bytes::from_static(b"who");
    let answer = door.get("fast", key, Consistency::Home).unwrap();
    let successor = if answer.region == "ap" { "ap" } else { "us" };
    scene.cluster.kill(successor).unwrap();
    scene.until_written(&["eu"]);
    scene.conclude(Vec::new());
}

#[test]
fn a_home_is_stopped_for_longer_than_its_lease() {
    let scene = Scene::start(PACE);
    scene.wait(500);
    scene.cluster.pause("eu").unwrap();
    scene.until_written(&["us", "ap"]);
    scene.cluster.unpause("eu").unwrap();
    scene.until_written(&["eu"]);
    scene.conclude(Vec::new());
}

#[test]
fn a_home_that_is_cut_off_one_way_after_the_other() {
    let scene = Scene::start(PACE);
    scene.wait(500);
    // It is heard and hears nobody.
    scene.cluster.wan().cut_one_way("us", "eu").unwrap();
    scene.cluster.wan().cut_one_way("ap", "eu").unwrap();
    scene.until_written(&["us"]);
    scene.cluster.wan().heal("eu").unwrap();
    scene.until_written(&["eu"]);
    // It hears and is heard by nobody.
    scene.cluster.wan().cut_one_way("eu", "us").unwrap();
    scene.cluster.wan().cut_one_way("eu", "ap").unwrap();
    scene.until_written(&["us", "ap"]);
    scene.cluster.wan().isolate("us").unwrap();
    scene.wait(1000);
    scene.conclude(Vec::new());
}
