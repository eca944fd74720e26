//! What is wrong with a configuration, as many faults at once as can be told.
//!
//! **Owns**: the error and the list of faults.
//! **Does not own**: finding them (`given`, `checked`).

use std::fmt;
use std::path::PathBuf;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a key that does not exist.
    #[error("{}:{line}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// Values that do not fit, each with its key.
    #[error("{0}")]
    Faults(Faults),
}

/// Faults in order of the keys; one a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Faults(Vec<String>);

impl Faults {
    /// Notes a fault.
    pub(crate) fn note(&mut self, key: &str, what: impl fmt::Display) {
        self.0.push(format!("{key}: {what}"));
    }

    /// The value, or nothing and a fault noted.
    pub(crate) fn check<T, E: fmt::Display>(
        &mut self,
        key: &str,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|fault| self.note(key, fault)).ok()
    }

    /// The value if there are no faults at all.
    pub(crate) fn unless<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        match value {
            Some(value) if self.0.is_empty() => Ok(value),
            _ => {
                assert!(
                    !self.0.is_empty(),
                    "a value is missing and no fault was noted"
                );
                Err(ConfigError::Faults(self))
            }
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}
