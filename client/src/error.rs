//! What went wrong, and what the caller can do next.
//!
//! **Owns**: the one error of this crate, and reading it from a gRPC status or a stream's result.
//! **Does not own**: the reasons (proto), whether a call is repeated (`call`).

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use domicile_proto::{ErrorKind, Reason, RequestId, v1};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "domicile";

/// The reason text of an error that no server gave: nothing answered.
const UNREACHABLE: &str = "UNREACHABLE";

/// Why a call did not do what it was asked to.
pub struct ClientError(Box<Parts>);

struct Parts {
    kind: ErrorKind,
    reason: String,
    message: String,
    metadata: BTreeMap<String, String>,
    retry_after: Option<Duration>,
    origin: Origin,
    source: Option<Status>,
}

/// Who says that it went wrong, which decides what is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A Domicile server, in its own words: what it says holds.
    Server,
    /// The connection could not be made: nothing was sent.
    Connecting,
    /// The transport: it may have been sent and done.
    Transport,
    /// This library, before anything was sent.
    Local,
}

impl ClientError {
    /// What the caller can do next.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stable reason; `None` if nothing answered or a newer server gave one unknown here.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        Reason::parse(&self.0.reason)
    }

    /// The stable reason as text, also those unknown to this version; `UNREACHABLE` if no server
    /// answered.
    #[must_use]
    pub fn reason_text(&self) -> &str {
        &self.0.reason
    }

    /// What happened, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Facts of the reason: `request_id`, `current`, `home` and the like.
    #[must_use]
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }

    /// How long the server asks to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    pub(crate) fn local(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Parts {
            kind: reason.kind(),
            reason: reason.as_str().to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            retry_after: None,
            origin: Origin::Local,
            source: None,
        }))
    }

    /// A write of which nothing more is known than that it was sent.
    pub(crate) fn indeterminate(request_id: Option<RequestId>, cause: &dyn fmt::Display) -> Self {
        let message = format!("write sent, no answer: {cause}");
        let mut error = Self::local(Reason::Indeterminate, message);
        if let Some(id) = request_id {
            let metadata = &mut error.0.metadata;
            metadata.insert("request_id".to_owned(), id.to_string());
        }
        error
    }

    /// Nothing was sent, since the stream had ended.
    pub(crate) fn ended() -> Self {
        let mut error = Self::local(Reason::Draining, "the write stream has ended");
        UNREACHABLE.clone_into(&mut error.0.reason);
        error
    }

    /// An answer that this version cannot read.
    pub(crate) fn unreadable(what: &str, cause: impl fmt::Display) -> Self {
        let message = format!("unreadable {what} in the answer: {cause}");
        let mut error = Self::local(Reason::InvalidArgument, message);
        error.0.origin = Origin::Server;
        error
    }

    /// Adds the address that was tried.
    pub(crate) fn at(mut self, endpoint: &str) -> Self {
        if matches!(self.0.origin, Origin::Connecting | Origin::Transport) {
            self.0.message = format!("{endpoint}: {}", self.0.message);
        }
        self
    }

    pub(crate) fn origin(&self) -> Origin {
        self.0.origin
    }

    /// Whether INTERFACES allows to send it again: UNAVAILABLE, WRONG_HOME and STALE_EPOCH.
    pub(crate) fn is_repeated(&self) -> bool {
        let unavailable = matches!(self.kind(), ErrorKind::NoHome | ErrorKind::Unavailable);
        let elsewhere = matches!(self.kind(), ErrorKind::WrongHome | ErrorKind::Fenced);
        self.0.origin != Origin::Local && (unavailable || elsewhere)
    }

    /// Reads a status: our reason if a Domicile server gave it, else what the code amounts to.
    pub(crate) fn from_status(status: Status) -> Self {
        let status = as_lost(status);
        let info = status.get_details_error_info();
        if let Some(info) = info.filter(|info| info.domain == DOMAIN) {
            let retry = status.get_details_retry_info();
            return Self(Box::new(Parts {
                kind: kind_of(&info.reason, status.code()),
                reason: info.reason,
                message: status.message().to_owned(),
                metadata: info.metadata.into_iter().collect(),
                retry_after: retry.and_then(|info| info.retry_delay),
                origin: Origin::Server,
                source: Some(status),
            }));
        }
        let connecting = has_source::<tonic::ConnectError>(&status);
        let message = match status.code() {
            Code::Cancelled | Code::DeadlineExceeded => "no answer before the deadline".to_owned(),
            _ => explain(&status),
        };
        Self(Box::new(Parts {
            kind: kind_of_code(status.code()),
            reason: reason_of_code(status.code()).to_owned(),
            message,
            metadata: BTreeMap::new(),
            retry_after: None,
            origin: if connecting {
                Origin::Connecting
            } else {
                Origin::Transport
            },
            source: Some(status),
        }))
    }

    /// A connection that could not be made.
    pub(crate) fn from_transport(error: tonic::transport::Error) -> Self {
        let mut status = Self::from_status(Status::from_error(Box::new(error)));
        status.0.origin = Origin::Connecting;
        status
    }

    /// Reads the error of one write in a stream.
    pub(crate) fn from_result(error: v1::WriteError) -> Self {
        Self(Box::new(Parts {
            kind: kind_of(&error.reason, Code::from_i32(error.code)),
            reason: error.reason,
            message: error.message,
            metadata: error.metadata.into_iter().collect(),
            retry_after: None,
            origin: Origin::Server,
            source: None,
        }))
    }
}

fn kind_of(reason: &str, code: Code) -> ErrorKind {
    Reason::parse(reason).map_or_else(|| kind_of_code(code), Reason::kind)
}

