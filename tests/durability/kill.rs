//! kill -9 under load, again and again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domicile_proto::Version;

use crate::process::Server;

/// Kills in CI. The soak in the documentation runs 1,000.
const ROUNDS: u64 = 8;

/// Openings that are killed, for each that is not.
const OPENINGS: u64 = 3;

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
fn survives_kill_9(engines: &[&str]) {
    let mut engines = engines.iter().cycle();
    let mut start = |directory: &std::path::Path| {
        Server::start_with(directory, engines.next().expect("there is one"))
    };
    let directory = tempfile::tempdir().unwrap();
    let acked: Acked = Acked::default();
    let (mut chance, rounds) = Chance::announced(ROUNDS);
    for round in 0..rounds {
        let server = start(directory.path());
        let runtime = runtime();
        runtime.block_on(read_back(&server, &acked, round));
        let run = Duration::from_millis(40 + chance.below(400));
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
    runtime().block_on(read_back(&server, &acked, rounds));
    server.kill();
    verify(directory.path());
}

#[test]
fn every_acknowledged_write_survives_kills_while_the_engine_opens() {
    survives_kills_while_it_opens("sled");
}

#[cfg(feature = "fjall")]
#[test]
fn every_acknowledged_write_survives_kills_while_fjall_opens() {
    survives_kills_while_it_opens("fjall");
}

/// Killed again before it is ready, at any moment of its opening, with what a torn snapshot of
/// sled's leaves behind.
fn survives_kills_while_it_opens(engine: &str) {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let acked: Acked = Acked::default();
    let (mut chance, rounds) = Chance::announced(2 * ROUNDS);
    let mut unready = 0;
    for round in 0..rounds {
        let began = Instant::now();
        let server = Server::start_with(directory.path(), engine);
        let opening_us = began.elapsed().as_micros() as u64;
        let runtime = runtime();
        runtime.block_on(read_back(&server, &acked, round));
        let written = runtime.block_on(load(&server, round, &acked, Duration::from_millis(150)));
        assert!(written > 0, "round {round}: nothing was acknowledged");
        server.kill();
        for _ in 0..OPENINGS {
            let rows = data.join("engine");
            if chance.below(8) == 0 && rows.exists() {
                // The engine is then filled from snapshots and journal, and killed at that.
                std::fs::remove_dir_all(&rows).unwrap();
            }
            if engine == "sled" && chance.below(4) == 0 && rows.exists() {
                std::fs::write(rows.join("snap.0000000000FF.generating"), b"torn").unwrap();
            }
            let opening = Server::spawn(directory.path(), engine);
            std::thread::sleep(Duration::from_micros(chance.below(opening_us)));
            unready += u64::from(!opening.log().contains("domicile ready"));
            opening.kill();
        }
    }
    assert!(unready > rounds / 4, "{unready} openings were killed");
    let server = Server::start_with(directory.path(), engine);
    runtime().block_on(read_back(&server, &acked, rounds));
    server.kill();
    verify(directory.path());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

/// The directory of a server that was killed is sound.
fn verify(directory: &std::path::Path) {
    let verify = std::process::Command::new(env!("CARGO_BIN_EXE_domicile"))
        .args(["verify"])
        .arg(directory.join("data"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(
        verify.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&verify.stderr)
    );
}

/// What is done when, by `DOMICILE_SEED`.
struct Chance(u64);

impl Chance {
    /// With it, the number of rounds: `DOMICILE_ROUNDS`, or `rounds`.
    #[allow(clippy::print_stdout, reason = "the command that repeats a failed run")]
    fn announced(rounds: u64) -> (Self, u64) {
        let given = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
        let seed = given("DOMICILE_SEED").unwrap_or(20_261_123);
        let rounds = given("DOMICILE_ROUNDS").unwrap_or(rounds);
        println!("DOMICILE_SEED={seed} DOMICILE_ROUNDS={rounds} cargo test --test durability");
        (Self(seed), rounds)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % limit.max(1)
    }
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
