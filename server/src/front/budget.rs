//! The bytes of calls that are not answered yet.
//!
//! **Owns**: counting them against one limit over all connections.
//! **Does not own**: what happens to a call that finds no room (its handler refuses or waits).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use domicile_proto::Reason;
use domicile_replication::Error;

/// A count of bytes that may not exceed its limit. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Account>);

#[derive(Debug)]
struct Account {
    limit: usize,
    taken: AtomicUsize,
}

/// Bytes taken; given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Account {
            limit,
            taken: AtomicUsize::new(0),
        }))
    }

    /// Takes bytes; one call may always proceed alone, whatever its size.
    pub(crate) fn take(&self, bytes: usize) -> Result<Share, Error> {
        let Account { limit, taken } = &*self.0;
        let before = taken.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > *limit {
            taken.fetch_sub(bytes, Ordering::Relaxed);
            let message =
                format!("too many bytes in flight: {before} and {bytes} more, limit {limit}");
            return Err(Error::new(Reason::Overloaded, message).with("limit", limit));
        }
        Ok(Share {
            budget: self.clone(),
            bytes,
        })
    }
}

impl Share {
    /// How many bytes it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.0.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_until_something_is_given_back() {
        let budget = Budget::new(100);
        let first = budget.take(60).unwrap();
        let second = budget.take(40).unwrap();
        let refused = budget.take(1).unwrap_err();
        assert_eq!(refused.reason(), Reason::Overloaded);
        assert!(
            refused.to_string().contains("100 and 1 more, limit 100"),
            "{refused}"
        );
        drop(first);
        let third = budget.take(60).unwrap();
        drop((second, third));
        // Alone, even more than the limit goes through: it could never go through otherwise.
        let whole = budget.take(1_000).unwrap();
        assert!(budget.take(1).is_err());
        drop(whole);
        assert!(budget.take(100).is_ok());
    }
}
