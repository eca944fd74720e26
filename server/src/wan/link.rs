//! A listening address whose connections reach their target at a distance, or not at all.
//!
//! **Owns** the listener, the faults, the conditions and the register of live connections.
//!
//! **Does not own** the bytes of a connection (`connection`, `pipe`) nor the mesh (`mesh`).

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::conditions::LinkConditions;
use super::connection::{Connection, THREAD_STACK_BYTES, reset_on_close};
use super::error::WanError;
use super::lane::{Direction, Lane};
use super::pipe::Pipe;

/// The most connections a link carries at once; further ones are reset.
///
/// Each costs four threads and three descriptors' worth of kernel state, and peers need a handful.
/// Doubled, a client that leaks connections brings the machine down before it is stopped here.
pub const CONNECTIONS_MAX: usize = 1024;

/// The pause after a failed accept, which is a lack of descriptors that others have to give back.
///
/// Doubled, a link recovers twice as late; without any, the accepting thread would spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// What a link carries and has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Connections that are open now.
    pub connections_open: usize,
    /// Connections accepted since the link was opened, without those refused by a cut.
    pub connections_accepted: u64,
    /// Bytes delivered to the target.
    pub forward_bytes: u64,
    /// Bytes delivered to the client.
    pub backward_bytes: u64,
    /// Bytes in flight from the client to the target.
    pub forward_buffered_bytes: usize,
    /// Bytes in flight from the target to the client.
    pub backward_buffered_bytes: usize,
}

/// A TCP proxy that holds every byte for a one-way delay. Dropping it resets its connections, stops
/// listening and waits for its threads.
///
/// Every change is seen by all connections of the link at one instant.
#[derive(Debug)]
pub struct Link {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// A second handle on the listening socket, to end a blocked accept.
    listening: TcpStream,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    forward: Arc<Lane>,
    backward: Arc<Lane>,
    control: Mutex<Control>,
}

/// The state of a link behind its lock; holding it keeps connections from coming and going.
#[derive(Debug)]
pub(super) struct Control {
    target: Option<SocketAddr>,
    conditions: LinkConditions,
    cut: bool,
    forward_held: bool,
    backward_held: bool,
    closed: bool,
    connections: Vec<Registered>,
    connections_accepted: u64,
}

#[derive(Debug)]
struct Registered {
    /// Its own thread keeps the connection alive, so that its sockets close when that ends.
    connection: Weak<Connection>,
    thread: JoinHandle<()>,
}

impl Link {
    /// Listens at `listen` (port 0 picks one, see [`Link::address`]) and connects what it accepts
    /// to `target`, which may be `None` and given later by [`Link::set_target`].
    ///
    /// # Errors
    ///
    /// The address cannot be listened on, the conditions are out of range, or no thread can start.
    pub fn open(
        listen: SocketAddr,
        target: impl Into<Option<SocketAddr>>,
        conditions: LinkConditions,
    ) -> Result<Self, WanError> {
        Self::open_seeded(listen, target.into(), conditions, 0)
    }

    /// Opens a link whose jitter differs from that of links with other seeds.
    pub(super) fn open_seeded(
        listen: SocketAddr,
        target: Option<SocketAddr>,
        conditions: LinkConditions,
        seed: u64,
    ) -> Result<Self, WanError> {
        conditions.validate()?;
        let failed = |source| WanError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let listening = OwnedFd::from(listener.try_clone().map_err(failed)?);
        let shared = Arc::new(Shared {
            forward: Arc::new(Lane::new(Direction::Forward, &conditions, seed)),
            backward: Arc::new(Lane::new(Direction::Backward, &conditions, seed)),
            control: Mutex::new(Control {
                target,
                conditions,
                cut: false,
                forward_held: false,
                backward_held: false,
                closed: false,
                connections: Vec::new(),
                connections_accepted: 0,
            }),
        });
        let accepting = thread::Builder::new()
            .name("wan-accept".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn({
                let shared = Arc::clone(&shared);
                move || shared.accept_until_closed(&listener)
            })
            .map_err(|source| WanError::Thread { source })?;
        Ok(Self {
            shared,
            address,
            listening: listening.into(),
            accepting: Some(accepting),
        })
    }

    /// Where the link listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the link leads, if that is known yet.
    #[must_use]
    pub fn target(&self) -> Option<SocketAddr> {
        self.control().target
    }

    /// Leads new connections to `target`; open ones stay where they are.
    pub fn set_target(&self, target: SocketAddr) {
        self.control().target = Some(target);
    }

    /// The conditions in force.
    #[must_use]
    pub fn conditions(&self) -> LinkConditions {
        self.control().conditions
    }

    /// Changes the conditions for all bytes read from now on. Bytes in flight keep their arrival
    /// time, and bytes behind them do not overtake.
    ///
    /// # Errors
    ///
    /// The conditions are out of range; those in force stay.
    pub fn set_conditions(&self, conditions: LinkConditions) -> Result<(), WanError> {
        self.update_conditions(|_| conditions)
    }

    pub(super) fn update_conditions(
        &self,
        update: impl FnOnce(LinkConditions) -> LinkConditions,
    ) -> Result<(), WanError> {
        let mut control = self.control();
        let conditions = update(control.conditions);
        conditions.validate()?;
        control.conditions = conditions;
        self.shared
            .forward
            .set_conditions(Direction::Forward, &conditions);
        self.shared
            .backward
            .set_conditions(Direction::Backward, &conditions);
        Ok(())
    }

    /// Resets every connection and discards its bytes in flight at this instant; new connections
    /// are reset at once, until [`Link::heal`].
    pub fn cut(&self) {
        self.control().cut();
    }

    /// Holds what goes from the client to the target, also what is in flight, until [`Link::heal`].
    ///
    /// Connections stay open and the other way flows, until a bounded buffer pushes back. A new
    /// connection gets through neither way, as its handshake takes both.
    pub fn cut_forward(&self) {
        self.control().hold(Direction::Forward);
    }

    /// Holds what goes from the target to the client; otherwise as [`Link::cut_forward`].
    pub fn cut_backward(&self) {
        self.control().hold(Direction::Backward);
    }

    /// Holds both ways: connections stay open, new ones are accepted, nothing flows and nobody is
    /// told, until [`Link::heal`].
    pub fn black_hole(&self) {
        let mut control = self.control();
        control.hold(Direction::Forward);
        control.hold(Direction::Backward);
    }

    /// Ends every fault. Held bytes arrive one delay from now at the earliest.
    pub fn heal(&self) {
        self.control().heal();
    }

    /// What the link carries and has carried.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        let control = self.control();
        let mut stats = LinkStats {
            connections_accepted: control.connections_accepted,
            forward_bytes: self.shared.forward.delivered_bytes(),
            backward_bytes: self.shared.backward.delivered_bytes(),
            ..LinkStats::default()
        };
        for connection in control.live().filter(|connection| !connection.is_over()) {
            stats.connections_open += 1;
            stats.forward_buffered_bytes += connection.pipe(Direction::Forward).buffered_bytes();
            stats.backward_buffered_bytes += connection.pipe(Direction::Backward).buffered_bytes();
        }
        stats
    }

