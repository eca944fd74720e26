//! kill -9 under load, again and again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_proto::Version;

use crate::process::Server;

/// Kills in CI. The soak in the documentation runs 1,000.
const ROUNDS: u64 = 8;

/// Writers at once: enough that commits hold several records.
const WRITERS: u64 = 16;

/// Bounds a round in writes, whatever the time.
const WRITES_MAX: u64 = 20_000;

/// What the client knows: per key, the newest acknowledged write.
type Acked = Arc<Mutex<BTreeMap<String, (Version, String)>>>;

async fn load(server: &Server, round: u64, acked: &Acked, run: Duration) -> u64 {
    let done = Arc::new(AtomicU64::new(0));
    let deadline = Instant::now() + run;
    let writers = (0..WRITERS).map(|writer| {
        let users = server.connect().keyspace("users");
        let (acked, done) = (Arc::clone(acked), Arc::clone(&done));
        tokio::spawn(async move {
            for index in 0..WRITES_MAX / WRITERS {
                let key = format!("w{writer}-{}/k", index % 40);
                let value = format!("{round}.{writer}.{index}");
                match users.put(&key, value.clone()).await {
                    Ok(receipt) => {
                        done.fetch_add(1, Ordering::Relaxed);
                        acked.lock().unwrap().insert(key, (receipt.version, value));
                    }
                    Err(_) => return,
                }
                if Instant::now() > deadline + Duration::from_secs(5) {
                    return;
                }
            }
        })
    });
    let writers: Vec<_> = writers.collect();
    tokio::time::sleep_until(deadline.into()).await;
    // They end by themselves when the server is gone.
    drop(writers);
    done.load(Ordering::Relaxed)
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    survives_kill_9(&["sled"]);
}

#[cfg(feature = "fjall")]
#[test]
fn every_acknowledged_write_survives_kill_9_with_fjall() {
    survives_kill_9(&["fjall"]);
}

#[cfg(feature = "fjall")]
#[test]
fn every_acknowledged_write_survives_another_engine_after_each_kill_9() {
    survives_kill_9(&["sled", "fjall"]);
}

/// Each start takes the next of these engines, in turn.
#[allow(clippy::print_stdout, reason = "the command that repeats a failed run")]
fn survives_kill_9(engines: &[&str]) {
    let mut engines = engines.iter().cycle();
    let mut start = |directory: &std::path::Path| {
        Server::start_with(directory, engines.next().expect("there is one"))
    };
    let directory = tempfile::tempdir().unwrap();
    let acked: Acked = Acked::default();
    let seed = std::env::var("DOMICILE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or(20_261_123);
    let rounds = std::env::var("DOMICILE_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok());
    let rounds: u64 = rounds.unwrap_or(ROUNDS);
    println!("DOMICILE_SEED={seed} DOMICILE_ROUNDS={rounds} cargo test --test durability");
    let mut random = seed;
    for round in 0..rounds {
        let server = start(directory.path());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(read_back(&server, &acked, round));
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let run = Duration::from_millis(40 + (random >> 33) % 400);
        let written = runtime.block_on(load(&server, round, &acked, run));
        server.kill();
        assert!(
            written > 0,
            "round {round}: nothing was acknowledged within {run:?}"
        );
        if round % 3 == 2 {
            std::fs::remove_dir_all(directory.path().join("data/engine")).unwrap();
        }
    }
    let server = start(directory.path());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(read_back(&server, &acked, rounds));
    server.kill();
    let verify = std::process::Command::new(env!("CARGO_BIN_EXE_domicile"))
        .args(["verify"])
        .arg(directory.path().join("data"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(
        verify.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&verify.stderr)
    );
}

/// Every key must hold its newest acknowledged write or one made after it.
async fn read_back(server: &Server, acked: &Acked, round: u64) {
    let users = server.connect().keyspace("users");
    let expected = acked.lock().unwrap().clone();
    for (key, (version, value)) in expected {
        let entry = users.get(&key).await.unwrap();
        let entry = entry.unwrap_or_else(|| panic!("round {round}: {key} = {value} is gone"));
        assert!(
            entry.version >= version,
            "round {round}: {key} is at {}, {version} was acknowledged",
            entry.version
        );
        if entry.version == version {
            assert_eq!(entry.value, value, "round {round}: {key} at {version}");
        }
    }
}
