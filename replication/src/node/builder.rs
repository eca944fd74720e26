//! Options of an embedded node, one by one.
//!
//! **Owns**: turning names into checked options, keeping the first error until `open`.
//! **Does not own**: the options' meaning (`options`).

use std::net::SocketAddr;
use std::path::PathBuf;

use domicile_proto::{Keyspace, Name, Reason, RegionId};

use super::embedded::Node;
use crate::error::Error;
use crate::options::{Engine, NodeOptions, RegionSpec};

/// What a caller does to a default policy.
type PolicyChange = Box<dyn FnOnce(&mut Keyspace) + Send>;

/// Builds an embedded node. Without a region it is a single-region database.
pub struct NodeBuilder {
    options: NodeOptions,
    keyspaces: Vec<(String, PolicyChange)>,
    error: Option<Error>,
}

impl NodeBuilder {
    pub(super) fn new(data: PathBuf) -> Self {
        Self {
            options: NodeOptions::single(data),
            keyspaces: Vec::new(),
            error: None,
        }
    }

    /// The cluster's name; `domicile` by default.
    #[must_use]
    pub fn cluster(mut self, name: &str) -> Self {
        if let Some(name) = self.name(name) {
            self.options.cluster = name;
        }
        self
    }

    /// The own region; `local` by default.
    #[must_use]
    pub fn region(mut self, name: &str) -> Self {
        if let Some(name) = self.name(name) {
            let own = self.options.region.clone();
            self.options.regions.retain(|region| region.name != own);
            self.options
                .regions
                .push(RegionSpec::new(name.clone(), None));
            self.options.region = name;
        }
        self
    }

    /// Another region, and where its node listens for peers: `http://host:port`.
    #[must_use]
    pub fn peer(mut self, region: &str, address: &str) -> Self {
        if let Some(name) = self.name(region) {
            self.options
                .regions
                .push(RegionSpec::new(name, Some(address.to_owned())));
        }
        self
    }

    /// Where this node listens for peers.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.options.listen = Some(address);
        self
    }

    /// A keyspace held by all regions and homed in the own one, unless `policy` changes that.
    #[must_use]
    pub fn keyspace(
        mut self,
        name: &str,
        policy: impl FnOnce(&mut Keyspace) + Send + 'static,
    ) -> Self {
        self.keyspaces.push((name.to_owned(), Box::new(policy)));
        self
    }

    /// Which engine serves the cells.
    #[must_use]
    pub fn engine(mut self, engine: Engine) -> Self {
        self.options.engine = engine;
        self
    }

    /// Opens the node. Must be awaited within a tokio runtime.
    ///
    /// # Errors
    /// A name outside the grammar, and all of [`Node::open`].
    pub async fn open(mut self) -> Result<Node, Error> {
        for (name, policy) in std::mem::take(&mut self.keyspaces) {
            if let Some(name) = self.name(&name) {
                let regions: Vec<RegionId> = self.options.regions.iter().map(|r| r.id).collect();
                let own = RegionId::of(&self.options.region);
                let mut keyspace = Keyspace::new(name, regions, own);
                policy(&mut keyspace);
                self.options.keyspaces.push(keyspace);
            }
        }
        match self.error {
            Some(error) => Err(error),
            None => Node::open(self.options).await,
        }
    }

    fn name(&mut self, text: &str) -> Option<Name> {
        match Name::new(text) {
            Ok(name) => Some(name),
            Err(error) => {
                let error = Error::new(Reason::InvalidArgument, error.to_string());
                self.error.get_or_insert(error);
                None
            }
        }
    }
}
