//! Round trips as measured: a byte sent through a link and back.
//!
//! **Owns**: the echoing listener and the timing.
//! **Does not own**: the links (`wan`).

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long a round trip may take before the link counts as broken: twice the longest that a run
/// may ask for. Doubled, a broken link is reported twice as late.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Answers every byte with the same byte, one connection after the other, until it is dropped.
#[derive(Debug)]
pub(super) struct Echo {
    address: SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// No port or no thread.
    pub(super) fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let thread = thread::Builder::new()
            .name("echo".to_owned())
            .spawn(move || echo_until_empty(&listener))?;
        let thread = Some(thread);
        Ok(Self { address, thread })
    }

    /// Where it listens.
    #[must_use]
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // A connection without a byte is the sign to end.
        let signalled = TcpStream::connect(self.address).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| signalled) {
            // It has nothing to say, and a panic of it has been printed.
            let _ = thread.join();
        }
    }
}

fn echo_until_empty(listener: &TcpListener) {
    while let Ok((mut stream, _)) = listener.accept() {
        let (mut byte, mut echoed) = ([0], 0_u64);
        // An answer of one byte must not wait for a second one.
        let _ = stream.set_nodelay(true);
        while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
            echoed += 1;
        }
        if echoed == 0 {
            return;
        }
    }
}

/// Times `count` round trips, one after the other, to an echo behind `address`.
///
/// # Errors
/// No connection, or no answer in time.
pub(super) fn measure_round_trips(address: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let mut stream = TcpStream::connect_timeout(&address, TIMEOUT)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let since = Instant::now();
        stream.write_all(&[1])?;
        stream.read_exact(&mut [0])?;
        times.push(since.elapsed());
    }
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wan::{Link, LinkConditions};

    #[test]
    fn a_round_trip_through_a_link_takes_its_time() {
        let (echo, rtt) = (Echo::start().unwrap(), Duration::from_millis(20));
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let link = Link::open(listen, echo.address(), LinkConditions::with_rtt(rtt)).unwrap();
        let times = measure_round_trips(link.address(), 3).unwrap();
        assert_eq!(times.len(), 3);
        assert!(times.iter().all(|time| *time >= rtt), "{times:?}");
    }
}
