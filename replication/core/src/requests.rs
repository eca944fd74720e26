//! The requests of the last records, by id, so that a write sent twice is done once.
//!
//! **Owns**: the table, its two bounds (count and age).
//! **Does not own**: what a known request is answered (`admission`), the ids in the log (the driver
//! hands them back after a restart).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domicile_proto::{Hlc, RequestId, Seq};

use crate::recovered::RememberedRequest;

/// Requests remembered: with [`REQUEST_AGE_MAX`] the promise of "exactly once". At 100 bytes each
/// they cost 6 MiB a busy partition; doubling it doubles that, and the time to rebuild it.
pub const REQUESTS_MAX: usize = 65_536;

/// How long a request is remembered: longer than any client goes on retrying. Doubling it does
/// nothing for a busy partition, where the count is reached first.
pub const REQUEST_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// The table. Evicts in the order of places.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    by_seq: VecDeque<RememberedRequest>,
    places: BTreeMap<RequestId, Seq>,
    newest: Hlc,
}

impl Requests {
    /// The table as the log gives it; what is out of order or beyond the log's end is left out.
    pub(crate) fn recover(requests: Vec<RememberedRequest>, last_seq: Seq) -> Self {
        let mut table = Self::default();
        for request in requests {
            let follows = table
                .by_seq
                .back()
                .is_none_or(|last| request.seq > last.seq);
            if follows && request.seq <= last_seq {
                table.insert(request);
            }
        }
        table
    }

    /// Remembers a request; forgets the oldest beyond the bounds.
    pub(crate) fn insert(&mut self, request: RememberedRequest) {
        if let Some(last) = self.by_seq.back() {
            assert!(
                request.seq > last.seq,
                "request at {} after {}",
                request.seq,
                last.seq
            );
        }
        self.newest = self.newest.max(request.hlc);
        self.places.insert(request.request_id, request.seq);
        self.by_seq.push_back(request);
        while let Some(oldest) = self.by_seq.front() {
            if self.by_seq.len() <= REQUESTS_MAX && !self.is_too_old(oldest.hlc) {
                break;
            }
            // A log written before its request was evicted may hold an id twice: the later place
            // is the one kept.
            if self.places.get(&oldest.request_id) == Some(&oldest.seq) {
                self.places.remove(&oldest.request_id);
            }
            self.by_seq.pop_front();
        }
        assert!(
            self.places.len() <= self.by_seq.len(),
            "more ids than requests"
        );
    }

    /// The request of that id.
    pub(crate) fn get(&self, request_id: RequestId) -> Option<RememberedRequest> {
        let seq = *self.places.get(&request_id)?;
        let index = self
            .by_seq
            .binary_search_by_key(&seq, |request| request.seq);
        let index = index.expect("an id's place is in the table");
        Some(self.by_seq[index])
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The newest stamp seen.
    pub(crate) fn newest(&self) -> Hlc {
        self.newest
    }

    fn is_too_old(&self, hlc: Hlc) -> bool {
        let age_ms = self.newest.wall_ms().saturating_sub(hlc.wall_ms());
        u128::from(age_ms) > REQUEST_AGE_MAX.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::AckLevel;

    fn request(number: u64, wall_ms: u64) -> RememberedRequest {
        RememberedRequest {
            request_id: RequestId::new(u128::from(number)).unwrap(),
            seq: Seq::new(number),
            fingerprint: number,
            hlc: Hlc::at_ms(wall_ms),
            level: AckLevel::Async,
        }
    }

    fn knows(table: &Requests, number: u64) -> bool {
        table.get(RequestId::new(number.into()).unwrap()).is_some()
    }

    #[test]
    fn count_evicts_the_oldest() {
        let mut table = Requests::default();
        let last = REQUESTS_MAX as u64 + 1;
        (1..=last).for_each(|number| table.insert(request(number, 7)));
        assert!(!knows(&table, 1) && knows(&table, 2) && knows(&table, last));
        assert_eq!(table.len(), REQUESTS_MAX);
    }

    #[test]
    fn age_evicts_by_the_newest_stamp() {
        let mut table = Requests::default();
        table.insert(request(1, 1_000));
        table.insert(request(2, 901_000));
        assert!(
            knows(&table, 1),
            "exactly fifteen minutes old is remembered"
        );
        table.insert(request(3, 901_001));
        assert!(!knows(&table, 1) && knows(&table, 2));
    }

    #[test]
    fn recovered_disorder_is_left_out() {
        let requests = vec![request(5, 1), request(4, 1), request(9, 1)];
        let table = Requests::recover(requests, Seq::new(8));
        assert!(knows(&table, 5) && !knows(&table, 4) && !knows(&table, 9));
    }
}