/// What a code amounts to when its reason says nothing.
fn kind_of_code(code: Code) -> ErrorKind {
    match code {
        Code::NotFound => ErrorKind::NotFound,
        Code::Aborted => ErrorKind::Conflict,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Cancelled | Code::DeadlineExceeded => Reason::DeadlineExceeded.kind(),
        Code::PermissionDenied => ErrorKind::Residency,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => ErrorKind::Invalid,
        _ => ErrorKind::Unavailable,
    }
}

fn reason_of_code(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument | Code::OutOfRange => Reason::InvalidArgument.as_str(),
        Code::ResourceExhausted => Reason::Overloaded.as_str(),
        Code::Cancelled | Code::DeadlineExceeded => Reason::DeadlineExceeded.as_str(),
        Code::Unimplemented => "UNIMPLEMENTED",
        _ => UNREACHABLE,
    }
}

/// A call that was queued when its connection broke is called cancelled, and so is one whose time
/// was up: what names a cause here, and no expired time among its causes, is the former. What a
/// server says has no cause.
fn as_lost(status: Status) -> Status {
    let has_cause = std::error::Error::source(&status).is_some();
    let is_expired = has_source::<tonic::TimeoutExpired>(&status);
    if status.code() == Code::Cancelled && has_cause && !is_expired {
        return Status::unavailable(format!("connection lost: {}", status.message()));
    }
    status
}

fn has_source<E: std::error::Error + 'static>(status: &Status) -> bool {
    chain(status).any(|error| error.is::<E>())
}

/// The innermost cause says more than `transport error` does.
fn explain(status: &Status) -> String {
    let innermost = chain(status).last().map(ToString::to_string);
    let innermost = innermost.unwrap_or_default();
    if innermost.is_empty() {
        return format!("{:?}: {}", status.code(), status.message());
    }
    innermost
}

fn chain(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(status), |error| error.source())
}

impl fmt::Display for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.message)
    }
}

impl fmt::Debug for ClientError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts {
            kind,
            reason,
            message,
            metadata,
            ..
        } = &*self.0;
        write!(formatter, "{kind:?} {reason}: {message} {metadata:?}")
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let source = self.0.source.as_ref();
        source.map(|status| status as &(dyn std::error::Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::ErrorDetails;

    #[test]
    fn our_reason_decides_the_kind_and_keeps_its_facts() {
        let facts = [("current".to_owned(), "0.1.9.7".to_owned())];
        let mut details = ErrorDetails::with_error_info("VERSION_MISMATCH", DOMAIN, facts);
        details.set_retry_info(Some(Duration::from_millis(40)));
        let status = Status::with_error_details(Code::Aborted, "version mismatch", details);
        let error = ClientError::from_status(status);
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(error.reason(), Some(Reason::VersionMismatch));
        assert_eq!(error.metadata()["current"], "0.1.9.7");
        assert_eq!(error.retry_after(), Some(Duration::from_millis(40)));
        assert_eq!(error.origin(), Origin::Server);
        assert!(!error.is_repeated());
    }

    #[test]
    fn an_unknown_reason_falls_back_to_its_code() {
        let none: [(String, String); 0] = [];
        let details = ErrorDetails::with_error_info("FROM_THE_FUTURE", DOMAIN, none);
        let status = Status::with_error_details(Code::Unavailable, "later", details);
        let error = ClientError::from_status(status);
        assert_eq!(
            (error.reason(), error.kind()),
            (None, ErrorKind::Unavailable)
        );
        assert_eq!(error.reason_text(), "FROM_THE_FUTURE");
        assert!(error.is_repeated());
    }

    #[test]
    fn a_foreign_status_is_the_transports() {
        let error = ClientError::from_status(Status::unavailable("proxy says no"));
        assert_eq!(
            (error.kind(), error.origin()),
            (ErrorKind::Unavailable, Origin::Transport)
        );
        assert!(error.to_string().contains("proxy says no") && error.is_repeated());
    }

    /// What carries an error up through the layers of a channel.
    #[derive(Debug, thiserror::Error)]
    #[error("carried")]
    struct Carried(#[source] Box<dyn std::error::Error + Send + Sync>);

    /// Regression: a write that was queued when the connection to a home broke was given back at
    /// once as INDETERMINATE, as if its time were up, and not sent to another node.
    #[test]
    fn a_connection_that_breaks_is_no_deadline() {
        let carried =
            |cause| ClientError::from_status(Status::from_error(Box::new(Carried(cause))));
        let broken = carried(Box::new(Status::cancelled("operation was canceled")));
        assert_eq!(
            (broken.kind(), broken.origin()),
            (ErrorKind::Unavailable, Origin::Transport)
        );
        assert!(broken.is_repeated() && broken.to_string().contains("was canceled"));
        let expired = carried(Box::new(tonic::TimeoutExpired(())));
        let by_server = ClientError::from_status(Status::cancelled("Timeout expired"));
        for late in [expired, by_server] {
            assert_eq!(late.kind(), Reason::DeadlineExceeded.kind());
            assert!(!late.is_repeated(), "{late}");
        }
    }

    #[test]
    fn a_sent_write_is_indeterminate_and_names_its_request() {
        let id = RequestId::new(7).unwrap();
        let error = ClientError::indeterminate(Some(id), &"connection reset");
        assert_eq!(error.kind(), ErrorKind::Indeterminate);
        assert_eq!(error.metadata()["request_id"], id.to_string());
        assert!(!error.is_repeated() && !error.is_retryable());
    }
}
