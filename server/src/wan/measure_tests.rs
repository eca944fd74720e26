//! How precise and how fast a link is, printed rather than asserted. Run with `--release`,
//! `--ignored` and `--nocapture` on an otherwise idle machine.

use std::io::{Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use super::LinkConditions;
use super::tests::{Path, ms, path};

const RTT: Duration = Duration::from_millis(80);

fn print_quantiles(what: &str, mut samples: Vec<Duration>) {
    samples.sort_unstable();
    let quantile = |percent: usize| samples[(samples.len() - 1) * percent / 100];
    let [p50, p90, p99, max] = [50, 90, 99, 100].map(quantile);
    println!(
        "{what}: min {:?} p50 {p50:?} p90 {p90:?} p99 {p99:?} max {max:?}",
        samples[0]
    );
}

#[test]
#[ignore = "a measurement of some seconds"]
fn measure_round_trips() {
    let Path {
        client,
        mut target,
        link: _link,
        ..
    } = path(LinkConditions::with_rtt(RTT));
    let echo = thread::spawn(move || {
        let mut bytes = [0; 64];
        while target.read_exact(&mut bytes).is_ok() {
            target.write_all(&bytes).unwrap();
        }
    });
    let (mut reading, mut writing) = (client.try_clone().unwrap(), client);
    let mut bytes = [0; 64];
    // What the machine itself adds to two delays, at the same time, for comparison.
    let sleeper = thread::spawn(|| {
        let sleeps = (0..100).map(|_| {
            let started = Instant::now();
            thread::sleep(RTT / 2);
            thread::sleep(RTT / 2);
            started.elapsed()
        });
        sleeps.collect()
    });
    let alone = (0..100).map(|_| {
        let sent_at = Instant::now();
        writing.write_all(&bytes).unwrap();
        reading.read_exact(&mut bytes).unwrap();
        sent_at.elapsed()
    });
    print_quantiles("one at a time, 80 ms", alone.collect());
    print_quantiles("two sleeps of 40 ms", sleeper.join().unwrap());

    for (interval, count) in [(ms(5), 1000), (Duration::from_micros(100), 50_000)] {
        let epoch = Instant::now();
        let paced = thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..count {
                    thread::sleep((epoch + interval * number).duration_since(Instant::now()));
                    let mut bytes = [0; 64];
                    let sent_at = epoch.elapsed().as_nanos() as u64;
                    bytes[..8].copy_from_slice(&sent_at.to_le_bytes());
                    writing.write_all(&bytes).unwrap();
                }
            });
            let samples = (0..count).map(|_| {
                reading.read_exact(&mut bytes).unwrap();
                let sent_at = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                epoch.elapsed() - Duration::from_nanos(sent_at)
            });
            samples.collect()
        });
        print_quantiles(&format!("one every {interval:?}, 80 ms"), paced);
    }
    drop((reading, writing));
    echo.join().unwrap();
}

#[test]
#[ignore = "a measurement of some seconds"]
fn measure_throughput() {
    const BYTES: usize = 4 << 30;
    let Path {
        mut client,
        mut target,
        link: _link,
        ..
    } = path(LinkConditions::with_rtt(RTT));
    let started = Instant::now();
    let sender = thread::spawn(move || {
        let block = vec![0; 1 << 20];
        for _ in 0..BYTES / block.len() {
            client.write_all(&block).unwrap();
        }
    });
    let mut block = vec![0; 1 << 20];
    let mut received_bytes = 0;
    while received_bytes < BYTES {
        received_bytes += target.read(&mut block).unwrap();
    }
    let rate = BYTES as f64 / started.elapsed().as_secs_f64() / 1e6;
    println!("one connection at 80 ms: {rate:.0} MB/s");
    sender.join().unwrap();
}
