//! The client itself: its channels, and which of them is in use.
//!
//! **Owns**: connecting, the choice of the endpoint, the calls that concern no keyspace.
//! **Does not own**: when a call is repeated (`call`), the calls on keys (`keyspace`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use domicile_proto::v1;
use tonic::transport::Channel;

use crate::backup::BackupPieces;
use crate::call::call;
use crate::error::ClientError;
use crate::keyspace::KeyspaceClient;
use crate::options::ClientOptions;
use crate::orphans::{self, OrphanAnswers};
use crate::stream::{self, WriteReceiver, WriteSender};

/// A connection to a Domicile cluster. Clones share it.
#[derive(Debug, Clone)]
pub struct Client(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    channels: Vec<Channel>,
    /// Index of the channel in use.
    current: AtomicUsize,
}

impl Client {
    /// A client of one endpoint that connects when it is first used.
    ///
    /// # Errors
    /// An endpoint that is no `http://host:port`.
    pub fn new(endpoint: impl Into<String>) -> Result<Self, ClientError> {
        Self::with_options(ClientOptions::endpoints([endpoint]))
    }

    /// A client that connects when it is first used.
    ///
    /// # Errors
    /// An endpoint that is no `http://host:port`, or none at all.
    pub fn with_options(options: ClientOptions) -> Result<Self, ClientError> {
        let channels = options.channels()?;
        let current = AtomicUsize::new(0);
        Ok(Self(Arc::new(Shared {
            options,
            channels,
            current,
        })))
    }

    /// A client that is connected to the first endpoint that answers.
    ///
    /// # Errors
    /// As [`Client::with_options`]; the last endpoint's failure if none answers.
    pub async fn connect(options: ClientOptions) -> Result<Self, ClientError> {
        let mut channels = options.channels()?;
        let mut failure = None;
        for (place, address) in options.endpoints.iter().enumerate() {
            match options.endpoint(address)?.connect().await {
                Ok(channel) => {
                    channels[place] = channel;
                    let current = AtomicUsize::new(place);
                    return Ok(Self(Arc::new(Shared {
                        options,
                        channels,
                        current,
                    })));
                }
                Err(error) => failure = Some(ClientError::from_transport(error).at(address)),
            }
        }
        Err(failure.expect("channels() refuses an empty list of endpoints"))
    }

    /// The handle of a keyspace; whether it exists is known at the first call.
    #[must_use]
    pub fn keyspace(&self, name: impl Into<String>) -> KeyspaceClient {
        KeyspaceClient::new(self.clone(), name.into())
    }

    /// Opens a stream of pipelined writes with at most `outstanding_max` unanswered ones
    /// (1 to 8,192: the server holds no more of one stream).
    ///
    /// Nothing is repeated on a stream: if it breaks, [`WriteReceiver::next`] says so, and what
    /// was outstanding may be sent again under the same request ids.
    ///
    /// # Errors
    /// No connection.
    pub async fn write_stream(
        &self,
        outstanding_max: usize,
    ) -> Result<(WriteSender, WriteReceiver), ClientError> {
        let (place, channel) = self.current();
        let opened = stream::open(channel, outstanding_max).await;
        opened.map_err(|error| {
            self.turn_from(place);
            error.at(self.address(place))
        })
    }

    /// What the node that answers knows of itself, its peers and keyspaces.
    ///
    /// # Errors
    /// No answer.
    pub async fn status(&self) -> Result<v1::StatusResponse, ClientError> {
        call(self, v1::StatusRequest { partitions: false }, None).await
    }

    /// As [`Client::status`], and of each partition.
    ///
    /// # Errors
    /// No answer.
    pub async fn status_of_partitions(&self) -> Result<v1::StatusResponse, ClientError> {
        call(self, v1::StatusRequest { partitions: true }, None).await
    }

    /// The keyspaces and their policies.
    ///
    /// # Errors
    /// No answer.
    pub async fn keyspaces(&self) -> Result<Vec<v1::KeyspaceDescription>, ClientError> {
        let answer = call(self, v1::ListKeyspacesRequest {}, None).await?;
        Ok(answer.keyspaces)
    }

    /// Makes a keyspace; open at the node that answers.
    ///
    /// # Errors
    /// Homes are static there, there is one of that name, what it is to be cannot be; no leader, no
    /// answer.
    pub async fn create_keyspace(
        &self,
        keyspace: v1::KeyspaceDefinition,
    ) -> Result<Option<v1::KeyspaceDescription>, ClientError> {
        let request = v1::CreateKeyspaceRequest {
            keyspace: Some(keyspace),
        };
        Ok(call(self, request, None).await?.keyspace)
    }

    /// Alters a keyspace, and waits until its homes go by it.
    ///
    /// # Errors
    /// Homes are static there, what is asked cannot be altered, the last alteration is not in force
    /// yet; no leader, no answer.
    pub async fn alter_keyspace(
        &self,
        request: v1::AlterKeyspaceRequest,
        within: Duration,
    ) -> Result<v1::AlterKeyspaceResponse, ClientError> {
        call(self, request, Some(within)).await
    }

    /// Adds a region to the cluster, or brings one back that was removed; its id.
    ///
    /// # Errors
    /// Homes are static there, there is one of that name or id; no leader, no answer.
    pub async fn add_region(&self, request: v1::AddRegionRequest) -> Result<u32, ClientError> {
        Ok(call(self, request, None).await?.id)
    }

