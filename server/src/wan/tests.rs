//! Links over real sockets. Times are only bounded from below: a byte may be late on a
//! busy machine, it must never be early.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use super::connection::reset_on_close;
use super::lane::{Direction, Lane, SplitMix64};
use super::pipe::CHUNK_BYTES_MAX;
use super::{BUFFER_BYTES_MAX, DELAY_MAX, Link, LinkConditions, WanError};

/// How long a condition may take to come true, and a read to return, before the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub(super) fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(ms(1));
    }
}

/// Both ends of one connection through a link.
pub(super) struct Path {
    pub(super) link: Link,
    pub(super) listener: TcpListener,
    pub(super) client: TcpStream,
    pub(super) target: TcpStream,
}

pub(super) fn path(conditions: LinkConditions) -> Path {
    let listener = TcpListener::bind(local(0)).unwrap();
    let link = Link::open(local(0), listener.local_addr().unwrap(), conditions).unwrap();
    let client = connect(link.address());
    let target = accept(&listener);
    Path {
        link,
        listener,
        client,
        target,
    }
}

pub(super) fn connect(address: SocketAddr) -> TcpStream {
    patient(TcpStream::connect(address).unwrap())
}

pub(super) fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(super) fn read_bytes<const LENGTH: usize>(mut stream: &TcpStream) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

pub(super) fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// A connection attempt meets a reset, which may come before the attempt has returned.
pub(super) fn assert_refused(address: SocketAddr) {
    match TcpStream::connect(address) {
        Ok(client) => assert_reset(&patient(client)),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

pub(super) fn assert_passes(mut from: &TcpStream, to: &TcpStream) {
    from.write_all(b"hello").unwrap();
    assert_eq!(&read_bytes::<5>(to), b"hello");
}

fn assert_not_early(since: Instant, delay: Duration) {
    let elapsed = since.elapsed();
    assert!(
        elapsed >= delay,
        "arrived after {elapsed:?}, the link takes {delay:?}"
    );
}

/// A message that says when it was sent: length, nanoseconds since `epoch`, then random bytes.
fn message(random: &mut SplitMix64, epoch: Instant) -> Vec<u8> {
    let length = match random.draw() % 4 {
        0 => random.draw() % 300_000,
        1 => random.draw() % 20_000,
        _ => random.draw() % 200,
    };
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(length as u32).to_le_bytes());
    bytes.extend_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
    bytes.resize_with(12 + length as usize, || random.draw() as u8);
    bytes
}

/// Reads one message, which must have been under way for `delay`; `None` at the end of the stream.
fn read_message(mut stream: &TcpStream, epoch: Instant, delay: Duration) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 12];
    if stream.read(&mut bytes[..1]).unwrap() == 0 {
        return None;
    }
    stream.read_exact(&mut bytes[1..]).unwrap();
    let sent_at = Duration::from_nanos(u64::from_le_bytes(bytes[4..12].try_into().unwrap()));
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap());
    assert_not_early(epoch + sent_at, delay);
    bytes.resize(12 + length as usize, 0);
    stream.read_exact(&mut bytes[12..]).unwrap();
    Some(bytes)
}

#[test]
fn data_is_intact_in_order_and_never_early_on_concurrent_connections() {
    const MESSAGES: usize = 150;
    let seed = 0x00d0_311c;
    println!("seed {seed:#x}");
    let (forward_delay, backward_delay) = (ms(15), ms(6));
    let conditions = LinkConditions {
        forward_delay,
        backward_delay,
        ..Default::default()
    };
    let listener = TcpListener::bind(local(0)).unwrap();
    let link = Link::open(local(0), listener.local_addr().unwrap(), conditions).unwrap();
    let epoch = Instant::now();
    let sent_bytes: usize = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let client = connect(link.address());
                let mut target = accept(&listener);
                scope.spawn(move || {
                    while let Some(bytes) = read_message(&target, epoch, forward_delay) {
                        target.write_all(&bytes).unwrap();
                    }
                });
                scope.spawn(move || {
                    let (sender, sent) = std::sync::mpsc::channel();
                    let mut writing = client.try_clone().unwrap();
                    let writer = thread::spawn(move || {
                        let mut random = SplitMix64::new(seed + number);
                        for _ in 0..MESSAGES {
                            let bytes = message(&mut random, epoch);
                            writing.write_all(&bytes).unwrap();
                            sender.send(bytes).unwrap();
                        }
                        writing.shutdown(Shutdown::Write).unwrap();
                    });
                    let mut total = 0;
                    for _ in 0..MESSAGES {
                        let rtt = forward_delay + backward_delay;
                        let echoed = read_message(&client, epoch, rtt).expect("an echo is missing");
                        assert!(
                            echoed == sent.recv().unwrap(),
                            "connection {number}: not the echo"
                        );
                        total += echoed.len();
                    }
                    writer.join().unwrap();
                    assert_eq!((&client).read(&mut [0]).unwrap(), 0);
                    total
                })
            })
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .sum()
    });
    wait_until("all connections close", || {
        link.stats().connections_open == 0
    });
    let stats = link.stats();
    assert_eq!(stats.connections_accepted, 4);
    assert_eq!(
        (stats.forward_bytes, stats.backward_bytes),
        (sent_bytes as u64, sent_bytes as u64)
    );
    assert_eq!(
        (stats.forward_buffered_bytes, stats.backward_buffered_bytes),
        (0, 0)
    );
}

