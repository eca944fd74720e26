//! Where backups lie: a directory, or anything else that the crate `object_store` reaches.
//!
//! **Owns**: the names of manifests, that one is written last and never over another, streaming
//! files in and out.
//! **Does not own**: what is in the files (storage).
//!
//! ```text
//! <place>/data/<number>-<token>/...      written first, synced
//! <place>/manifests/<number>.manifest    written last, at once: without it there is no backup
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use domicile_storage::backup::{
    BackupFile, BackupManifest, BackupNumber, FileStep, MANIFEST_BYTES_MAX,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, WriteMultipart};

use super::error::BackupFault;

/// Parts of one file on their way to the place at once. Each is 5 MiB in memory.
const PARTS_MAX: usize = 4;

/// The folder of manifests.
const MANIFESTS: &str = "manifests";
/// The folder of everything else.
const DATA: &str = "data";
const SUFFIX: &str = ".manifest";

/// What a place is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PlaceUse {
    /// Only to read what is there.
    Read,
    /// To write as well; a directory that is missing is made.
    Write,
}

/// Where backups lie.
#[derive(Clone)]
pub(crate) struct Place {
    store: Arc<dyn ObjectStore>,
    shown: String,
}

/// Files being written, one at a time.
pub(crate) struct PlaceWriter {
    place: Place,
    name: String,
    open: Option<WriteMultipart>,
}

impl Place {
    /// A directory: a path, or `file://` and an absolute one.
    ///
    /// # Errors
    /// A scheme that this build does not reach, a directory that is missing or cannot be made.
    pub(crate) fn open(url: &str, purpose: PlaceUse) -> Result<Self, BackupFault> {
        let path = match url.split_once("://") {
            None => url,
            Some(("file", path)) if path.starts_with('/') => path,
            Some(("file", path)) => {
                let message = format!("file://{path}: an absolute path expected after file://");
                return Err(BackupFault::Invalid(message));
            }
            Some((scheme, _)) => {
                let message = format!("scheme {scheme:?} of a place: this build knows file only");
                return Err(BackupFault::Invalid(message));
            }
        };
        if path.is_empty() {
            return Err(BackupFault::Invalid("a place without a path".to_owned()));
        }
        let fault = |operation, cause: String| BackupFault::Place {
            operation,
            name: path.to_owned(),
            cause,
        };
        match purpose {
            PlaceUse::Write => {
                let made = std::fs::create_dir_all(path);
                made.map_err(|error| fault("create", error.to_string()))?;
            }
            PlaceUse::Read if !std::path::Path::new(path).is_dir() => {
                return Err(BackupFault::Missing(format!("no directory {path}")));
            }
            PlaceUse::Read => {}
        }
        let store = LocalFileSystem::new_with_prefix(path);
        let store = store.map_err(|error| fault("open", error.to_string()))?;
        Ok(Self::of(Arc::new(store.with_fsync(true)), url))
    }

    /// A place of its own that ends with it.
    #[cfg(test)]
    pub(crate) fn in_memory() -> Self {
        Self::of(Arc::new(object_store::memory::InMemory::new()), "memory")
    }

    /// Any store; `shown` is its name in messages.
    fn of(store: Arc<dyn ObjectStore>, shown: &str) -> Self {
        Self {
            store,
            shown: shown.to_owned(),
        }
    }

    /// The numbers of all backups, oldest first.
    pub(crate) async fn numbers(&self) -> Result<Vec<BackupNumber>, BackupFault> {
        let mut numbers = BTreeSet::new();
        let mut found = self.store.list(Some(&Path::from(MANIFESTS)));
        while let Some(each) = found.next().await {
            let each = each.map_err(|error| self.fault("list", MANIFESTS, error))?;
            let name = each.location.filename().unwrap_or_default();
            let number = name.strip_suffix(SUFFIX).and_then(|it| it.parse().ok());
            numbers.extend(number.map(BackupNumber::new));
        }
        Ok(numbers.into_iter().collect())
    }

    /// The folders of files that belong to no backup: one that was not finished left them.
    pub(crate) async fn unfinished(
        &self,
        manifests: &[BackupManifest],
    ) -> Result<Vec<String>, BackupFault> {
        let files = manifests.iter().flat_map(|it| &it.files);
        let used: BTreeSet<&str> = files
            .filter_map(|it| Some(it.name.rsplit_once('/')?.0))
            .collect();
        let data = Path::from(DATA);
        let listed = self.store.list_with_delimiter(Some(&data));
        let listed = listed
            .await
            .map_err(|error| self.fault("list", DATA, error))?;
        let folders = listed.common_prefixes.iter().map(ToString::to_string);
        Ok(folders.filter(|it| !used.contains(it.as_str())).collect())
    }

