//! Get and scan as builders.
//!
//! **Owns**: consistency and paging as the caller chooses them.
//! **Does not own**: the meaning of the levels (the node), repeating a read (`call`).

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use domicile_proto::v1;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};

use crate::call::call;
use crate::error::ClientError;
use crate::keyspace::KeyspaceClient;
use crate::receipt::{Entry, Page, PageToken, ReadAnswer};
use crate::session::SessionMark;

/// Rows a page unless the caller says otherwise: the server's own default.
const PAGE_ROWS_DEFAULT: u32 = 1000;

/// How fresh an answer must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Linearizable, answered by the home.
    Home,
    /// Not before what the handle's session has seen.
    Session,
    /// At most this stale.
    Bounded(Duration),
    /// Whatever the answering node has.
    Local,
}

#[derive(Debug, Clone, Default)]
struct Demands {
    consistency: Option<Consistency>,
    local_only: bool,
    timeout: Option<Duration>,
}

impl Demands {
    /// A handle with a session reads by it unless told otherwise; one without, at the home.
    fn to_wire(&self, keyspace: &KeyspaceClient) -> v1::ReadOptions {
        let marks = keyspace.marks();
        let implied = if marks.is_some() {
            Consistency::Session
        } else {
            Consistency::Home
        };
        let (consistency, bound_ms, session) = match self.consistency.unwrap_or(implied) {
            Consistency::Home => (v1::Consistency::Home, 0, Vec::new()),
            Consistency::Local => (v1::Consistency::Local, 0, Vec::new()),
            Consistency::Session => {
                let marks = marks.unwrap_or_default().into_iter();
                (
                    v1::Consistency::Session,
                    0,
                    marks.map(SessionMark::to_wire).collect(),
                )
            }
            Consistency::Bounded(bound) => {
                let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
                (v1::Consistency::Bounded, bound_ms, Vec::new())
            }
        };
        v1::ReadOptions {
            consistency: consistency.into(),
            bound_ms,
            session,
            local_only: self.local_only,
        }
    }
}

macro_rules! demands {
    ($builder:ty) => {
        impl $builder {
            /// How fresh the answer must be.
            pub fn consistency(mut self, consistency: Consistency) -> Self {
                self.demands.consistency = Some(consistency);
                self
            }

            /// The deadline of each call, over all attempts.
            pub fn timeout(mut self, timeout: Duration) -> Self {
                self.demands.timeout = Some(timeout);
                self
            }

            /// Refuse instead of forwarding to the home.
            pub fn local_only(mut self) -> Self {
                self.demands.local_only = true;
                self
            }
        }
    };
}

/// A read of one key; await it for the entry, or ask for the whole [`Get::answer`].
#[derive(Debug, Clone)]
#[must_use = "a read is sent when awaited"]
pub struct Get {
    keyspace: KeyspaceClient,
    key: Bytes,
    demands: Demands,
}

demands!(Get);

impl Get {
    pub(crate) fn new(keyspace: KeyspaceClient, key: Bytes) -> Self {
        Self {
            keyspace,
            key,
            demands: Demands::default(),
        }
    }

    /// The entry with where it was read and how fresh it is.
    ///
    /// # Errors
    /// What the server answers. A missing key is no error.
    pub async fn answer(self) -> Result<ReadAnswer, ClientError> {
        let request = v1::GetRequest {
            keyspace: self.keyspace.name().to_owned(),
            key: self.key,
            options: Some(self.demands.to_wire(&self.keyspace)),
        };
        let answer = call(self.keyspace.client(), request, self.demands.timeout).await?;
        let answer = ReadAnswer::from_wire(answer)?;
        self.keyspace.observe(answer.mark.as_slice());
        Ok(answer)
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Entry>, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { Ok(self.answer().await?.entry) })
    }
}

/// A read of a range in key order: as a stream of rows, or page by page.
#[derive(Debug, Clone)]
#[must_use = "a scan reads nothing until it is asked for pages"]
pub struct Scan {
    keyspace: KeyspaceClient,
    from: Bytes,
    upto: Bytes,
    prefix: Bytes,
    reverse: bool,
    page_rows: u32,
    limit: usize,
    demands: Demands,
}

demands!(Scan);

impl Scan {
    pub(crate) fn new(keyspace: KeyspaceClient, prefix: Bytes) -> Self {
        Self {
            keyspace,
            from: Bytes::new(),
            upto: Bytes::new(),
            prefix,
            reverse: false,
            page_rows: PAGE_ROWS_DEFAULT,
            limit: usize::MAX,
            demands: Demands::default(),
        }
    }

    /// Only keys from this one on, itself included.
    pub fn from(mut self, key: impl AsRef<[u8]>) -> Self {
        self.from = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// Only keys before this one.
    pub fn upto(mut self, key: impl AsRef<[u8]>) -> Self {
        self.upto = Bytes::copy_from_slice(key.as_ref());
        self
    }

    /// From the last key to the first.
    pub fn reverse(mut self) -> Self {
        self.reverse = true;
        self
    }

    /// Rows a page, 1 to 10,000.
    pub fn page_rows(mut self, rows: u32) -> Self {
        self.page_rows = rows;
        self
    }

    /// Ends the stream after this many rows.
    pub fn limit(mut self, rows: usize) -> Self {
        self.limit = rows;
        self
    }

    /// One page: the first, or the one that a page before pointed to.
    ///
    /// # Errors
    /// What the server answers.
    pub async fn page(&self, after: Option<PageToken>) -> Result<Page, ClientError> {
        let request = v1::ScanRequest {
            keyspace: self.keyspace.name().to_owned(),
            from: self.from.clone(),
            upto: self.upto.clone(),
            prefix: self.prefix.clone(),
            reverse: self.reverse,
            limit: self
                .page_rows
                .min(u32::try_from(self.limit).unwrap_or(u32::MAX))
                .max(1),
            page_token: after.map(|token| token.0).unwrap_or_default(),
            options: Some(self.demands.to_wire(&self.keyspace)),
        };
        let answer = call(self.keyspace.client(), request, self.demands.timeout).await?;
        let page = Page::from_wire(answer)?;
        self.keyspace.observe(&page.marks);
        Ok(page)
    }

    /// All rows, page by page as they are wanted; ends after the first error.
    pub fn rows(self) -> impl Stream<Item = Result<Entry, ClientError>> + Send + 'static {
        let limit = self.limit;
        // What is left to do: `None` once the last page was read.
        let start = Some((self, None));
        let pages = stream::try_unfold(start, |state| async {
            let Some((scan, after)) = state else {
                return Ok(None);
            };
            let page = scan.page(after).await?;
            let rest = page.next.map(|token| (scan, Some(token)));
            Ok::<_, ClientError>(Some((stream::iter(page.entries).map(Ok), rest)))
        });
        pages.try_flatten().take(limit)
    }
}
