//! The HTTP port.
//!
//! **Owns**: its two pages, what a connection may cost.
//! **Does not own**: accepting connections (`front::listener`), the numbers (`page`).
//!
//! One request a connection: whoever asks every few seconds does not miss more, and a connection
//! has one deadline from its first byte to its last.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use domicile_replication::{Detail, Node};
use futures::StreamExt;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::page;
use crate::front::{FrontError, listener};

/// Connections at once: a few collectors and a health check. Doubled, twice the sockets.
const CONNECTIONS_MAX: usize = 16;

/// Bytes of a request that are held: as many as the client port admits of headers. Doubled, a peer
/// may hold twice as much.
const REQUEST_BYTES_MAX: usize = 16 << 10;

/// Headers of a request: more than any collector sends. Doubled, a peer may hold twice as much.
const HEADERS_MAX: usize = 64;

/// From the first byte of a connection to its last: many times what a scrape takes. Doubled, one
/// that does not read keeps its place twice as long.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// The text format that the page is in.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The open HTTP port of a node.
pub(crate) struct HttpDoor {
    listener: TcpListener,
}

impl HttpDoor {
    /// Opens the port.
    ///
    /// # Errors
    /// [`FrontError::Listen`] if the port is taken.
    pub(crate) async fn open(address: SocketAddr) -> Result<Self, FrontError> {
        let listener = listener::bind(address).await?;
        Ok(Self { listener })
    }

    #[cfg(test)]
    pub(super) fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound port")
    }

    /// Answers for `node` for as long as it is polled. `closing` turns true when the node does.
    pub(crate) async fn serve(self, node: Node, closing: watch::Receiver<bool>) {
        let connections = listener::connections(self.listener, CONNECTIONS_MAX);
        let mut connections = std::pin::pin!(connections);
        while let Some(Ok(connection)) = connections.next().await {
            let (node, closing) = (node.clone(), closing.clone());
            let answer = service_fn(move |request: Request<Incoming>| {
                let answered = answer(&node, *closing.borrow(), &request);
                std::future::ready(Ok::<_, Infallible>(answered))
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(CONNECTION_TIMEOUT)
                .max_buf_size(REQUEST_BYTES_MAX)
                .max_headers(HEADERS_MAX)
                .keep_alive(false)
                .serve_connection(TokioIo::new(connection), answer);
            tokio::spawn(async {
                match tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection failed"),
                    Err(_) => tracing::debug!("an HTTP connection took too long"),
                }
            });
        }
    }
}

fn answer<B>(node: &Node, is_closing: bool, request: &Request<B>) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match request.uri().path() {
        "/metrics" => {
            let mut page = text(
                StatusCode::OK,
                page::render(node.status(Detail::Partitions)),
            );
            let kind = HeaderValue::from_static(METRICS_TYPE);
            page.headers_mut().insert(CONTENT_TYPE, kind);
            page
        }
        "/healthz" if is_closing => text(StatusCode::SERVICE_UNAVAILABLE, "closing\n"),
        "/healthz" => match node.status(Detail::Summary).poisoned {
            cause if cause.is_empty() => text(StatusCode::OK, "ok\n"),
            cause => text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("refuses writes: {cause}\n"),
            ),
        },
        _ => text(StatusCode::NOT_FOUND, "/metrics or /healthz\n"),
    }
}

fn text(code: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = code;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
