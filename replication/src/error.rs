//! The one error of the node: what the caller can do next, why, and the numbers.
//!
//! **Owns**: the opaque error and its conversions from the rooms below.
//! **Does not own**: the table of reasons (proto), the mapping to gRPC status (the server).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use domicile_core::Refusal;
use domicile_proto::{ErrorKind, Reason, WireError};
use domicile_storage::StoreError;

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a call failed. Opaque: ask [`Error::kind`] what to do next, [`Error::reason`] for the code.
pub struct Error(Box<Inner>);

struct Inner {
    reason: Reason,
    message: String,
    metadata: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    source: Option<Source>,
}

impl Error {
    /// An error with a stable reason and a message for people.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        let metadata = BTreeMap::new();
        Self(Box::new(Inner {
            reason,
            message,
            metadata,
            retry_after: None,
            source: None,
        }))
    }

    /// Adds a detail for programs.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.0.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// Says when trying again makes sense.
    #[must_use]
    pub fn retry_in(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// Keeps what caused it.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What the caller can do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.reason.kind()
    }

    /// The stable code.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// Whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    /// Details for programs: names and values.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// When trying again makes sense, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.0.reason, self.0.message)?;
        for (key, value) in &self.0.metadata {
            write!(formatter, ", {key}={value}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0
            .source
            .as_ref()
            .map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let reason = match &error {
            StoreError::QueueFull { .. } => Reason::Overloaded,
            StoreError::NoSuchOrphans { .. } => Reason::OrphansNotFound,
            StoreError::Closed => Reason::Draining,
            StoreError::Corrupt { .. } => Reason::ChecksumMismatch,
            StoreError::NotInBackup { .. } => Reason::Recovering,
            StoreError::InvalidRecord { .. } => Reason::InvalidArgument,
            StoreError::AlreadyPromised { .. } => Reason::StaleEpoch,
            StoreError::Locked { .. } => Reason::DirectoryLocked,
            StoreError::ForeignNode { .. }
            | StoreError::NotAStore { .. }
            | StoreError::NotEmpty { .. }
            | StoreError::OutsideBackup { .. }
            | StoreError::UnfinishedRestore { .. }
            | StoreError::UnknownFormat { .. } => Reason::InvalidArgument,
            StoreError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Reason::DiskFull
            }
            StoreError::NoSpace { .. } => Reason::DiskFull,
            _ => Reason::StorePoisoned,
        };
        Self::new(reason, error.to_string()).caused_by(error)
    }
}

impl From<domicile_storage::engine::EngineError> for Error {
    fn from(error: domicile_storage::engine::EngineError) -> Self {
        let reason = match &error {
            // It is whole again in a moment.
            domicile_storage::engine::EngineError::Filling { .. } => Reason::Recovering,
            _ => Reason::StorePoisoned,
        };
        Self::new(reason, error.to_string()).caused_by(error)
    }
}

impl From<WireError> for Error {
    fn from(error: WireError) -> Self {
        let reason = match &error {
            WireError::TooLarge { what: "key", .. }
            | WireError::Invalid {
                what: "key length", ..
            } => Reason::InvalidKey,
            WireError::TooLarge { what: "value", .. } => Reason::ValueTooLarge,
            WireError::TooLarge { .. }
            | WireError::Invalid {
                what: "number of operations",
                ..
            } => Reason::InvalidBatch,
            _ => Reason::InvalidArgument,
        };
        Self::new(reason, error.to_string()).caused_by(error)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let error = Self::new(refusal.reason(), refusal.to_string());
        match refusal {
            Refusal::VersionMismatch { current, .. } => error.with(
                "current",
                current.map_or(String::new(), |version| version.to_string()),
            ),
            Refusal::Overloaded { .. } | Refusal::RpoExceeded { .. } => {
                error.retry_in(Duration::from_millis(50))
            }
            _ => error,
        }
    }
}
