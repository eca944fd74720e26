//! What the benches of one asynchronous keyspace stand on: regions, keys and a header.
//!
//! **Owns**: setting them up.
//! **Does not own**: what is measured on them.

use std::sync::Arc;

use anyhow::Context;

use super::load::{LoadPlan, Shape};
use super::options::BenchOptions;
use super::report::Header;
use crate::rig::{Cluster, ClusterPlan, HomePlan, HomesPlan, Keys, KeyspacePlan, Scratch, Stop};

/// The keyspace, at home in the first region.
pub(super) const KEYSPACE: &str = "bench-async";

/// Running regions. They end before their directory goes.
pub(super) struct Stage {
    pub(super) header: Header,
    pub(super) cluster: Cluster,
    keys: Arc<Keys>,
    _scratch: Scratch,
}

impl Stage {
    pub(super) fn set(options: &BenchOptions, stop: &Stop) -> anyhow::Result<Self> {
        let scratch = Scratch::make(options.dir.as_deref())?;
        let mut header = Header::measure(scratch.path(), options)?;
        let plan = ClusterPlan {
            rtts: options.rtts()?,
            program: None,
            homes: HomesPlan::Static,
            keyspaces: vec![KeyspacePlan {
                name: KEYSPACE.to_owned(),
                ack: "async".to_owned(),
                home: HomePlan::Pinned(options.home().to_owned()),
                buckets: None,
            }],
            dir: scratch.sub("regions")?,
        };
        let cluster = Cluster::start(&plan, stop)?;
        header.rtts = cluster.measured_rtts().to_vec();
        let keys = Keys::new(options.keys, options.value_bytes, options.seed);
        Ok(Self {
            header,
            cluster,
            keys: Arc::new(keys),
            _scratch: scratch,
        })
    }

    /// A closed loop at the home, to be refined.
    pub(super) fn load(
        &self,
        options: &BenchOptions,
        shape: Shape,
        stop: &Stop,
    ) -> anyhow::Result<LoadPlan> {
        let (endpoint, keys) = (
            self.cluster.endpoint(options.home())?,
            Arc::clone(&self.keys),
        );
        Ok(LoadPlan {
            seed: options.seed,
            stop: stop.clone(),
            ..LoadPlan::new(endpoint, KEYSPACE.to_owned(), keys, shape)
        })
    }
}

/// The region that is cut off: the last one, which is not the home.
pub(super) fn cut_off(options: &BenchOptions) -> anyhow::Result<&str> {
    let home = options.home();
    let last = options.regions.last().filter(|last| *last != home);
    let last = last.map(String::as_str);
    last.with_context(|| format!("bench {} needs two regions", options.bench.word()))
}