    /// Removes a region that no keyspace lists, for good.
    ///
    /// # Errors
    /// Homes are static there, an unknown region, a keyspace lists it; no leader, no answer.
    pub async fn remove_region(&self, name: String) -> Result<(), ClientError> {
        let request = v1::RemoveRegionRequest { name };
        call(self, request, None).await.map(drop)
    }

    /// What would become of a region's homes if it were lost now, a partition each.
    ///
    /// # Errors
    /// Homes are static there, an unknown region or keyspace, no answer.
    pub async fn plan_failover(
        &self,
        request: v1::PlanFailoverRequest,
    ) -> Result<Vec<v1::PlannedFailover>, ClientError> {
        Ok(call(self, request, None).await?.partitions)
    }

    /// Gives the homes of a region up; what became of it.
    ///
    /// # Errors
    /// Homes are static there, the fencing is not proven, no leader, no answer.
    pub async fn give_up_homes(
        &self,
        request: v1::GiveUpHomesRequest,
    ) -> Result<v1::GiveUpHomesResponse, ClientError> {
        call(self, request, None).await
    }

    /// Hands homes on to another region, with nothing lost.
    ///
    /// # Errors
    /// Homes are static there, no node of the region is known, no leader, no answer in time.
    pub async fn switch_over(
        &self,
        request: v1::SwitchOverRequest,
        within: Duration,
    ) -> Result<v1::SwitchOverResponse, ClientError> {
        call(self, request, Some(within)).await
    }

    /// What changed hands, oldest first.
    ///
    /// # Errors
    /// Homes are static there, no answer.
    pub async fn home_changes(&self) -> Result<v1::ListHomeChangesResponse, ClientError> {
        call(self, v1::ListHomeChangesRequest {}, None).await
    }

    /// Begins a backup of the node that answers; the caller keeps its pieces.
    ///
    /// # Errors
    /// What the policy forbids, another backup under way, no answer.
    pub async fn backup(&self, request: v1::BackupRequest) -> Result<BackupPieces, ClientError> {
        let (place, channel) = self.current();
        let begun = BackupPieces::begin(channel, request).await;
        begun.map_err(|error| error.at(self.address(place)))
    }

    /// The orphan files of the node that answers.
    ///
    /// # Errors
    /// No answer.
    pub async fn orphans(&self) -> Result<v1::ListOrphansResponse, ClientError> {
        call(self, v1::ListOrphansRequest {}, None).await
    }

    /// The records of one orphan file of the node that answers, in order.
    ///
    /// # Errors
    /// No such file there; what the policy forbids; no answer.
    pub async fn show_orphans(
        &self,
        request: v1::ShowOrphansRequest,
    ) -> Result<OrphanAnswers<v1::ShowOrphansResponse>, ClientError> {
        let (place, channel) = self.current();
        let begun = orphans::show(channel, request).await;
        begun.map_err(|error| error.at(self.address(place)))
    }

    /// Has open records of an orphan file written again; may be broken off and asked for again.
    ///
    /// # Errors
    /// As [`Client::show_orphans`]; another replay or discard under way.
    pub async fn replay_orphans(
        &self,
        request: v1::ReplayOrphansRequest,
    ) -> Result<OrphanAnswers<v1::ReplayOrphansResponse>, ClientError> {
        let (place, channel) = self.current();
        let begun = orphans::replay(channel, request).await;
        begun.map_err(|error| error.at(self.address(place)))
    }

    /// Has open records of an orphan file given up, for good.
    ///
    /// # Errors
    /// As [`Client::replay_orphans`].
    pub async fn discard_orphans(
        &self,
        request: v1::DiscardOrphansRequest,
    ) -> Result<OrphanAnswers<v1::DiscardOrphansResponse>, ClientError> {
        let (place, channel) = self.current();
        let begun = orphans::discard(channel, request).await;
        begun.map_err(|error| error.at(self.address(place)))
    }

    /// Writes that the node that answers keeps for their homes, oldest first, without values.
    ///
    /// # Errors
    /// No such keyspace; no answer.
    pub async fn buffered(
        &self,
        request: v1::ListBufferedRequest,
    ) -> Result<v1::ListBufferedResponse, ClientError> {
        call(self, request, None).await
    }

    /// One of them, with its values.
    ///
    /// # Errors
    /// None of that number there; no answer.
    pub async fn show_buffered(
        &self,
        number: u64,
    ) -> Result<v1::ShowBufferedResponse, ClientError> {
        call(self, v1::ShowBufferedRequest { number }, None).await
    }

    /// Gives some of them up: they are never applied.
    ///
    /// # Errors
    /// None of those numbers there; not confirmed; no answer.
    pub async fn discard_buffered(
        &self,
        request: v1::DiscardBufferedRequest,
    ) -> Result<v1::DiscardBufferedResponse, ClientError> {
        call(self, request, None).await
    }

    /// The options it was made with.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.0.options
    }

    /// The channel in use and its place among the endpoints.
    pub(crate) fn current(&self) -> (usize, Channel) {
        let place = self.0.current.load(Ordering::Relaxed);
        (place, self.0.channels[place].clone())
    }

    /// Goes on to the next endpoint, unless another call already did.
    pub(crate) fn turn_from(&self, place: usize) {
        let next = (place + 1) % self.0.channels.len();
        let current = &self.0.current;
        // Losing the race means that another call has turned: its choice is as good.
        let _ = current.compare_exchange(place, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(crate) fn address(&self, place: usize) -> &str {
        &self.0.options.endpoints[place]
    }
}
