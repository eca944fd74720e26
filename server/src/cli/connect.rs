//! The flags by which a verb reaches a cluster.
//!
//! **Owns**: endpoint and timeout, and the connection made of them.
//! **Does not own**: retries (the client).

use std::time::Duration;

use clap::Args;
use domicile_client::{Client, ClientError, ClientOptions};

/// How to reach a cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConnectFlags {
    /// Where a node's clients dial in; several, separated by commas, are tried in turn.
    #[arg(
        long,
        env = "DOMICILE_ENDPOINT",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    pub(crate) endpoint: Vec<String>,
    /// How long a call may take in all, in milliseconds.
    #[arg(
        long,
        env = "DOMICILE_TIMEOUT_MS",
        default_value_t = 10_000,
        value_name = "MS"
    )]
    pub(crate) timeout_ms: u64,
}

impl ConnectFlags {
    /// A client of the first endpoint that answers.
    pub(crate) async fn client(&self) -> Result<Client, ClientError> {
        Client::connect(self.options(self.endpoint.clone())).await
    }

    pub(crate) fn options(&self, endpoints: Vec<String>) -> ClientOptions {
        ClientOptions {
            endpoints,
            timeout: Duration::from_millis(self.timeout_ms),
            ..ClientOptions::default()
        }
    }
}