#[test]
fn jitter_keeps_order() {
    let delay = ms(5);
    let conditions = LinkConditions {
        jitter: ms(10),
        ..LinkConditions::with_rtt(2 * delay)
    };
    let Path {
        mut client,
        target,
        link: _link,
        ..
    } = path(conditions);
    let epoch = Instant::now();
    let sender = thread::spawn(move || {
        for number in 0..1000_u32 {
            let mut bytes = number.to_le_bytes().to_vec();
            bytes.extend_from_slice(&(epoch.elapsed().as_nanos() as u64).to_le_bytes());
            client.write_all(&bytes).unwrap();
            if number % 10 == 0 {
                thread::sleep(ms(1));
            }
        }
        client
    });
    for expected in 0..1000_u32 {
        let bytes = read_bytes::<12>(&target);
        assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()), expected);
        let sent_at = u64::from_le_bytes(bytes[4..].try_into().unwrap());
        assert_not_early(epoch + Duration::from_nanos(sent_at), delay);
    }
    sender.join().unwrap();
}

#[test]
fn jitter_is_uniform_bounded_and_repeatable() {
    let conditions = LinkConditions {
        jitter: ms(8),
        ..LinkConditions::with_rtt(ms(20))
    };
    let now = Instant::now();
    let delays = |seed, direction| -> Vec<Duration> {
        let lane = Lane::new(direction, &conditions, seed);
        (0..4000).map(|_| lane.deadline(100, now) - now).collect()
    };
    let first = delays(7, Direction::Forward);
    assert!(first.iter().all(|delay| (ms(10)..=ms(18)).contains(delay)));
    let mean = first.iter().sum::<Duration>() / 4000;
    assert!((Duration::from_micros(13_700)..Duration::from_micros(14_300)).contains(&mean));
    assert_eq!(first, delays(7, Direction::Forward));
    assert_ne!(first, delays(7, Direction::Backward));
    assert_ne!(first, delays(8, Direction::Forward));
}

#[test]
fn bandwidth_is_not_exceeded() {
    let delay = ms(10);
    let bandwidth_bytes_per_s = NonZeroU64::new(2_000_000);
    let conditions = LinkConditions {
        bandwidth_bytes_per_s,
        ..LinkConditions::with_rtt(2 * delay)
    };
    let Path {
        mut client,
        mut target,
        link: _link,
        ..
    } = path(conditions);
    let started = Instant::now();
    let sender = thread::spawn(move || client.write_all(&[7; 500_000]).unwrap());
    target.read_exact(&mut vec![0; 500_000]).unwrap();
    assert_not_early(started, delay + ms(250));
    sender.join().unwrap();
}

#[test]
fn cut_resets_discards_and_refuses_until_healed() {
    let Path {
        link,
        listener,
        mut client,
        target,
    } = path(LinkConditions::default());
    assert_passes(&client, &target);
    assert_passes(&target, &client);
    link.set_conditions(LinkConditions::with_rtt(Duration::from_secs(20)))
        .unwrap();
    client.write_all(b"lost").unwrap();
    wait_until("bytes are in flight", || {
        link.stats().forward_buffered_bytes == 4
    });

    link.cut();
    assert_eq!(link.stats().forward_buffered_bytes, 0);
    assert_eq!(link.stats().connections_open, 0);
    assert_reset(&client);
    assert_reset(&target);
    assert_refused(link.address());
    assert_eq!(link.stats().connections_accepted, 1);

    link.heal();
    link.set_conditions(LinkConditions::default()).unwrap();
    let client = connect(link.address());
    let target = accept(&listener);
    assert_passes(&client, &target);
    assert_passes(&target, &client);
}