    /// One backup's manifest.
    ///
    /// # Errors
    /// None of this number; damage, with the file's name.
    pub(crate) async fn manifest(
        &self,
        number: BackupNumber,
    ) -> Result<BackupManifest, anyhow::Error> {
        let name = manifest_name(number);
        let mut bytes = Vec::new();
        let mut pieces = self.read(&name).await?;
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?);
            if bytes.len() as u64 > MANIFEST_BYTES_MAX {
                break;
            }
        }
        let manifest = BackupManifest::decode(&bytes, &name)?;
        if manifest.number != number {
            let message = format!("{name} is that of backup {}", manifest.number);
            return Err(BackupFault::Damaged(message).into());
        }
        Ok(manifest)
    }

    /// Makes a backup of what was written: the last thing that is.
    ///
    /// # Errors
    /// Another one has this number: two were made at the same time, and this one does not exist.
    pub(crate) async fn put_manifest(&self, manifest: &BackupManifest) -> Result<(), BackupFault> {
        let name = manifest_name(manifest.number);
        let options = PutOptions::from(PutMode::Create);
        let bytes = Bytes::from(manifest.encode());
        let path = Path::from(name.as_str());
        let put = self.store.put_opts(&path, bytes.into(), options).await;
        put.map(|_| ())
            .map_err(|error| self.fault("create", &name, error))
    }

    /// Writes files as a draft says.
    pub(crate) fn writer(&self) -> PlaceWriter {
        PlaceWriter {
            place: self.clone(),
            name: String::new(),
            open: None,
        }
    }

    /// The bytes of a file, piece by piece.
    pub(crate) async fn read_file(
        &self,
        file: &BackupFile,
    ) -> Result<BoxStream<'static, Result<Bytes, BackupFault>>, BackupFault> {
        self.read(&file.name).await
    }

    async fn read(
        &self,
        name: &str,
    ) -> Result<BoxStream<'static, Result<Bytes, BackupFault>>, BackupFault> {
        let got = self.store.get(&Path::from(name)).await;
        let got = got.map_err(|error| match error {
            object_store::Error::NotFound { .. } => {
                BackupFault::Missing(format!("no {name} in {}", self.shown))
            }
            error => self.fault("read", name, error),
        })?;
        let (place, name) = (self.clone(), name.to_owned());
        let pieces = got.into_stream();
        let pieces = pieces.map(move |it| it.map_err(|error| place.fault("read", &name, error)));
        Ok(pieces.boxed())
    }

    fn fault(
        &self,
        operation: &'static str,
        name: &str,
        error: object_store::Error,
    ) -> BackupFault {
        BackupFault::Place {
            operation,
            name: format!("{name} in {}", self.shown),
            cause: error.to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.shown)
    }
}

impl PlaceWriter {
    /// Does one step.
    ///
    /// # Errors
    /// The place failed; what was written so far belongs to no backup.
    ///
    /// # Panics
    /// If bytes come before a file was begun.
    pub(crate) async fn step(&mut self, step: FileStep) -> Result<(), BackupFault> {
        let place = self.place.clone();
        match step {
            FileStep::Begin(name) => {
                let begun = place.store.put_multipart(&Path::from(name.as_str())).await;
                let begun = begun.map_err(|error| place.fault("create", &name, error))?;
                self.open = Some(WriteMultipart::new(begun));
                self.name = name;
            }
            FileStep::Write(bytes) => {
                let open = self.open.as_mut().expect("a file was begun");
                let room = open.wait_for_capacity(PARTS_MAX).await;
                room.map_err(|error| place.fault("write", &self.name, error))?;
                open.put(bytes);
            }
            FileStep::End => {
                let open = self.open.take().expect("a file was begun");
                let ended = open.finish().await;
                ended.map_err(|error| place.fault("finish", &self.name, error))?;
            }
        }
        Ok(())
    }
}

fn manifest_name(number: BackupNumber) -> String {
    format!("{MANIFESTS}/{:010}{SUFFIX}", number.get())
}
