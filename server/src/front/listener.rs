//! Connections of clients as they come in, never more than the limit.
//!
//! **Owns**: binding, accepting, the pause when the system has no more sockets, the deadline of a
//! connection's first byte.
//! **Does not own**: what is spoken on them (`door`).

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::error::FrontError;
use super::limits::FIRST_BYTE_TIMEOUT;

/// Pause after an accept that failed, as it does when the process has no more descriptors: long
/// enough that some are closed, short enough that nobody notices. Doubled, a burst waits longer.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the port.
///
/// # Errors
/// [`FrontError::Listen`] with the address.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener, FrontError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| FrontError::Listen { address, source })
}

/// Connections, each of which holds one of `connections_max` places until it is closed.
pub(crate) fn connections(
    listener: TcpListener,
    connections_max: usize,
) -> impl Stream<Item = io::Result<Connection>> {
    let places = Arc::new(Semaphore::new(connections_max));
    futures::stream::unfold((listener, places), |(listener, places)| async {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let connection = accept(&listener, place).await;
        Some((Ok(connection), (listener, places)))
    })
}

async fn accept(listener: &TcpListener, place: OwnedSemaphorePermit) -> Connection {
    loop {
        match listener.accept().await {
            Ok((socket, _)) => {
                // Answers are small: waiting to fill a packet would cost 40 ms.
                if let Err(error) = socket.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY on a connection");
                }
                let silence = Box::pin(tokio::time::sleep(FIRST_BYTE_TIMEOUT));
                return Connection {
                    socket,
                    silence: Some(silence),
                    _place: place,
                };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// A client's connection.
pub(crate) struct Connection {
    socket: TcpStream,
    /// Until the first byte has come.
    silence: Option<Pin<Box<Sleep>>>,
    _place: OwnedSemaphorePermit,
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.socket.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        match (&read, &mut self.silence) {
            (_, None) => read,
            (Poll::Ready(_), silence) => {
                *silence = None;
                read
            }
            (Poll::Pending, Some(silence)) => silence.as_mut().poll(context).map(|()| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no byte since the connection was made",
                ))
            }),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_full_house_admits_the_next_once_one_leaves() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut connections = Box::pin(connections(listener, 1));
        let _first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let admitted = connections.next().await.unwrap().unwrap();
        // The second waits in the kernel's queue: polling admits nobody.
        assert!(futures::poll!(connections.next()).is_pending());
        drop(admitted);
        let mut admitted = connections.next().await.unwrap().unwrap();
        second.write_all(b"x").await.unwrap();
        assert_eq!(admitted.read_u8().await.unwrap(), b'x');
        assert!(admitted.silence.is_none());
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let refused = bind(address).await.unwrap_err();
        assert!(
            refused.to_string().contains(&address.to_string()),
            "{refused}"
        );
    }
}
