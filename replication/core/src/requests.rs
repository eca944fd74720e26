//! The requests of the last records, by id, so that a write sent twice is done once.
//!
//! **Owns**: the table, its two bounds (count and age).
//! **Does not own**: what a known request is answered (`admission`), the ids in the log (the driver
//! hands them back after a restart).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use domicile_proto::{Hlc, RequestId, Seq};

use crate::moment::Moment;
use crate::planted::{Bug, is_planted};
use crate::recovered::RememberedRequest;

/// Requests remembered: with [`REQUEST_AGE_MAX`] the promise of "exactly once". At 100 bytes each
/// they cost 6 MiB a busy partition; doubling it doubles that, and the time to rebuild it.
pub const REQUESTS_MAX: usize = 65_536;

/// How long a request is remembered: longer than any client goes on retrying. Doubling it does
/// nothing for a busy partition, where the count is reached first.
pub const REQUEST_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// The table. Evicts in the order of places, by the age on the monotone clock: stamps follow the
/// wall, and one that is set forward by more than the age would make retries new requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Requests {
    by_seq: VecDeque<(RememberedRequest, Moment)>,
    places: BTreeMap<RequestId, Seq>,
    newest: Hlc,
    /// Every request behind this record is remembered; of what lies before nobody here knows.
    forgotten_upto: Seq,
}

impl Requests {
    /// The table as the log gives it; what is out of order or beyond the log's end is left out.
    /// Nobody knows how old they are: they count as made now.
    pub(crate) fn recover(requests: Vec<RememberedRequest>, last_seq: Seq, now: Moment) -> Self {
        let first = requests.first().map(|request| request.seq.previous());
        let mut table = Self {
            forgotten_upto: first.unwrap_or(last_seq),
            ..Self::default()
        };
        for request in requests {
            let last = table.by_seq.back();
            let follows = last.is_none_or(|(last, _)| request.seq > last.seq);
            if follows && request.seq <= last_seq {
                table.insert(request, now);
            } else {
                table.forgotten_upto = last_seq;
            }
        }
        table
    }

    /// Remembers a request; forgets the oldest beyond the bounds.
    pub(crate) fn insert(&mut self, request: RememberedRequest, now: Moment) {
        if let Some((last, _)) = self.by_seq.back() {
            assert!(
                request.seq > last.seq,
                "request at {} after {}",
                request.seq,
                last.seq
            );
        }
        self.newest = self.newest.max(request.hlc);
        self.places.insert(request.request_id, request.seq);
        self.by_seq.push_back((request, now));
        while let Some((oldest, made)) = self.by_seq.front() {
            if self.by_seq.len() <= REQUESTS_MAX && now.since(*made) <= REQUEST_AGE_MAX {
                break;
            }
            // A log written before its request was evicted may hold an id twice: the later place
            // is the one kept.
            if self.places.get(&oldest.request_id) == Some(&oldest.seq) {
                self.places.remove(&oldest.request_id);
            }
            self.forgotten_upto = self.forgotten_upto.max(oldest.seq);
            self.by_seq.pop_front();
        }
        assert!(
            self.places.len() <= self.by_seq.len(),
            "more ids than requests"
        );
    }

    /// The request of that id.
    pub(crate) fn get(&self, request_id: RequestId) -> Option<RememberedRequest> {
        if is_planted(Bug::ForgetRequests) {
            return None;
        }
        let seq = *self.places.get(&request_id)?;
        let index = self
            .by_seq
            .binary_search_by_key(&seq, |(request, _)| request.seq);
        let index = index.expect("an id's place is in the table");
        Some(self.by_seq[index].0)
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// The last record whose request, if it had one, may be forgotten.
    pub(crate) fn forgotten_upto(&self) -> Seq {
        self.forgotten_upto
    }

    /// The newest stamp seen.
    pub(crate) fn newest(&self) -> Hlc {
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::AckLevel;

    const NOW: Moment = Moment::START;

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
        (1..=last).for_each(|number| table.insert(request(number, 7), NOW));
        assert!(!knows(&table, 1) && knows(&table, 2) && knows(&table, last));
        assert_eq!(table.len(), REQUESTS_MAX);
    }

    #[test]
    fn age_evicts_by_the_monotone_clock() {
        let mut table = Requests::default();
        table.insert(request(1, 1_000), NOW);
        // The wall is set forward by an hour.
        table.insert(request(2, 3_601_000), NOW.plus(REQUEST_AGE_MAX));
        assert!(
            knows(&table, 1),
            "exactly fifteen minutes old is remembered"
        );
        let later = REQUEST_AGE_MAX + Duration::from_micros(1);
        table.insert(request(3, 2_000), NOW.plus(later));
        assert!(!knows(&table, 1) && knows(&table, 2));
    }

    #[test]
    fn recovered_disorder_is_left_out() {
        let requests = vec![request(5, 1), request(4, 1), request(9, 1)];
        let table = Requests::recover(requests, Seq::new(8), NOW);
        assert!(knows(&table, 5) && !knows(&table, 4) && !knows(&table, 9));
        assert_eq!(table.forgotten_upto(), Seq::new(8), "it has a hole");
    }

    #[test]
    fn how_far_back_nothing_is_forgotten_is_known() {
        let recovered = |seqs: &[u64]| {
            let requests = seqs.iter().map(|seq| request(*seq, 1)).collect();
            Requests::recover(requests, Seq::new(9), NOW)
                .forgotten_upto()
                .get()
        };
        assert_eq!(
            recovered(&[]),
            9,
            "a log without requests, or whose requests are lost"
        );
        assert_eq!(recovered(&[4, 6]), 3);
        assert_eq!(recovered(&[1, 9]), 0);
        let mut table = Requests::default();
        (1..=3).for_each(|number| table.insert(request(number, 1), NOW));
        assert_eq!(table.forgotten_upto(), Seq::NONE);
        let later = NOW.plus(REQUEST_AGE_MAX + Duration::from_micros(1));
        table.insert(request(7, 1), later);
        assert_eq!(table.forgotten_upto(), Seq::new(3));
    }
}
