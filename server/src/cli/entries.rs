//! Entries and receipts as rows.
//!
//! **Owns**: their columns.
//! **Does not own**: formats (`output`).

use domicile_client::{Accepted, Entry, Receipt};

use super::cell::Cell;

/// The columns of an entry.
pub(crate) const ENTRY: [&str; 5] = ["key", "value", "version", "written_at_ms", "expires_at_ms"];

/// The columns of a receipt.
pub(crate) const RECEIPT: [&str; 9] = [
    "version",
    "asked",
    "achieved",
    "durable_in",
    "partition",
    "position",
    "request_id",
    "degraded",
    "duplicate",
];

/// An entry as a row.
pub(crate) fn entry(entry: Entry) -> Vec<Cell> {
    vec![
        entry.key.into(),
        entry.value.into(),
        entry.version.to_string().into(),
        entry.written_at_ms.into(),
        entry.expires_at_ms.into(),
    ]
}

/// A receipt as a row.
pub(crate) fn receipt(receipt: Receipt) -> Vec<Cell> {
    vec![
        receipt.version.to_string().into(),
        receipt.asked.to_string().into(),
        receipt.achieved.to_string().into(),
        Cell::List(receipt.durable_in),
        receipt.partition.to_string().into(),
        receipt.position.to_string().into(),
        receipt.request_id.to_string().into(),
        receipt.degraded.into(),
        receipt.duplicate.into(),
    ]
}

/// The columns of a write that is kept for its home.
pub(crate) const ACCEPTED: [&str; 5] =
    ["state", "request_id", "kept_in", "number", "accepted_at_ms"];

/// A write that is kept for its home, as a row.
pub(crate) fn accepted(accepted: Accepted) -> Vec<Cell> {
    vec![
        "ACCEPTED_NOT_APPLIED".into(),
        accepted.request_id.to_string().into(),
        accepted.region.into(),
        accepted.number.into(),
        accepted.accepted_at_ms.into(),
    ]
}
