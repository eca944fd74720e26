//! What an operator and a reader ask for through the client library, from a thread that waits.
//!
//! **Owns**: the connection and the bounds of its calls.
//! **Does not own**: the writers, which have a thread each (`writer`).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use domicile_client::{Client, ClientOptions, Consistency, v1};
use futures::StreamExt;
use tokio::runtime::Runtime;

/// How long a call may take: longer than a takeover, in which reads wait for a home.
const CALL_MAX: Duration = Duration::from_secs(20);

/// Rows of a page: what a server gives at most.
const PAGE_ROWS: u32 = 10_000;

/// The most rows read under one prefix: ten times what a writer writes in a part.
const ROWS_MAX: usize = 2_000_000;

/// A client that blocks.
pub(super) struct Operator {
    runtime: Runtime,
    client: Client,
}

impl Operator {
    /// At the door of one region.
    ///
    /// # Errors
    /// Not an address, or no runtime.
    pub(super) fn new(endpoint: &str) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime for a client")?;
        let client = {
            let _inside = runtime.enter();
            Client::with_options(ClientOptions {
                timeout: CALL_MAX,
                ..ClientOptions::endpoints([endpoint])
            })?
        };
        Ok(Self { runtime, client })
    }

    /// Hands all homes of a keyspace on to a region.
    ///
    /// # Errors
    /// No leader, no answer in time.
    pub(super) fn hand_on(
        &self,
        keyspace: &str,
        to: &str,
    ) -> anyhow::Result<v1::SwitchOverResponse> {
        let request = v1::SwitchOverRequest {
            to: to.to_owned(),
            keyspace: keyspace.to_owned(),
            ..v1::SwitchOverRequest::default()
        };
        let call = self.client.switch_over(request, CALL_MAX);
        Ok(self.runtime.block_on(call)?)
    }

    /// What changed hands, as the region knows it.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn changes(&self) -> anyhow::Result<Vec<v1::HomeChange>> {
        Ok(self.runtime.block_on(self.client.home_changes())?.changes)
    }

    /// The longest time without a home that the region expects if `region` were lost now, in ms.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn expected_ms_max(&self, keyspace: &str, region: &str) -> anyhow::Result<u64> {
        let request = v1::PlanFailoverRequest {
            region: region.to_owned(),
            keyspace: keyspace.to_owned(),
        };
        let planned = self.runtime.block_on(self.client.plan_failover(request))?;
        Ok(planned.iter().map(|it| it.rto_ms_max).max().unwrap_or(0))
    }

    /// The rows under a prefix as their homes have them.
    ///
    /// # Errors
    /// No answer.
    pub(super) fn rows(
        &self,
        keyspace: &str,
        prefix: &str,
    ) -> anyhow::Result<BTreeMap<Bytes, Bytes>> {
        let scan = self.client.keyspace(keyspace).scan(prefix);
        let scan = scan.consistency(Consistency::Home).page_rows(PAGE_ROWS);
        self.runtime.block_on(async {
            let mut rows = std::pin::pin!(scan.limit(ROWS_MAX).rows());
            let mut found = BTreeMap::new();
            while let Some(row) = rows.next().await {
                let row = row?;
                found.insert(row.key, row.value);
            }
            Ok(found)
        })
    }
}
