//! How an old home is kept from acknowledging while its successor does.
//!
//! **Owns**: which of the three ways a keyspace has, and when enough ackers are revoked.
//! **Does not own**: leases and promises themselves (the driver and the disk).

use domicile_proto::{AckLevel, Keyspace, OnTimeout};

use crate::planted::{Bug, is_planted};

/// Voters with which a majority survives the loss of one.
pub const VOTERS_MIN: usize = 3;

/// What keeps an old home from acknowledging.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fencing {
    /// It stops by itself at the end of its lease, and the successor waits that out.
    Lease,
    /// Copies that it needs for an acknowledgement refuse it from the successor's epoch on.
    AckRevocation,
    /// Somebody says that it is off.
    Operator,
}

impl Fencing {
    /// The way of a keyspace in a cluster with so many voters. Revocation first: it needs no clock
    /// and waits for none.
    #[must_use]
    pub fn of(keyspace: &Keyspace, voters: usize) -> Self {
        // A home that degrades acknowledges without its copies.
        let is_strict = keyspace.on_timeout != OnTimeout::Degrade;
        if is_strict && keyspace.ack.received_needed(keyspace.copies()) > 0 {
            Self::AckRevocation
        } else if voters >= VOTERS_MIN {
            Self::Lease
        } else {
            Self::Operator
        }
    }
}

/// Whether too few copies are left for an acknowledgement, once so many have promised a later
/// epoch. What was acknowledged before is then at one of those that promised.
#[must_use]
pub fn revokes(level: AckLevel, copies: usize, promised: usize) -> bool {
    let needed = level.received_needed(copies);
    if is_planted(Bug::RevokeTooFew) {
        return promised > 0;
    }
    needed > 0 && copies.saturating_sub(promised) < needed
}

#[cfg(test)]
mod tests {
    use domicile_proto::{Name, RegionId};

    use super::*;

    fn keyspace(regions: u16, ack: AckLevel, on_timeout: OnTimeout) -> Keyspace {
        let regions: Vec<RegionId> = (1..=regions).map(|id| RegionId::new(id).unwrap()).collect();
        let home = regions[0];
        Keyspace {
            ack,
            on_timeout,
            ..Keyspace::new(Name::new("k").unwrap(), regions, home)
        }
    }

    #[test]
    fn what_fences_follows_from_level_and_topology() {
        use Fencing::{AckRevocation, Lease, Operator};
        let semi = AckLevel::SEMI_SYNC;
        for (regions, ack, on_timeout, voters, expected) in [
            (3, AckLevel::Async, OnTimeout::Fail, 3, Lease),
            (2, AckLevel::Async, OnTimeout::Fail, 3, Lease),
            (2, AckLevel::Async, OnTimeout::Fail, 2, Operator),
            (3, semi, OnTimeout::Fail, 3, AckRevocation),
            (3, semi, OnTimeout::Block, 3, AckRevocation),
            (3, semi, OnTimeout::Degrade, 3, Lease),
            (2, AckLevel::SYNC, OnTimeout::Fail, 2, AckRevocation),
            (2, AckLevel::SYNC, OnTimeout::Degrade, 2, Operator),
        ] {
            let found = Fencing::of(&keyspace(regions, ack, on_timeout), voters);
            assert_eq!(found, expected, "{regions} {ack} {on_timeout:?} {voters}");
        }
    }

    /// Every set of ackers that the old home may still have meets those that promised.
    #[test]
    fn enough_promises_leave_no_quorum() {
        for copies in 1..=6_usize {
            let levels = (1..=copies).flat_map(|needed| {
                let number = std::num::NonZeroU8::new(needed as u8 + 1);
                [
                    AckLevel::Sync { quorum: number },
                    AckLevel::SemiSync {
                        regions: std::num::NonZeroU8::new(needed as u8).unwrap(),
                    },
                ]
            });
            for level in levels.chain([AckLevel::SYNC]) {
                let needed = level.received_needed(copies);
                for promised in 0_u32..1 << copies {
                    let is_left = (0_u32..1 << copies).any(|ackers| {
                        ackers.count_ones() as usize >= needed && ackers & promised == 0
                    });
                    let revoked = revokes(level, copies, promised.count_ones() as usize);
                    assert_eq!(revoked, !is_left, "{level} {copies} {promised:b}");
                }
            }
            assert!(!revokes(AckLevel::Async, copies, copies));
        }
    }
}
