//! Calls to one server from a thread that waits for each answer.
//!
//! **Owns**: the connection and the deadline of each call.
//! **Does not own**: loads, which have many calls under way (`bench`).

use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domicile_proto::Seq;
use domicile_proto::v1::admin_client::AdminClient;
use domicile_proto::v1::kv_client::KvClient;
use domicile_proto::v1::{
    Consistency, Entry, GetRequest, GetResponse, HomeChange, ListHomeChangesRequest,
    ListOrphansRequest, PutRequest, ReadOptions, ScanRequest, ShowOrphansRequest, StatusRequest,
    StatusResponse, WriteOptions, WriteResponse,
};
use tokio::runtime::Runtime;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// How long any call may take: more than a round trip around the earth and a page of rows need.
/// Doubled, a hung server is reported twice as late.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Rows of a page: the most that a server gives.
const PAGE_ROWS: u32 = 10_000;

/// The most pages of one scan; a million rows, ten times what any run writes. Doubled, a scan that
/// never ends is noticed twice as late.
const PAGES_MAX: usize = 100;

/// The largest answer accepted: a page of rows of some 200 bytes, twice over.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// A client that blocks.
#[derive(Debug)]
pub struct Door {
    runtime: Runtime,
    channel: Channel,
}

impl Door {
    /// A connection to the server at `endpoint` ("http://127.0.0.1:7400"), made at the first call.
    ///
    /// # Errors
    /// Not an address, or no runtime.
    pub fn new(endpoint: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime for a client")?;
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?
            .tcp_nodelay(true)
            .connect_timeout(TIMEOUT)
            .timeout(TIMEOUT);
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        Ok(Self { runtime, channel })
    }

    /// What the server knows of itself.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn status(&self) -> anyhow::Result<StatusResponse> {
        self.ask_status(StatusRequest { partitions: false })
    }

    /// What the server knows of itself and of each of its partitions.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn status_of_partitions(&self) -> anyhow::Result<StatusResponse> {
        self.ask_status(StatusRequest { partitions: true })
    }

    fn ask_status(&self, request: StatusRequest) -> anyhow::Result<StatusResponse> {
        let mut client = AdminClient::new(self.channel.clone());
        Ok(self.runtime.block_on(client.status(request))?.into_inner())
    }

    /// What changed hands, as the server knows it.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn home_changes(&self) -> anyhow::Result<Vec<HomeChange>> {
        let mut client = AdminClient::new(self.channel.clone());
        let call = client.list_home_changes(ListHomeChangesRequest {});
        Ok(self.runtime.block_on(call)?.into_inner().changes)
    }

    /// The keys that orphans of a keyspace at this server wrote, each with its place in the log.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn orphans(&self, keyspace: &str) -> anyhow::Result<Vec<(Bytes, Seq)>> {
        let mut client = AdminClient::new(self.channel.clone());
        let mut found = Vec::new();
        let listed = client.list_orphans(ListOrphansRequest {});
        let files = self.runtime.block_on(listed)?.into_inner().files;
        for file in files.into_iter().filter(|file| file.keyspace == keyspace) {
            let request = ShowOrphansRequest {
                file: file.file,
                ..ShowOrphansRequest::default()
            };
            let shown = client.show_orphans(request);
            let mut shown = self.runtime.block_on(shown)?.into_inner();
            while let Some(answer) = self.runtime.block_on(shown.message())? {
                let record = answer.record.unwrap_or_default();
                let seq = Seq::new(record.seq);
                found.extend(record.operations.into_iter().map(|it| (it.key, seq)));
            }
        }
        Ok(found)
    }

    /// Writes a key and waits for the keyspace's level.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn put(&self, keyspace: &str, key: Bytes, value: Bytes) -> anyhow::Result<WriteResponse> {
        let mut client = self.client();
        let call = client.put(PutRequest {
            keyspace: keyspace.to_owned(),
            key,
            value,
            options: Some(WriteOptions::default()),
            ..PutRequest::default()
        });
        Ok(self.runtime.block_on(call)?.into_inner())
    }

    /// Reads a key.
    ///
    /// # Errors
    /// No answer, or an error as one.
    pub fn get(
        &self,
        keyspace: &str,
        key: Bytes,
        consistency: Consistency,
    ) -> anyhow::Result<GetResponse> {
        let mut client = self.client();
        let call = client.get(GetRequest {
            keyspace: keyspace.to_owned(),
            key,
            options: Some(ReadOptions {
                consistency: consistency.into(),
                ..ReadOptions::default()
            }),
        });
        Ok(self.runtime.block_on(call)?.into_inner())
    }

    /// Reads all rows of a keyspace that the server itself has.
    ///
    /// # Errors
    /// No answer, an error as one, or more rows than a run writes.
    pub fn rows_here(&self, keyspace: &str) -> anyhow::Result<Vec<Entry>> {
        let (mut client, mut rows, mut page_token) = (self.client(), Vec::new(), Bytes::new());
        for _ in 0..PAGES_MAX {
            let request = Request::new(ScanRequest {
                keyspace: keyspace.to_owned(),
                limit: PAGE_ROWS,
                page_token,
                options: Some(ReadOptions {
                    consistency: Consistency::Local.into(),
                    local_only: true,
                    ..ReadOptions::default()
                }),
                ..ScanRequest::default()
            });
            let page = self.runtime.block_on(client.scan(request))?.into_inner();
            rows.extend(page.entries);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(rows);
            }
        }
        anyhow::bail!("keyspace {keyspace} has more than {PAGES_MAX} pages of {PAGE_ROWS} rows")
    }

    fn client(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }
}
