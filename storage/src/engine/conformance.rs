//! What every engine must do: one suite, run for each.
//!
//! **Owns**: the checks.
//! **Does not own**: what one engine does beside them (its own tests).

use std::ops::Bound;

use bytes::Bytes;

use super::rows::{Direction, Engine, RowChange};

/// An engine under test, with what the contract does not offer.
pub(crate) trait Subject: Sized {
    fn engine(&self) -> &dyn Engine;
    /// Closes it and opens it again.
    fn reopen(self) -> Self;
    /// All physical rows, to find what a change left behind.
    fn rows_inside(&self) -> usize;
}

fn set(row: &[u8], value: &[u8]) -> RowChange {
    RowChange::Set {
        row: Bytes::copy_from_slice(row),
        value: Bytes::copy_from_slice(value),
    }
}

fn remove(row: &[u8]) -> RowChange {
    RowChange::Remove {
        row: Bytes::copy_from_slice(row),
    }
}

fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len)
        .map(|index| (index * 31 + salt + index / 251) as u8)
        .collect()
}

pub(crate) fn rows_are_set_overwritten_and_removed(subject: impl Subject) {
    let engine = subject.engine();
    assert_eq!(engine.get(b"ca").unwrap(), None);
    engine
        .apply(vec![set(b"ca", b"1"), set(b"cb", b""), set(b"cc", b"3")])
        .unwrap();
    assert_eq!(engine.get(b"ca").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(engine.get(b"cb").unwrap().as_deref(), Some(&b""[..]));
    engine
        .apply(vec![
            set(b"ca", b"9"),
            remove(b"cb"),
            remove(b"never there"),
        ])
        .unwrap();
    assert_eq!(engine.get(b"ca").unwrap().as_deref(), Some(&b"9"[..]));
    assert_eq!(engine.get(b"cb").unwrap(), None);
    engine.apply(Vec::new()).unwrap();
    engine.sync().unwrap();
    assert_eq!(subject.rows_inside(), 2);
}

pub(crate) fn the_last_change_of_a_row_in_a_batch_wins(subject: impl Subject) {
    let engine = subject.engine();
    let large = pattern(100_000, 1);
    engine
        .apply(vec![
            set(b"ca", &large),
            set(b"ca", b"small"),
            remove(b"cb"),
            set(b"cb", b"back"),
            set(b"cc", b"small"),
            set(b"cc", &large),
            set(b"cd", &large),
            remove(b"cd"),
        ])
        .unwrap();
    assert_eq!(engine.get(b"ca").unwrap().as_deref(), Some(&b"small"[..]));
    assert_eq!(engine.get(b"cb").unwrap().as_deref(), Some(&b"back"[..]));
    assert_eq!(engine.get(b"cc").unwrap().as_deref(), Some(&large[..]));
    assert_eq!(engine.get(b"cd").unwrap(), None);
    engine
        .apply(vec![
            remove(b"ca"),
            remove(b"cb"),
            remove(b"cc"),
            remove(b"cd"),
        ])
        .unwrap();
    assert_eq!(subject.rows_inside(), 0);
}

pub(crate) fn values_up_to_a_mebibyte_survive_a_reopening(subject: impl Subject) {
    let lengths = [0, 1, 4_095, 4_096, 4_097, 8_192, 8_193, 65_536, 1 << 20];
    let row = |index: usize| format!("crow{index}").into_bytes();
    let batch = lengths.iter().enumerate();
    subject
        .engine()
        .apply(
            batch
                .map(|(index, len)| set(&row(index), &pattern(*len, index)))
                .collect(),
        )
        .unwrap();
    let subject = subject.reopen();
    for (index, len) in lengths.iter().enumerate() {
        let value = subject.engine().get(&row(index)).unwrap().unwrap();
        assert!(
            value == pattern(*len, index),
            "value of {len} bytes came back changed"
        );
    }
    let every = (Bound::Unbounded, Bound::Unbounded);
    let rows = subject
        .engine()
        .scan(every.0, every.1, Direction::Forward, 100)
        .unwrap();
    let found: Vec<usize> = rows.iter().map(|(_, value)| value.len()).collect();
    assert_eq!(found, lengths);
}

pub(crate) fn a_large_value_leaves_nothing_behind(subject: impl Subject) {
    let large = pattern(1 << 20, 3);
    let engine = subject.engine();
    // Neighbours whose rows share the prefix must not lose theirs.
    engine
        .apply(vec![set(b"c", &large), set(b"c\0\0\0\x01", &large)])
        .unwrap();
    engine
        .apply(vec![set(b"c\0", &pattern(20_000, 1))])
        .unwrap();
    engine.apply(vec![set(b"c", &pattern(9_000, 2))]).unwrap();
    assert_eq!(engine.get(b"c").unwrap().unwrap(), pattern(9_000, 2));
    let subject = subject.reopen();
    let engine = subject.engine();
    engine.apply(vec![set(b"c", b"small")]).unwrap();
    assert_eq!(engine.get(b"c").unwrap().as_deref(), Some(&b"small"[..]));
    assert_eq!(engine.get(b"c\0\0\0\x01").unwrap().unwrap(), large);
    assert_eq!(engine.get(b"c\0").unwrap().unwrap(), pattern(20_000, 1));
    engine
        .apply(vec![remove(b"c\0\0\0\x01"), set(b"c\0", b"")])
        .unwrap();
    assert_eq!(subject.rows_inside(), 2);
}

pub(crate) fn scans_walk_both_ways_within_their_bounds(subject: impl Subject) {
    let engine = subject.engine();
    let rows: Vec<Vec<u8>> = (0..100u8).map(|row| vec![b'c', row]).collect();
    engine
        .apply(rows.iter().rev().map(|row| set(row, row)).collect())
        .unwrap();
    engine
        .apply(vec![set(b"a", &pattern(50_000, 1)), set(b"t", b"mark")])
        .unwrap();
    let low = [b'c', 10];
    let high = [b'c', 20];
    let bounds = [Bound::Included(10), Bound::Excluded(10)];
    let bounds_high = [Bound::Included(20), Bound::Excluded(20)];
    for from in bounds {
        for upto in bounds_high {
            let range = (from.map(|_| &low[..]), upto.map(|_| &high[..]));
            let expected: Vec<u8> = (0..100u8)
                .filter(|row| (from, upto).contains_row(*row))
                .collect();
            let forward = engine
                .scan(range.0, range.1, Direction::Forward, 1_000)
                .unwrap();
            let found: Vec<u8> = forward.iter().map(|(row, _)| row[1]).collect();
            assert_eq!(found, expected);
            assert!(forward.iter().all(|(row, value)| row == value));
            let mut backward = engine
                .scan(range.0, range.1, Direction::Backward, 1_000)
                .unwrap();
            backward.reverse();
            assert_eq!(forward, backward);
        }
    }
    let all = engine
        .scan(
            Bound::Unbounded,
            Bound::Unbounded,
            Direction::Forward,
            1_000,
        )
        .unwrap();
    assert_eq!(all.len(), 102);
    assert!(
        all.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "out of order"
    );
}

trait ContainsRow {
    fn contains_row(&self, row: u8) -> bool;
}

impl ContainsRow for (Bound<i32>, Bound<i32>) {
    fn contains_row(&self, row: u8) -> bool {
        std::ops::RangeBounds::contains(self, &i32::from(row))
    }
}

pub(crate) fn a_limit_cuts_at_the_near_end(subject: impl Subject) {
    let engine = subject.engine();
    engine
        .apply((0..50u8).map(|row| set(&[b'c', row], b"v")).collect())
        .unwrap();
    let scan = |direction, limit| -> Vec<u8> {
        let rows = engine
            .scan(Bound::Unbounded, Bound::Unbounded, direction, limit)
            .unwrap();
        rows.iter().map(|(row, _)| row[1]).collect()
    };
    assert_eq!(scan(Direction::Forward, 3), [0, 1, 2]);
    assert_eq!(scan(Direction::Backward, 3), [49, 48, 47]);
    assert_eq!(scan(Direction::Forward, 0), [0u8; 0]);
    assert_eq!(scan(Direction::Backward, 50).len(), 50);
}

pub(crate) fn empty_and_inverted_ranges_have_no_rows(subject: impl Subject) {
    let engine = subject.engine();
    let scan = |from, upto| {
        let forward = engine.scan(from, upto, Direction::Forward, 10).unwrap();
        let backward = engine.scan(from, upto, Direction::Backward, 10).unwrap();
        assert_eq!(forward.len(), backward.len());
        forward.len()
    };
    assert_eq!(scan(Bound::Unbounded, Bound::Unbounded), 0);
    engine
        .apply(vec![set(b"ca", b"1"), set(b"cb", b"2")])
        .unwrap();
    let (a, b) = (&b"ca"[..], &b"cb"[..]);
    assert_eq!(scan(Bound::Included(b), Bound::Included(a)), 0);
    assert_eq!(scan(Bound::Excluded(b), Bound::Excluded(a)), 0);
    assert_eq!(scan(Bound::Excluded(a), Bound::Excluded(a)), 0);
    assert_eq!(scan(Bound::Excluded(a), Bound::Excluded(b)), 0);
    assert_eq!(scan(Bound::Included(a), Bound::Included(a)), 1);
    assert_eq!(scan(Bound::Included(b"x"), Bound::Unbounded), 0);
}

macro_rules! conformance_suite {
    ($open:expr) => {
        $crate::engine::conformance::conformance_suite! {
            $open;
            rows_are_set_overwritten_and_removed
            the_last_change_of_a_row_in_a_batch_wins
            values_up_to_a_mebibyte_survive_a_reopening
            a_large_value_leaves_nothing_behind
            scans_walk_both_ways_within_their_bounds
            a_limit_cuts_at_the_near_end
            empty_and_inverted_ranges_have_no_rows
        }
    };
    ($open:expr; $($check:ident)+) => {
        $(
            #[test]
            fn $check() {
                $crate::engine::conformance::$check($open);
            }
        )+
    };
}
pub(crate) use conformance_suite;
