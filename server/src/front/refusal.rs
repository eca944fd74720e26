//! The one place where an error of the node becomes a gRPC status.
//!
//! **Owns**: the code of each kind and the `google.rpc` details: ErrorInfo, RetryInfo, BadRequest.
//! **Does not own**: the reasons and kinds (proto), reading them again (the client).

use std::time::Duration;

use domicile_proto::{ErrorKind, Reason, v1};
use domicile_replication::Error;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our reasons in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "domicile";

/// When to try again if the node does not say: a beat of the links between regions.
const RETRY_DEFAULT: Duration = Duration::from_millis(100);

/// The code of a kind; the table of INTERFACES.
fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::WrongHome | ErrorKind::Fenced => Code::FailedPrecondition,
        ErrorKind::NoHome | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Indeterminate => Code::DeadlineExceeded,
        ErrorKind::Overloaded => Code::ResourceExhausted,
        ErrorKind::SessionLost | ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Compacted => Code::OutOfRange,
        ErrorKind::Residency => Code::PermissionDenied,
        // The enum may grow: a kind unknown here is ours to explain.
        _ => Code::Internal,
    }
}

/// The field of the request that a reason speaks of, unless the error names it.
fn field_of(reason: Reason) -> &'static str {
    match reason {
        Reason::InvalidKey => "key",
        Reason::ValueTooLarge => "value",
        Reason::InvalidBatch => "operations",
        Reason::InvalidLevel => "options.ack",
        Reason::RequestIdReused => "options.request_id",
        _ => "",
    }
}

/// The status that tells a caller of `error`.
pub(crate) fn refuse(error: &Error) -> Status {
    let (kind, reason) = (error.kind(), error.reason());
    let metadata = error
        .metadata()
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    let mut details = ErrorDetails::with_error_info(
        reason.as_str(),
        DOMAIN,
        metadata.collect::<std::collections::HashMap<_, _>>(),
    );
    if matches!(kind, ErrorKind::NoHome | ErrorKind::Overloaded) {
        details.set_retry_info(Some(error.retry_after().unwrap_or(RETRY_DEFAULT)));
    }
    if kind == ErrorKind::Invalid {
        let field = error
            .metadata()
            .get("field")
            .map_or(field_of(reason), String::as_str);
        details.add_bad_request_violation(field, error.to_string());
    }
    Status::with_error_details(code_of(kind), error.to_string(), details)
}

/// The same for one write of a stream, which goes on.
pub(crate) fn refuse_one(error: &Error) -> v1::WriteError {
    let metadata = error
        .metadata()
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()));
    v1::WriteError {
        code: code_of(error.kind()).into(),
        reason: error.reason().as_str().to_owned(),
        message: error.to_string(),
        metadata: metadata.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One reason of each kind, with the code that the interface promises.
    const TABLE: [(Reason, Code); 15] = [
        (Reason::InvalidKey, Code::InvalidArgument),
        (Reason::KeyspaceNotFound, Code::NotFound),
        (Reason::VersionMismatch, Code::Aborted),
        (Reason::WrongHome, Code::FailedPrecondition),
        (Reason::StaleEpoch, Code::FailedPrecondition),
        (Reason::NoHome, Code::Unavailable),
        (Reason::Indeterminate, Code::DeadlineExceeded),
        (Reason::Overloaded, Code::ResourceExhausted),
        (Reason::RpoExceeded, Code::ResourceExhausted),
        (Reason::SlowConsumer, Code::ResourceExhausted),
        (Reason::SessionLost, Code::DataLoss),
        (Reason::Compacted, Code::OutOfRange),
        (Reason::DataResidency, Code::PermissionDenied),
        (Reason::ChecksumMismatch, Code::DataLoss),
        (Reason::Draining, Code::Unavailable),
    ];

    #[test]
    fn every_kind_has_its_code_and_its_reason() {
        for (reason, code) in TABLE {
            let error = Error::new(reason, "it is so").with("home", "eu");
            let status = refuse(&error);
            assert_eq!(
                (status.code(), status.message()),
                (code, "it is so"),
                "{reason}"
            );
            let info = status.get_details_error_info().unwrap();
            assert_eq!(
                (info.domain.as_str(), info.reason.as_str()),
                (DOMAIN, reason.as_str())
            );
            assert_eq!(info.metadata["home"], "eu");
            let retry = status.get_details_retry_info();
            let retried = matches!(reason.kind(), ErrorKind::NoHome | ErrorKind::Overloaded);
            assert_eq!(retry.is_some(), retried, "{reason}");
            let one = refuse_one(&error);
            assert_eq!(
                (one.code, one.reason.as_str()),
                (code.into(), reason.as_str())
            );
        }
    }

    #[test]
    fn a_bad_request_names_its_field() {
        let field = |error: Error| {
            let violations = refuse(&error)
                .get_details_bad_request()
                .unwrap()
                .field_violations;
            violations[0].field.clone()
        };
        assert_eq!(
            field(Error::new(Reason::ValueTooLarge, "value too large")),
            "value"
        );
        let named = Error::new(Reason::InvalidArgument, "zero").with("field", "options.session");
        assert_eq!(field(named), "options.session");
    }

    #[test]
    fn the_nodes_own_pause_wins() {
        let pause = Duration::from_millis(7);
        let status = refuse(&Error::new(Reason::RpoExceeded, "spent").retry_in(pause));
        let retry = status.get_details_retry_info().unwrap();
        assert_eq!(retry.retry_delay, Some(pause));
    }
}