#[test]
fn one_way_cut_holds_only_that_way() {
    let delay = ms(20);
    for direction in Direction::BOTH {
        let Path {
            link,
            client,
            target,
            ..
        } = path(LinkConditions::with_rtt(2 * delay));
        let (mut held_from, held_to) = match direction {
            Direction::Forward => (&client, &target),
            Direction::Backward => (&target, &client),
        };
        // Already in flight when the cut comes: held as well.
        held_from.write_all(b"1").unwrap();
        match direction {
            Direction::Forward => link.cut_forward(),
            Direction::Backward => link.cut_backward(),
        }
        held_from.write_all(b"2").unwrap();
        let held_bytes = || match direction {
            Direction::Forward => link.stats().forward_buffered_bytes,
            Direction::Backward => link.stats().backward_buffered_bytes,
        };
        wait_until("bytes are held", || held_bytes() == 2);
        assert_passes(held_to, held_from);
        // Well past their deadlines by now, as the other way has taken as long.
        assert_passes(held_to, held_from);
        assert_eq!(held_bytes(), 2);

        let healed_at = Instant::now();
        link.heal();
        assert_eq!(&read_bytes::<2>(held_to), b"12");
        assert_not_early(healed_at, delay);
        assert_passes(held_from, held_to);
    }
}

#[test]
fn black_hole_keeps_connections_open_and_silent() {
    let delay = ms(10);
    let Path {
        link,
        listener,
        mut client,
        mut target,
    } = path(LinkConditions::with_rtt(2 * delay));
    assert_passes(&client, &target);
    link.black_hole();
    client.write_all(b"ping").unwrap();
    target.write_all(b"pong").unwrap();
    let mut late = connect(link.address());
    late.write_all(b"late").unwrap();
    wait_until("bytes are held both ways", || {
        let stats = link.stats();
        (stats.forward_buffered_bytes, stats.backward_buffered_bytes) == (4, 4)
            && stats.connections_open == 2
    });
    thread::sleep(3 * delay);
    for stream in [&client, &target, &late] {
        stream.set_nonblocking(true).unwrap();
        let error = (&*stream)
            .read(&mut [0])
            .expect_err("bytes cross a black hole");
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        stream.set_nonblocking(false).unwrap();
    }
    listener.set_nonblocking(true).unwrap();
    assert_eq!(
        listener.accept().unwrap_err().kind(),
        io::ErrorKind::WouldBlock
    );
    listener.set_nonblocking(false).unwrap();

    let healed_at = Instant::now();
    link.heal();
    assert_eq!(&read_bytes::<4>(&target), b"ping");
    assert_not_early(healed_at, delay);
    assert_eq!(&read_bytes::<4>(&client), b"pong");
    assert_eq!(&read_bytes::<4>(&accept(&listener)), b"late");
}

#[test]
fn half_close_crosses_with_the_delay_and_the_other_way_stays_open() {
    let delay = ms(20);
    let Path {
        link,
        mut client,
        mut target,
        ..
    } = path(LinkConditions::with_rtt(2 * delay));
    client.write_all(b"request").unwrap();
    let closed_at = Instant::now();
    client.shutdown(Shutdown::Write).unwrap();
    let mut request = Vec::new();
    target.read_to_end(&mut request).unwrap();
    assert_not_early(closed_at, delay);
    assert_eq!(request, b"request");

    target.write_all(b"reply").unwrap();
    let closed_at = Instant::now();
    drop(target);
    let mut reply = Vec::new();
    client.read_to_end(&mut reply).unwrap();
    assert_not_early(closed_at, delay);
    assert_eq!(reply, b"reply");
    wait_until("the connection is over", || {
        link.stats().connections_open == 0
    });
}

#[test]
fn a_reset_crosses_with_the_delay() {
    let delay = ms(20);
    for from in Direction::BOTH {
        let Path {
            link,
            client,
            target,
            ..
        } = path(LinkConditions::with_rtt(2 * delay));
        assert_passes(&client, &target);
        let (gone, left) = match from {
            Direction::Forward => (client, target),
            Direction::Backward => (target, client),
        };
        reset_on_close(&gone);
        let reset_at = Instant::now();
        drop(gone);
        assert_reset(&left);
        assert_not_early(reset_at, delay);
        wait_until("the connection is over", || {
            link.stats().connections_open == 0
        });
    }
}

#[test]
fn writing_to_a_target_that_is_gone_is_answered_with_a_reset_after_its_last_words() {
    let delay = ms(10);
    let Path {
        link,
        mut client,
        mut target,
        ..
    } = path(LinkConditions::with_rtt(2 * delay));
    target.write_all(b"goodbye").unwrap();
    drop(target);
    let mut last_words = Vec::new();
    client.read_to_end(&mut last_words).unwrap();
    assert_eq!(last_words, b"goodbye");
    wait_until("a write fails", || {
        client.write_all(b"anybody there?").is_err()
    });
    wait_until("the connection is over", || {
        link.stats().connections_open == 0
    });
}

