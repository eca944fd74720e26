//! One value of a row, and how each format shows it.
//!
//! **Owns**: bytes that are no text, in each format.
//! **Does not own**: rows and files (`output`).

use bytes::Bytes;
use serde_json::{Map, Value};

use super::base64;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell {
    /// Words.
    Text(String),
    /// A key or a value: whatever the caller stored.
    Bytes(Bytes),
    Number(u64),
    Signed(i64),
    Flag(bool),
    List(Vec<String>),
    /// Not known or not there.
    Nothing,
}

impl Cell {
    /// For people: text as it is, other bytes escaped.
    pub(crate) fn human(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) if !text.chars().any(char::is_control) => text.to_owned(),
                _ => bytes.escape_ascii().to_string(),
            },
            Self::Number(number) => number.to_string(),
            Self::Signed(number) => number.to_string(),
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::List(items) => items.join(","),
            Self::Nothing => "-".to_owned(),
        }
    }

    /// For spreadsheets: bytes as they are, nothing as nothing.
    pub(crate) fn raw(&self) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Flag(flag) => flag.to_string().into_bytes(),
            Self::Nothing => Vec::new(),
            other => other.human().into_bytes(),
        }
    }

    /// Into a JSON object: bytes that are no text go under `<name>_base64`.
    pub(crate) fn put_into(&self, object: &mut Map<String, Value>, name: &str) {
        let value = match self {
            Self::Text(text) => Value::from(text.as_str()),
            Self::Bytes(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => Value::from(text),
                Err(_) => {
                    object.insert(format!("{name}_base64"), base64::encode(bytes).into());
                    return;
                }
            },
            Self::Number(number) => Value::from(*number),
            Self::Signed(number) => Value::from(*number),
            Self::Flag(flag) => Value::from(*flag),
            Self::List(items) => Value::from(items.as_slice()),
            Self::Nothing => Value::Null,
        };
        object.insert(name.to_owned(), value);
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Bytes> for Cell {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Signed(number)
    }
}

impl From<bool> for Cell {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}
