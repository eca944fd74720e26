//! The records of one orphan file, shown one after the other.
//!
//! **Owns**: reading ahead in bounded memory, asking the home about their requests, whether values
//! may be taken to where they are wanted.
//! **Does not own**: the file (storage), where values are put (the caller).

use std::sync::Arc;

use domicile_proto::{Keyspace, Reason, Seq};
use domicile_storage::{Orphan, OrphanFile, OrphanFileId, OrphanScan, OrphanState};
use futures::StreamExt;
use tokio::sync::mpsc;

use super::call::{OrphanShow, OrphanShown, OrphanStream, tell};
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

/// Records read at once, and requests asked about at once. Doubled, one round trip covers twice as
/// many, and twice as much memory is held.
pub(super) const WINDOW_RECORDS: usize = 64;

/// Bytes of records read at once, one more record at most. A batch may have 6 MiB alone.
pub(super) const WINDOW_BYTES: usize = 1 << 20;

/// What answers are sent to.
pub(super) type Answers<T> = mpsc::Sender<Result<T, Error>>;

impl NodeCore {
    pub(crate) async fn show_orphans(
        self: &Arc<Self>,
        call: OrphanShow,
    ) -> Result<OrphanStream<OrphanShown>, Error> {
        let scan = self.open_orphans(call.file).await?;
        let keyspace = self.topology.keyspace(call.file.partition.keyspace);
        if let Some(place) = &call.export_to {
            self.check_export(scan.file(), place)?;
        }
        let (answers, stream) = OrphanStream::new();
        let node = Arc::clone(self);
        tokio::spawn(async move {
            let asked = keyspace.filter(|_| call.asks_home);
            if let Err(error) = show(&node, scan, call.from, asked, &answers).await {
                // Who has gone away needs no reason.
                tell(&node, &answers, Err(error)).await;
            }
        });
        Ok(stream)
    }

    pub(super) async fn open_orphans(&self, id: OrphanFileId) -> Result<OrphanScan, Error> {
        let store = Arc::clone(&self.store);
        blocking(move || store.orphan_records(id)).await
    }

    /// Fails closed: a keyspace that is not known may be nowhere.
    fn check_export(&self, file: &OrphanFile, place: &str) -> Result<(), Error> {
        let keyspace = self.keyspace_of(file)?;
        if place.is_empty() {
            return Ok(());
        }
        let region = self.topology.region_named(place).ok_or_else(|| {
            let shown: String = place.chars().take(64).collect();
            Error::new(Reason::RegionNotFound, format!("no region {shown:?}"))
        })?;
        if keyspace.regions.contains(&region.id) {
            return Ok(());
        }
        let message = format!(
            "keyspace {} may not be in region {}, where the export would lie",
            keyspace.name, region.name
        );
        Err(Error::new(Reason::DataResidency, message)
            .with("keyspace", &keyspace.name)
            .with("region", &region.name))
    }

    /// Whether the home knows the request of a record; `None` if it does not say.
    async fn is_superseded(&self, keyspace: &Arc<Keyspace>, orphan: &Orphan) -> Option<bool> {
        if orphan.state != OrphanState::Open || !orphan.record.head.kind.has_operations() {
            return None;
        }
        let operations = orphan.record.body.operations().ok()?;
        let key = operations.first()?.key().clone();
        let id = orphan.record.head.request_id;
        let known = self.outcome(keyspace, key, id).await.ok()?;
        Some(known.is_some())
    }
}

async fn show(
    node: &Arc<NodeCore>,
    mut scan: OrphanScan,
    from: Seq,
    mut asked: Option<Arc<Keyspace>>,
    answers: &Answers<OrphanShown>,
) -> Result<(), Error> {
    loop {
        let (rest, window) = blocking(move || read_window(scan, from)).await?;
        scan = rest;
        if window.is_empty() {
            return Ok(());
        }
        let ask = |orphan: Orphan| {
            let asked = asked.clone();
            async move {
                let superseded = match &asked {
                    Some(keyspace) => node.is_superseded(keyspace, &orphan).await,
                    None => None,
                };
                OrphanShown { orphan, superseded }
            }
        };
        let shown: Vec<OrphanShown> = futures::stream::iter(window)
            .map(ask)
            .buffered(WINDOW_RECORDS)
            .collect()
            .await;
        // A home that does not answer now is not asked again and again.
        let wants = |it: &OrphanShown| {
            it.orphan.state == OrphanState::Open && it.orphan.record.head.kind.has_operations()
        };
        if shown.iter().any(|it| wants(it) && it.superseded.is_none()) {
            asked = None;
        }
        for each in shown {
            if *node.closed.borrow() {
                return Err(Error::new(Reason::Draining, "the node is closing"));
            }
            if !tell(node, answers, Ok(each)).await {
                return Ok(());
            }
        }
    }
}

/// The next records from `from` on; none at the end.
fn read_window(
    mut scan: OrphanScan,
    from: Seq,
) -> Result<(OrphanScan, Vec<Orphan>), domicile_storage::StoreError> {
    let (mut window, mut bytes) = (Vec::new(), 0);
    while window.len() < WINDOW_RECORDS && bytes < WINDOW_BYTES {
        let Some(orphan) = scan.next().transpose()? else {
            break;
        };
        if orphan.position.seq >= from {
            bytes += orphan.record.body.bytes().len();
            window.push(orphan);
        }
    }
    Ok((scan, window))
}
