//! Checking a backup in its place, and making a directory of one.
//!
//! **Owns**: which partitions up to which point, residency at a restore, reading every file.
//! **Does not own**: the restore itself (storage), the verbs (`cli`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use domicile_proto::{PartitionId, Seq};
use domicile_storage::backup::{BackupManifest, FileCheck, Restore, RestorePoint, RestoreReport};
use domicile_storage::{OsDisk, StoreOptions};
use futures::StreamExt;

use super::error::BackupFault;
use super::place::Place;

/// What is to be restored, and where to.
#[derive(Debug, Clone)]
pub(crate) struct RestoreRequest {
    /// The new data directory.
    pub(crate) data: PathBuf,
    /// The region of the node that will open it; that of the backup's node if `None`.
    pub(crate) region: Option<String>,
    /// These keyspaces; if none is named, all.
    pub(crate) keyspaces: Vec<String>,
    /// All partitions as of this time, in ms since 1970.
    pub(crate) at_ms: Option<u64>,
    /// These partitions, by name, up to this record.
    pub(crate) at: Vec<(String, Seq)>,
}

impl RestoreRequest {
    /// Which partitions, each up to which point.
    ///
    /// # Errors
    /// A keyspace or partition that the backup has not; a keyspace that may not be in the region.
    pub(crate) fn points(
        &self,
        manifest: &BackupManifest,
    ) -> Result<BTreeMap<PartitionId, RestorePoint>, BackupFault> {
        let unknown = self.keyspaces.iter().find(|name| {
            let mut all = manifest.keyspaces.iter();
            all.all(|it| it.name.as_str() != **name)
        });
        if let Some(name) = unknown {
            let message = format!("no keyspace {name:?} in backup {}", manifest.number);
            return Err(BackupFault::Missing(message));
        }
        let region = self.region.as_deref().unwrap_or(manifest.region.as_str());
        let is_chosen = |name: &str| {
            self.keyspaces.is_empty() || self.keyspaces.iter().any(|chosen| chosen == name)
        };
        let chosen = manifest.keyspaces.iter();
        let mut chosen = chosen.filter(|it| is_chosen(it.name.as_str()));
        if let Some(barred) =
            chosen.find(|it| it.regions.iter().all(|allowed| allowed.as_str() != region))
        {
            let message = format!("keyspace {} may not be in region {region}", barred.name);
            return Err(BackupFault::Residency(message));
        }
        let point = self.at_ms.map_or(RestorePoint::End, RestorePoint::Time);
        let wanted = manifest.partitions.iter().filter(|it| {
            let keyspace = manifest.keyspace_of(it.partition);
            keyspace.is_some_and(|it| is_chosen(it.name.as_str()))
        });
        let mut points: BTreeMap<PartitionId, RestorePoint> =
            wanted.map(|it| (it.partition, point)).collect();
        for (name, seq) in &self.at {
            let mut named = points.iter_mut();
            let named = named.find(|(partition, _)| partition.to_string() == *name);
            let Some((_, point)) = named else {
                let message = format!("no partition {name} in what is to be restored");
                return Err(BackupFault::Missing(message));
            };
            *point = RestorePoint::Seq(*seq);
        }
        Ok(points)
    }
}

/// Makes a new data directory of a backup; `progress` is told of the bytes read.
///
/// # Errors
/// What the request, the place or the store says; damage with the name of the file. The
/// directory is then one that no node opens.
pub(crate) async fn restore(
    place: &Place,
    manifest: &BackupManifest,
    request: &RestoreRequest,
    progress: &dyn Fn(u64),
) -> anyhow::Result<RestoreReport> {
    let points = request.points(manifest)?;
    let disk = Arc::new(OsDisk::new());
    let options = StoreOptions::default();
    // The store blocks. Nothing else is done by this process meanwhile.
    let mut restore = Restore::begin(disk, &request.data, options, manifest, &points)?;
    for file in restore.files() {
        restore.begin_file(&file);
        let mut pieces = place.read_file(&file).await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            restore.write(&piece)?;
            progress(piece.len() as u64);
        }
        restore.end_file()?;
    }
    Ok(restore.finish()?)
}

/// Reads every byte of a backup; the names of damaged files, each with what is wrong.
///
/// # Errors
/// The place failed.
pub(crate) async fn check(
    place: &Place,
    manifest: &BackupManifest,
    progress: &dyn Fn(u64),
) -> Result<Vec<String>, BackupFault> {
    let mut damaged = Vec::new();
    for file in &manifest.files {
        let mut check = FileCheck::new(file);
        let mut pieces = match place.read_file(file).await {
            Err(BackupFault::Missing(message)) => {
                damaged.push(message);
                continue;
            }
            opened => opened?,
        };
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            check.take(&piece);
            progress(piece.len() as u64);
        }
        if let Err(error) = check.end() {
            damaged.push(error.to_string());
        }
    }
    Ok(damaged)
}
