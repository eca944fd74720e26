//! The sizes that every door enforces, so that what one accepts no other refuses.
//!
//! **Owns**: the numbers and the checks of keys and values against them.
//! **Does not own**: limits of connections and queues (each with its owner).

use crate::wire::WireError;

/// Longest key: 1 KiB. Keys are held in memory several times (overlay, in-flight map, request);
/// doubling it doubles the worst case of each.
pub const KEY_BYTES_MAX: usize = 1024;

/// Largest value: 1 MiB. A value travels in one record, one segment and one message; the message
/// and segment limits below are derived from it.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Most operations in one batch: 1,024. A batch is one record, its cells are applied under one
/// lock: twice as many block readers twice as long.
pub const BATCH_OPERATIONS_MAX: usize = 1024;

/// Largest record: a batch may carry 4 MiB in all, plus its keys and framing.
pub const RECORD_BYTES_MAX: usize = 6 << 20;

/// Segments are closed once their payload reaches 1 MiB: larger ones make a slow link's
/// head-of-line block (beats wait behind them), smaller ones cost header bytes.
pub const SEGMENT_BYTES_TARGET: usize = 1 << 20;

/// Largest segment a decoder accepts: one target plus one record that did not fit below it.
pub const SEGMENT_BYTES_MAX: usize = SEGMENT_BYTES_TARGET + RECORD_BYTES_MAX + 4096;

/// Checks a key: 1 to [`KEY_BYTES_MAX`] bytes.
///
/// # Errors
/// [`WireError::Invalid`] for an empty key, [`WireError::TooLarge`] for a long one.
pub fn check_key(key: &[u8]) -> Result<(), WireError> {
    if key.is_empty() {
        return Err(WireError::Invalid {
            what: "key length",
            actual: 0,
        });
    }
    check_len("key", key.len(), KEY_BYTES_MAX)
}

/// Checks a value: at most [`VALUE_BYTES_MAX`] bytes.
///
/// # Errors
/// [`WireError::TooLarge`].
pub fn check_value(value: &[u8]) -> Result<(), WireError> {
    check_len("value", value.len(), VALUE_BYTES_MAX)
}

pub(crate) fn check_len(what: &'static str, actual: usize, limit: usize) -> Result<(), WireError> {
    if actual > limit {
        return Err(WireError::TooLarge {
            what,
            actual,
            limit,
        });
    }
    Ok(())
}
