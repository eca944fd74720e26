//! One proxied TCP connection: two sockets, two pipes and the threads between them.
//!
//! **Owns** the sockets and how end of stream, errors and resets travel from one to the other.
//!
//! **Does not own** the accepting (`link`) nor the order and timing of bytes (`pipe`).
//!
//! ```text
//! source ends       -> Fin through the pipe   -> half-close of the sink, one delay later
//! source fails      -> Reset through the pipe -> both sockets reset, one delay later
//! sink fails        -> this pipe drops its bytes, Reset through the opposite pipe
//! target unreachable-> Reset through the backward pipe, one round trip later
//! abort             -> both pipes forget their bytes, both sockets reset, now
//! ```

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::num::NonZeroU64;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::lane::Direction;
use super::pipe::{BATCH_CHUNKS_MAX, Chunk, Due, Pipe};

/// How long the target may take to answer a connection attempt.
///
/// On loopback it answers at once unless its backlog is full. Doubled, closing a link may wait
/// twice as long for an attempt that is under way.
const DIAL_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a write to a full socket may take before the writer looks whether the connection is
/// over. Doubled, closing a link that nobody reads waits twice as long; halved, a blocked writer
/// wakes twice as often.
const BLOCKED_WRITE_CHECK: Duration = Duration::from_millis(50);

/// The stack of a proxy thread, which calls nothing deep. Doubled, it costs address space only;
/// halved, formatting a log line comes near its end.
pub(super) const THREAD_STACK_BYTES: usize = 256 << 10;

/// How late a writer's timer may be, in ns: not at all. The default of 50,000 is half of what this
/// machine's scheduler adds to a round trip.
const TIMER_SLACK: NonZeroU64 = NonZeroU64::MIN;

#[derive(Debug)]
pub(super) struct Connection {
    client: TcpStream,
    target: OnceLock<TcpStream>,
    forward: Pipe,
    backward: Pipe,
    /// Directions whose end of stream has been delivered.
    finished: AtomicUsize,
}

impl Connection {
    pub(super) fn new(client: TcpStream, forward: Pipe, backward: Pipe) -> Self {
        let finished = AtomicUsize::new(0);
        Self {
            client,
            target: OnceLock::new(),
            forward,
            backward,
            finished,
        }
    }

