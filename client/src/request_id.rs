//! Ids under which a write is done at most once.
//!
//! **Owns**: making them: UUIDs of version 7 without a system call each.
//! **Does not own**: their meaning and text form (proto), remembering them (the home).

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use domicile_proto::RequestId;
use uuid::{Builder, Uuid};

/// Random per process; with the counter it takes the place of fresh random bits per id.
static SEED: LazyLock<u64> = LazyLock::new(|| {
    let (_, low) = Uuid::now_v7().as_u64_pair();
    low
});

/// Sets ids of one millisecond apart.
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A new request id: a UUID of version 7 (time, then a process's random bits and its counter).
///
/// Two processes make the same id only if they drew the same 42 random bits and stand at the same
/// count in the same millisecond.
#[must_use]
pub fn next_request_id() -> RequestId {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let wall_ms = since.map_or(0, |elapsed| u64::try_from(elapsed.as_millis()).unwrap_or(0));
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut bytes = [0; 10];
    // The version and variant bits land on the first and third byte, so the count is last.
    bytes[0..6].copy_from_slice(&SEED.to_be_bytes()[2..8]);
    bytes[6..10].copy_from_slice(&count.to_be_bytes());
    let id = Builder::from_unix_timestamp_millis(wall_ms, &bytes).into_uuid();
    RequestId::new(id.as_u128()).expect("the version bits of a UUID are not zero")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_are_unique_version_7_and_follow_time() {
        let ids: Vec<RequestId> = (0..100_000).map(|_| next_request_id()).collect();
        let distinct: HashSet<RequestId> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| id.to_string().as_bytes()[12] == b'7'));
        let millisecond = |id: &RequestId| id.get() >> 80;
        assert!(
            ids.windows(2)
                .all(|pair| millisecond(&pair[0]) <= millisecond(&pair[1]))
        );
    }
}
