//! What a session has seen, and whether a log still has it.
//!
//! **Owns**: the rule by which a mark is held, awaited or lost.
//! **Does not own**: marks themselves (callers keep them), waiting (the node).

use domicile_proto::{Epoch, Position, Seq};

/// How a log stands to what a session has seen of its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStanding {
    /// It is in this log, or will be once the log is long enough.
    Held,
    /// Seen in a reign of which this log has nothing so far.
    Ahead,
    /// This log went on without it: the last record that both may have.
    Lost(Seq),
}

/// The reign of a record, by the first record of each, oldest first; `None` for one that is older
/// than all that are remembered.
pub(crate) fn reign_at(reigns: &[(Epoch, Seq)], seq: Seq) -> Option<Epoch> {
    let after = reigns.partition_point(|(_, first)| *first <= seq);
    Some(reigns[after.checked_sub(1)?].0)
}

/// How a log stands to what a session has seen: the record at its place is of that reign or of
/// another one. `reigns` are the log's with the first record of each, oldest first; the last goes
/// on, and may have no record yet. `end` is the log's last record.
pub(crate) fn session_standing(
    reigns: &[(Epoch, Seq)],
    end: Seq,
    seen: Position,
) -> SessionStanding {
    if seen.seq == Seq::NONE {
        return SessionStanding::Held;
    }
    let present = reigns.last().map(|(epoch, _)| *epoch);
    if present.is_none_or(|present| seen.epoch > present) {
        return SessionStanding::Ahead;
    }
    let known = match seen.seq > end {
        true => present,
        false => reign_at(reigns, seen.seq),
    };
    if known.is_none_or(|known| known == seen.epoch) {
        return SessionStanding::Held;
    }
    let mut later = reigns.iter().filter(|(epoch, _)| *epoch > seen.epoch);
    let first = later.next().map_or(seen.seq, |(_, first)| *first);
    SessionStanding::Lost(first.min(seen.seq).previous())
}

#[cfg(test)]
mod tests {
    use domicile_proto::NodeId;

    use super::*;

    fn epoch(counter: u64) -> Epoch {
        let node = NodeId::new(counter).unwrap();
        Epoch { counter, node }
    }

    fn seen(counter: u64, seq: u64) -> Position {
        Position {
            epoch: epoch(counter),
            seq: Seq::new(seq),
        }
    }

    #[test]
    fn what_another_reign_has_at_its_place_is_lost_and_all_else_held() {
        let reigns = [(epoch(1), Seq::FIRST), (epoch(3), Seq::new(11))];
        let of = |seen| session_standing(&reigns, Seq::new(20), seen);
        let lost = |fork| SessionStanding::Lost(Seq::new(fork));
        for (place, expected) in [
            (seen(1, 10), SessionStanding::Held),
            (seen(1, 11), lost(10)),
            (seen(1, 99), lost(10)),
            // A reign of which nothing is in this history.
            (seen(2, 7), lost(6)),
            (seen(2, 12), lost(10)),
            (seen(3, 11), SessionStanding::Held),
            (seen(3, 99), SessionStanding::Held),
            (seen(4, 4), SessionStanding::Ahead),
            (seen(4, 0), SessionStanding::Held),
        ] {
            assert_eq!(of(place), expected, "{place}");
        }
    }

    #[test]
    fn a_reign_without_a_record_ends_what_was_before_it() {
        let reigns = [(epoch(1), Seq::FIRST), (epoch(2), Seq::new(6))];
        let of = |seen| session_standing(&reigns, Seq::new(5), seen);
        assert_eq!(of(seen(1, 5)), SessionStanding::Held);
        assert_eq!(of(seen(1, 6)), SessionStanding::Lost(Seq::new(5)));
        let without = session_standing(&[], Seq::NONE, seen(1, 1));
        assert_eq!(without, SessionStanding::Ahead);
    }

    #[test]
    fn of_what_is_older_than_all_that_is_remembered_nobody_can_tell() {
        let reigns = [(epoch(5), Seq::new(40))];
        let of = |seen| session_standing(&reigns, Seq::new(50), seen);
        assert_eq!(of(seen(2, 39)), SessionStanding::Held);
        assert_eq!(of(seen(2, 40)), SessionStanding::Lost(Seq::new(39)));
    }
}
