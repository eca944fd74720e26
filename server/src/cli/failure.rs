//! How a process ends that did not do what it was asked to.
//!
//! **Owns**: the exit code of every error, and what is said of it on standard error.
//! **Does not own**: the codes of kinds (proto).

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use domicile_client::ClientError;
use domicile_proto::ErrorKind;
use domicile_storage::StoreError;

use crate::backup::BackupFault;
use crate::config::ConfigError;
use crate::front::FrontError;

/// An end that only the command line knows: its words and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: its kind's, 0 for a reader that went away, else 1.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        return ExitCode::SUCCESS;
    }
    kind_of(error).map_or(ExitCode::FAILURE, |kind| ExitCode::from(kind.exit_code()))
}

/// Tells a person of an error, with the facts that its reason comes with.
pub(crate) fn say(error: &anyhow::Error) {
    if !is_closed_pipe(error) {
        // Nothing can be said of a standard error that is closed.
        let _ = writeln!(io::stderr().lock(), "error: {}", told(error));
    }
}

fn told(error: &anyhow::Error) -> String {
    // A cause repeats the ones below it or says something new: print what is new. Below an error of
    // the client lies the transport's, which the client has put into words already.
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if !text.contains(&words) {
            text = if text.is_empty() {
                words
            } else {
                format!("{text}: {words}")
            };
        }
        if cause.is::<ClientError>() {
            break;
        }
    }
    let client = find::<ClientError>(error);
    let node = find::<domicile_replication::Error>(error);
    let (reason, facts) = match (client, node) {
        (Some(error), _) => (error.reason_text(), error.metadata()),
        (None, Some(error)) => (error.reason().as_str(), error.metadata()),
        (None, None) => return text,
    };
    let facts: String = facts
        .iter()
        .map(|(key, value)| format!(", {key}={value}"))
        .collect();
    format!("{text} ({reason}{facts})")
}

fn kind_of(error: &anyhow::Error) -> Option<ErrorKind> {
    if let Some(error) = find::<ClientError>(error) {
        return Some(error.kind());
    }
    if let Some(error) = find::<domicile_replication::Error>(error) {
        return Some(error.kind());
    }
    if let Some(failure) = find::<Failure>(error) {
        return Some(failure.kind);
    }
    if let Some(fault) = find::<BackupFault>(error) {
        return Some(fault.kind());
    }
    if find::<ConfigError>(error).is_some() {
        return Some(ErrorKind::Invalid);
    }
    if find::<FrontError>(error).is_some() {
        return Some(ErrorKind::Unavailable);
    }
    match find::<StoreError>(error)? {
        StoreError::Corrupt { .. } => Some(ErrorKind::Corrupt),
        StoreError::NotAStore { .. } => Some(ErrorKind::NotFound),
        StoreError::OutsideBackup { .. }
        | StoreError::NotEmpty { .. }
        | StoreError::ForeignNode { .. } => Some(ErrorKind::Invalid),
        _ => Some(ErrorKind::Unavailable),
    }
}

fn is_closed_pipe(error: &anyhow::Error) -> bool {
    find::<io::Error>(error).is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn find<E: std::error::Error + 'static>(error: &anyhow::Error) -> Option<&E> {
    error.chain().find_map(|cause| cause.downcast_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use domicile_proto::Reason;

    fn code(error: &anyhow::Error) -> String {
        format!("{:?}", exit_code(error))
    }

    fn expect(number: u8) -> String {
        format!("{:?}", ExitCode::from(number))
    }

    #[test]
    fn every_error_has_its_exit_code() {
        let node = |reason| domicile_replication::Error::new(reason, "so it is").into();
        assert_eq!(code(&node(Reason::InvalidKey)), expect(2));
        assert_eq!(code(&node(Reason::VersionMismatch)), expect(5));
        assert_eq!(code(&node(Reason::Indeterminate)), expect(6));
        assert_eq!(code(&node(Reason::ChecksumMismatch)), expect(8));
        assert_eq!(
            code(&Failure::new(ErrorKind::NotFound, "absent").into()),
            expect(3)
        );
        assert_eq!(code(&anyhow::anyhow!("anything")), expect(1));
        let pipe = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(code(&pipe.into()), expect(0));
    }

    #[test]
    fn an_error_is_told_once_with_its_facts() {
        let error = domicile_replication::Error::new(Reason::VersionMismatch, "version mismatch");
        let error = Err::<(), _>(error.with("current", "0.1.9.7")).context("put alice");
        let told = told(&error.unwrap_err());
        assert_eq!(
            told,
            "put alice: version mismatch (VERSION_MISMATCH, current=0.1.9.7)"
        );
    }

    #[test]
    fn what_lies_below_the_client_is_not_told_twice() {
        let refused = domicile_client::Client::new("nowhere").unwrap_err();
        let told = told(&anyhow::Error::new(refused).context("status"));
        assert_eq!(told.matches("nowhere").count(), 1, "{told}");
        assert!(told.starts_with("status: invalid endpoint") && told.contains("INVALID_ARGUMENT"));
    }
}
