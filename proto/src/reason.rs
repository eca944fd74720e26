//! Stable reason codes of errors, one table for every door.
//!
//! **Owns**: the kinds, the reasons and their stable text, the exit code of each kind.
//! **Does not own**: the mapping to gRPC status (the server's and the client's `status` files).

use std::fmt;

/// What the caller can do next, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong; sending it again is no use.
    Invalid,
    /// The keyspace or group does not exist.
    NotFound,
    /// A precondition did not hold; read again and decide.
    Conflict,
    /// This node is not the key's home and may not forward.
    WrongHome,
    /// The home has been replaced; follow the new one.
    Fenced,
    /// The key has no reachable home at present; try again.
    NoHome,
    /// Durable at home, level not met in time: neither failed nor done; ask for the outcome.
    Indeterminate,
    /// A bound is reached (load or RPO budget); slow down and try again.
    Overloaded,
    /// The session saw what a takeover lost.
    SessionLost,
    /// What was asked for was there and is no longer kept; begin anew.
    Compacted,
    /// The policy forbids the data to be there.
    Residency,
    /// Bytes on disk or from a peer are damaged.
    Corrupt,
    /// The node or its disk has failed; another may answer.
    Unavailable,
}

impl ErrorKind {
    /// The exit code of the command line.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::WrongHome
            | Self::Fenced
            | Self::NoHome
            | Self::Overloaded
            | Self::Unavailable => 4,
            Self::Conflict => 5,
            Self::Indeterminate | Self::SessionLost | Self::Compacted => 6,
            Self::Residency => 7,
            Self::Corrupt => 8,
        }
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::WrongHome | Self::Fenced | Self::NoHome | Self::Overloaded | Self::Unavailable
        )
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal => $kind:ident),+ $(,)?) => {
        /// Why, in a code that programs may depend on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $variant),+
        }

        impl Reason {
            /// The stable text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The kind it belongs to.
            #[must_use]
            pub fn kind(self) -> ErrorKind {
                match self { $(Self::$variant => ErrorKind::$kind),+ }
            }

            /// The reason with this text.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// A key outside its limits.
    InvalidKey = "INVALID_KEY" => Invalid,
    /// A value above its limit.
    ValueTooLarge = "VALUE_TOO_LARGE" => Invalid,
    /// A batch or record above its limit, or across groups.
    InvalidBatch = "INVALID_BATCH" => Invalid,
    /// Any other field that does not fit.
    InvalidArgument = "INVALID_ARGUMENT" => Invalid,
    /// A level weaker than the keyspace's, or one it cannot reach.
    InvalidLevel = "INVALID_LEVEL" => Invalid,
    /// The request id was used for another payload.
    RequestIdReused = "REQUEST_ID_REUSED" => Invalid,
    /// No keyspace of that name.
    KeyspaceNotFound = "KEYSPACE_NOT_FOUND" => NotFound,
    /// No region of that name.
    RegionNotFound = "REGION_NOT_FOUND" => NotFound,
    /// No orphan file of that name here, or no such record in it.
    OrphansNotFound = "ORPHANS_NOT_FOUND" => NotFound,
    /// No buffered write of that number here.
    BufferedNotFound = "BUFFERED_NOT_FOUND" => NotFound,
    /// The cell's version is not the expected one.
    VersionMismatch = "VERSION_MISMATCH" => Conflict,
    /// Somebody has altered the keyspace since.
    KeyspaceAltered = "KEYSPACE_ALTERED" => Conflict,
    /// Another region is the key's home.
    WrongHome = "WRONG_HOME" => WrongHome,
    /// A newer epoch has been promised.
    StaleEpoch = "STALE_EPOCH" => Fenced,
    /// The home cannot be reached.
    NoHome = "NO_HOME" => NoHome,
    /// The home cannot be reached, and what this node may keep of the keyspace's writes is spent.
    BufferFull = "BUFFER_FULL" => NoHome,
    /// The home has forgotten requests that the sender has not searched the log for.
    RequestsForgotten = "REQUESTS_FORGOTTEN" => NoHome,
    /// The home restarted and does not know yet what it had made visible.
    Recovering = "RECOVERING" => NoHome,
    /// Durable at home, level not met in time.
    Indeterminate = "INDETERMINATE" => Indeterminate,
    /// The deadline passed before the write was handed to the disk: it was not done.
    DeadlineExceeded = "DEADLINE_EXCEEDED" => Overloaded,
    /// A queue or window is full.
    Overloaded = "OVERLOADED" => Overloaded,
    /// The potential loss is above the keyspace's limit.
    RpoExceeded = "RPO_EXCEEDED" => Overloaded,
    /// The session's token lies beyond the fork.
    SessionLost = "SESSION_LOST" => SessionLost,
    /// The journal no longer has what a watch was to go on with.
    Compacted = "COMPACTED" => Compacted,
    /// A watch was ended since its messages were not taken.
    SlowConsumer = "SLOW_CONSUMER" => Overloaded,
    /// The policy forbids it.
    DataResidency = "DATA_RESIDENCY" => Residency,
    /// A checksum does not hold.
    ChecksumMismatch = "CHECKSUM_MISMATCH" => Corrupt,
    /// The store refuses writes since one failed.
    StorePoisoned = "STORE_POISONED" => Unavailable,
    /// Another process, or this one, has the data directory open; the message names it.
    DirectoryLocked = "DIRECTORY_LOCKED" => Unavailable,
    /// The disk is full.
    DiskFull = "DISK_FULL" => Unavailable,
    /// The node is closing.
    Draining = "DRAINING" => Unavailable,
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