#[test]
fn an_unreachable_or_unknown_target_resets_after_a_round_trip() {
    let rtt = ms(30);
    let unused = TcpListener::bind("127.0.7.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let link = Link::open(local(0), None, LinkConditions::with_rtt(rtt)).unwrap();
    assert_eq!(link.target(), None);
    let since = Instant::now();
    assert_refused(link.address());
    assert_not_early(since, rtt);

    link.set_target(unused);
    let since = Instant::now();
    assert_refused(link.address());
    assert_not_early(since, rtt);

    let listener = TcpListener::bind(local(0)).unwrap();
    link.set_target(listener.local_addr().unwrap());
    assert_passes(&connect(link.address()), &accept(&listener));
}

/// Writes until the link ends the connection, and says how many bytes were taken.
fn flood(mut client: TcpStream) -> thread::JoinHandle<usize> {
    thread::spawn(move || {
        let block = vec![1; 1 << 20];
        let mut sent_bytes = 0;
        // Four times what proxy and kernel can hold: the flood must be stopped, not run dry.
        while sent_bytes < 4 * BUFFER_BYTES_MAX {
            match client.write(&block) {
                Ok(length) => sent_bytes += length,
                Err(_) => return sent_bytes,
            }
        }
        sent_bytes
    })
}

#[test]
fn a_target_that_never_reads_fills_the_buffer_and_no_more() {
    let Path {
        link,
        client,
        target,
        ..
    } = path(LinkConditions::with_rtt(ms(2)));
    let flooding = flood(client);
    let mut largest = 0;
    wait_until("the buffer is full", || {
        largest = largest.max(link.stats().forward_buffered_bytes);
        largest + CHUNK_BYTES_MAX > BUFFER_BYTES_MAX
    });
    for _ in 0..50 {
        largest = largest.max(link.stats().forward_buffered_bytes);
        thread::sleep(ms(1));
    }
    assert!(
        largest <= BUFFER_BYTES_MAX,
        "{largest} bytes buffered, limit {BUFFER_BYTES_MAX}"
    );
    assert!(!flooding.is_finished(), "the sender was not pushed back");
    // Ends the writer, which is blocked on the target's full socket.
    link.cut();
    let sent_bytes = flooding.join().unwrap();
    assert!(
        sent_bytes < 4 * BUFFER_BYTES_MAX,
        "{sent_bytes} bytes were taken"
    );
    drop(target);
}

#[test]
fn conditions_change_live_and_later_bytes_do_not_overtake() {
    let Path {
        link,
        mut client,
        target,
        ..
    } = path(LinkConditions::default());
    assert_passes(&client, &target);

    link.set_conditions(LinkConditions::with_rtt(ms(200)))
        .unwrap();
    assert_eq!(link.conditions().rtt(), ms(200));
    let slow_sent_at = Instant::now();
    client.write_all(b"slow").unwrap();
    wait_until("bytes are in flight", || {
        link.stats().forward_buffered_bytes == 4
    });
    link.set_conditions(LinkConditions::with_rtt(ms(10)))
        .unwrap();
    client.write_all(b"fast").unwrap();
    assert_eq!(&read_bytes::<8>(&target), b"slowfast");
    assert_not_early(slow_sent_at, ms(100));

    let sent_at = Instant::now();
    assert_passes(&client, &target);
    assert_not_early(sent_at, ms(5));

    let too_long = LinkConditions {
        jitter: DELAY_MAX + ms(1),
        ..LinkConditions::default()
    };
    let refused = link.set_conditions(too_long);
    assert!(
        matches!(refused, Err(WanError::DelayTooLong { .. })),
        "{refused:?}"
    );
    assert_eq!(link.conditions().rtt(), ms(10));
}

#[test]
fn drop_resets_connections_frees_the_address_and_ends_all_threads() {
    let listener = TcpListener::bind(local(0)).unwrap();
    let target = listener.local_addr().unwrap();
    // An address of its own, so that no other test can be given the port in between.
    let link = Link::open(
        "127.0.7.2:0".parse().unwrap(),
        target,
        LinkConditions::default(),
    )
    .unwrap();
    let address = link.address();
    let idle = connect(address);
    let idle_target = accept(&listener);
    assert_passes(&idle, &idle_target);
    let flooding = flood(connect(address));
    let blocked_target = accept(&listener);
    wait_until("a writer is blocked", || {
        link.stats().forward_buffered_bytes + CHUNK_BYTES_MAX > BUFFER_BYTES_MAX
    });
    link.black_hole();
    let undialled = connect(address);
    wait_until("it is accepted", || link.stats().connections_open == 3);

    // Returns only when every thread has ended.
    link.close();
    assert_reset(&idle);
    assert_reset(&idle_target);
    assert_reset(&undialled);
    flooding.join().unwrap();
    drop(blocked_target);
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}