    pub(super) fn pipe(&self, direction: Direction) -> &Pipe {
        match direction {
            Direction::Forward => &self.forward,
            Direction::Backward => &self.backward,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.forward.is_over()
    }

    /// Carries the connection to its end. `address` is asked for once the way is clear.
    pub(super) fn run(&self, address: impl FnOnce() -> Option<SocketAddr>) {
        // A handshake takes both ways, so it waits until neither is held.
        if !self.forward.wait_released() || !self.backward.wait_released() {
            return;
        }
        match dial(address()) {
            Ok(target) => self.carry(self.target.get_or_init(|| target)),
            Err(error) => {
                tracing::debug!(%error, "link target unreachable");
                self.backward
                    .push_reset(Instant::now() + self.forward.lane().delay());
                self.write_to(&self.client, Direction::Backward);
            }
        }
    }

    fn carry(&self, target: &TcpStream) {
        // An abort during the dial found no target to reset.
        if self.is_over() {
            return reset_on_close(target);
        }
        for sink in [&self.client, target] {
            if let Err(error) = sink.set_write_timeout(Some(BLOCKED_WRITE_CHECK)) {
                tracing::debug!(%error, "a connection ended before it was carried");
                return self.abort();
            }
        }
        thread::scope(|scope| {
            let named = |name: &str| {
                thread::Builder::new()
                    .name(name.to_owned())
                    .stack_size(THREAD_STACK_BYTES)
            };
            let spawned = named("wan-fwd-write")
                .spawn_scoped(scope, || self.write_to(target, Direction::Forward))
                .and_then(|_| {
                    named("wan-bwd-write")
                        .spawn_scoped(scope, || self.write_to(&self.client, Direction::Backward))
                })
                .and_then(|_| {
                    named("wan-bwd-read")
                        .spawn_scoped(scope, || self.read_from(target, Direction::Backward))
                });
            match spawned {
                Ok(_) => self.read_from(&self.client, Direction::Forward),
                Err(error) => {
                    tracing::warn!(%error, "cannot start the threads of a connection");
                    self.abort();
                }
            }
        });
    }

    fn read_from(&self, mut source: &TcpStream, direction: Direction) {
        let pipe = self.pipe(direction);
        let mut buffer = Pipe::new_buffer();
        while let Some(limit) = pipe.admit() {
            match source.read(&mut buffer[..limit]) {
                Ok(0) => return pipe.push_fin(Instant::now()),
                Ok(length) => pipe.push_bytes(&mut buffer, length, Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return pipe.push_reset(Instant::now()),
            }
        }
    }

    fn write_to(&self, sink: &TcpStream, direction: Direction) {
        wake_on_time();
        let (pipe, opposite) = match direction {
            Direction::Forward => (&self.forward, &self.backward),
            Direction::Backward => (&self.backward, &self.forward),
        };
        let mut batch = Vec::with_capacity(BATCH_CHUNKS_MAX);
        loop {
            match pipe.next(&mut batch) {
                Due::Bytes => match write_batch(sink, &batch, pipe) {
                    Ok(()) => pipe.delivered(&mut batch),
                    Err(_) => {
                        pipe.discard(&mut batch);
                        opposite.push_reset(Instant::now());
                    }
                },
                Due::Fin => {
                    // A sink that is gone already answers with its own reset.
                    let _ = sink.shutdown(Shutdown::Write);
                    if self.finished.fetch_add(1, Ordering::AcqRel) + 1 == Direction::BOTH.len() {
                        self.end_pipes();
                    }
                }
                Due::Reset => return self.abort(),
                Due::Over => return,
            }
        }
    }

    fn end_pipes(&self) {
        self.forward.end();
        self.backward.end();
    }

    /// Forgets every byte in flight and resets both sockets. The resets leave when the threads let
    /// go of the sockets, at once after this.
    pub(super) fn abort(&self) {
        self.end_pipes();
        for socket in [Some(&self.client), self.target.get()]
            .into_iter()
            .flatten()
        {
            reset_on_close(socket);
            // Wakes the reader without telling the peer anything. A writer that is blocked looks
            // for itself: shutting its side down would send an orderly end ahead of the reset.
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

/// Linux wakes a thread up to 50 us after its time, to save power. On a link that would be jitter
/// of the link's own; if it stays, the link is a little late and nothing else.
fn wake_on_time() {
    if let Err(error) = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK)) {
        tracing::debug!(%error, "timers of a link may be late");
    }
}

/// Makes the close of this socket a reset rather than an orderly end of stream: what a peer sees of
/// a region that is cut off must not look like a finished conversation.
pub(super) fn reset_on_close(socket: &TcpStream) {
    // Fails only for a socket that is closed already.
    let _ = rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO));
}

fn dial(address: Option<SocketAddr>) -> io::Result<TcpStream> {
    let address = address.ok_or(io::ErrorKind::AddrNotAvailable)?;
    let target = TcpStream::connect_timeout(&address, DIAL_TIMEOUT)?;
    target.set_nodelay(true)?;
    Ok(target)
}

/// Writes everything, or fails: also once the connection is over, however long the sink is full.
fn write_batch(mut sink: &TcpStream, batch: &[Chunk], pipe: &Pipe) -> io::Result<()> {
    let mut storage = [IoSlice::new(&[]); BATCH_CHUNKS_MAX];
    for (slice, chunk) in storage.iter_mut().zip(batch) {
        *slice = IoSlice::new(chunk.bytes());
    }
    let mut slices = &mut storage[..batch.len()];
    while !slices.is_empty() {
        match sink.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !pipe.is_over() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