    /// Resets all connections, stops listening and waits for all threads, as dropping does.
    pub fn close(self) {
        drop(self);
    }

    pub(super) fn control(&self) -> MutexGuard<'_, Control> {
        self.shared.control()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        {
            let mut control = self.control();
            control.closed = true;
            control.cut();
        }
        // Linux ends a blocked accept when its socket is shut down. Elsewhere that is an error, and
        // a connection to ourselves does the same.
        if self.listening.shutdown(Shutdown::Both).is_err() {
            drop(TcpStream::connect(self.address));
        }
        let connections = std::mem::take(&mut self.control().connections);
        let threads = connections.into_iter().map(|registered| registered.thread);
        for thread in self.accepting.take().into_iter().chain(threads) {
            if thread.join().is_err() {
                tracing::error!("a thread of the link has panicked");
            }
        }
    }
}

impl Shared {
    fn control(&self) -> MutexGuard<'_, Control> {
        self.control
            .lock()
            .expect("nothing panics while it holds a link's control")
    }

    fn accept_until_closed(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            let mut control = self.control();
            if control.closed {
                return;
            }
            match accepted {
                Ok((client, _)) => self.admit(&mut control, client),
                Err(error) => {
                    drop(control);
                    tracing::warn!(%error, "cannot accept on a link");
                    thread::sleep(ACCEPT_RETRY);
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, control: &mut Control, client: TcpStream) {
        control
            .connections
            .retain(|registered| !registered.thread.is_finished());
        if control.cut || control.connections.len() >= CONNECTIONS_MAX {
            reset_on_close(&client);
            return;
        }
        if let Err(error) = client.set_nodelay(true) {
            tracing::debug!(%error, "a connection ended before it was accepted");
            return;
        }
        let connection = Arc::new(Connection::new(
            client,
            Pipe::new(Arc::clone(&self.forward), control.forward_held),
            Pipe::new(Arc::clone(&self.backward), control.backward_held),
        ));
        let weak = Arc::downgrade(&connection);
        let shared = Arc::clone(self);
        let thread = thread::Builder::new()
            .name("wan-fwd-read".to_owned())
            .stack_size(THREAD_STACK_BYTES)
            .spawn(move || connection.run(|| shared.control().target));
        match thread {
            Ok(thread) => {
                control.connections_accepted += 1;
                control.connections.push(Registered {
                    connection: weak,
                    thread,
                });
            }
            Err(error) => tracing::warn!(%error, "cannot start a connection of a link"),
        }
    }
}

impl Control {
    fn live(&self) -> impl Iterator<Item = Arc<Connection>> {
        self.connections
            .iter()
            .filter_map(|registered| registered.connection.upgrade())
    }

    pub(super) fn cut(&mut self) {
        self.cut = true;
        self.live().for_each(|connection| connection.abort());
    }

    pub(super) fn hold(&mut self, direction: Direction) {
        match direction {
            Direction::Forward => self.forward_held = true,
            Direction::Backward => self.backward_held = true,
        }
        self.live()
            .for_each(|connection| connection.pipe(direction).hold());
    }

    pub(super) fn heal(&mut self) {
        self.cut = false;
        self.forward_held = false;
        self.backward_held = false;
        let now = Instant::now();
        for connection in self.live() {
            for direction in Direction::BOTH {
                connection.pipe(direction).release(now);
            }
        }
    }
}
