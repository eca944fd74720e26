//! Who holds what: the marks of every copy, and what they add up to.
//!
//! **Owns**: received and durable marks per copy, how a copy stands, the count behind a level.
//! **Does not own**: the home's own marks (`home`), what a level asks for (proto), who waits
//! (`waiters`).
//!
//! Everything here comes from the wire: nothing is believed beyond what this home has made durable.

use domicile_proto::{Achieved, AckLevel, ChainHash, Epoch, RegionId, Seq};

use crate::config::PartitionConfig;
use crate::epochs::Epochs;
use crate::event::{AckFault, Event};
use crate::mark::Mark;
use crate::planted::{Bug, is_planted};
use crate::region_set::{REGIONS_MAX, RegionSet};
use crate::status::Standing;

/// What a level comes down to: counts of other regions. Levels with equal needs are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Copies that must have received.
    pub(crate) received: usize,
    /// Copies that must have made durable.
    pub(crate) durable: usize,
}

impl Needs {
    /// What `level` needs where there are `copies` copies.
    pub(crate) fn of(level: AckLevel, copies: usize) -> Self {
        Self {
            received: level.received_needed(copies),
            durable: level.durable_needed(copies),
        }
    }
}

/// What one copy is known to hold.
#[derive(Debug, Clone)]
pub(crate) struct CopyMarks {
    /// Which region.
    pub(crate) region: RegionId,
    /// How it stands.
    pub(crate) standing: Standing,
    received: Mark,
    durable: Mark,
    /// What it said, within what was appended here: an ack can come before our own disk is known
    /// to have answered, and counts once it has.
    claimed_received: Mark,
    claimed_durable: Mark,
    index: usize,
}

impl CopyMarks {
    /// The last record it has in memory or on disk.
    pub(crate) fn received_upto(&self) -> Seq {
        self.received.upto()
    }

    /// The last record it has on disk.
    pub(crate) fn durable_upto(&self) -> Seq {
        self.durable.upto()
    }

    fn restart_at(&mut self, received_upto: Seq, durable_upto: Seq) {
        self.durable = Mark::at(durable_upto);
        self.received = Mark::at(received_upto.max(durable_upto));
        (self.claimed_received, self.claimed_durable) = (self.received, self.durable);
    }

    /// Lowers its marks to what our own disk has answered for; what it claims stays.
    fn keep_within(&mut self, home_durable: Mark) {
        let end = home_durable.upto();
        self.received = Mark::at(self.received.upto().min(end));
        self.durable = Mark::at(self.durable.upto().min(end));
    }

    /// Raises its marks to what it claims, as far as our own disk goes.
    fn follow(&mut self, home_durable: Mark) {
        let end = home_durable.upto();
        self.received.raise(self.claimed_received.upto().min(end));
        self.durable.raise(self.claimed_durable.upto().min(end));
        let (received, durable) = (self.received, self.durable);
        assert!(
            durable <= received,
            "{}: durable {durable} above received {received}",
            self.region
        );
    }
}

/// How far a copy says it is, and in which reign its log ends or to which it answers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim {
    pub(crate) region: RegionId,
    pub(crate) received_upto: Seq,
    pub(crate) durable_upto: Seq,
}

impl Claim {
    fn upto(self) -> Seq {
        self.received_upto.max(self.durable_upto)
    }
}

/// How a copy's log ends, as it says, and what ours has at that place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogEnd {
    pub(crate) epoch: Option<Epoch>,
    pub(crate) chain: ChainHash,
    pub(crate) own_chain: Option<ChainHash>,
    pub(crate) log_start: Seq,
}

/// How far the home's own log goes: what a copy says is believed within it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnMarks {
    pub(crate) appended: Mark,
    pub(crate) durable: Mark,
}

/// The marks of all copies of one partition.
#[derive(Debug, Clone)]
pub(crate) struct AckTracker {
    copies: Vec<CopyMarks>,
    home_index: usize,
}

impl AckTracker {
    /// No copy has said anything yet.
    pub(crate) fn new(config: &PartitionConfig) -> Self {
        let all = config.regions.iter().enumerate();
        let copies: Vec<CopyMarks> = all
            .filter(|(_, region)| **region != config.home_region)
            .map(|(index, region)| CopyMarks {
                region: *region,
                standing: Standing::Detached,
                received: Mark::at(Seq::NONE),
                durable: Mark::at(Seq::NONE),
                claimed_received: Mark::at(Seq::NONE),
                claimed_durable: Mark::at(Seq::NONE),
                index,
            })
            .collect();
        let home_index = config.index_of(config.home_region);
        let home_index = home_index.expect("a validated config lists the home's region");
        let (actual, limit) = (copies.len(), REGIONS_MAX);
        assert!(actual < limit, "{actual} copies, limit below {limit}");
        Self { copies, home_index }
    }

    /// The copies, in the keyspace's order.
    pub(crate) fn copies(&self) -> &[CopyMarks] {
        &self.copies
    }

    /// How a copy stands; `None` for a region that is none.
    pub(crate) fn standing(&self, region: RegionId) -> Option<Standing> {
        let copy = self.copies.iter().find(|copy| copy.region == region)?;
        Some(copy.standing)
    }

    /// A copy said what it has: its marks start again from there, if its log is a prefix of ours.
    /// It may have what our own disk is not known to have answered for yet: that counts once it
    /// has.
    pub(crate) fn attach(
        &mut self,
        claim: Claim,
        end: LogEnd,
        epochs: &Epochs,
        own: OwnMarks,
    ) -> Option<Event> {
        let Some(copy) = self
            .copies
            .iter_mut()
            .find(|copy| copy.region == claim.region)
        else {
            return Some(Event::UnknownCopy {
                region: claim.region,
            });
        };
        let LogEnd {
            epoch,
            chain,
            own_chain,
            log_start,
        } = end;
        let (region, upto) = (claim.region, claim.upto());
        let end = own.appended.upto();
        let is_of_reign = epoch.is_some_and(|epoch| epochs.covers(epoch, upto, end));
        let lacks_the_cut = upto.get().saturating_add(1) < log_start.get();
        if lacks_the_cut && (upto == Seq::NONE || is_of_reign) {
            copy.standing = Standing::Behind;
            copy.restart_at(Seq::NONE, Seq::NONE);
            return Some(Event::CopyBehind {
                region,
                upto,
                log_start,
            });
        }
        // The reign alone cannot tell when this home was set back, by a restored backup say: it
        // then writes the same places of the same reign again.
        let is_prefix = upto == Seq::NONE
            || (is_of_reign && own_chain == Some(chain))
            || is_planted(Bug::AttachAnyLog);
        if !is_prefix {
            copy.standing = Standing::Diverged;
            copy.restart_at(Seq::NONE, Seq::NONE);
            return Some(Event::CopyDiverged {
                region,
                epoch,
                upto,
                appended_upto: end,
            });
        }
        let had_upto = copy.durable_upto();
        copy.standing = Standing::Attached;
        copy.restart_at(claim.received_upto, claim.durable_upto);
        copy.keep_within(own.durable);
        let has_upto = copy.durable_upto();
        (has_upto < had_upto).then_some(Event::CopyRegressed {
            region,
            had_upto,
            has_upto,
        })
    }

    /// The copy may restart: what it had only received no longer counts.
    pub(crate) fn detach(&mut self, region: RegionId) -> Option<Event> {
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.region == region) else {
            return Some(Event::UnknownCopy { region });
        };
        if copy.standing == Standing::Attached {
            copy.standing = Standing::Detached;
        }
        let durable_upto = copy.durable_upto();
        copy.restart_at(durable_upto, durable_upto);
        None
    }

    /// A copy says how far it is. Marks only grow, and never beyond the home's own durable one: a
    /// claim within what was appended here counts once the own disk has caught up with it.
    pub(crate) fn ack(
        &mut self,
        claim: Claim,
        epoch: Epoch,
        present: Epoch,
        own: OwnMarks,
    ) -> Option<Event> {
        let Claim {
            region,
            received_upto,
            durable_upto,
        } = claim;
        let Some(copy) = self.copies.iter_mut().find(|copy| copy.region == region) else {
            return Some(Event::UnknownCopy { region });
        };
        let ignored = |cause| Some(Event::AckIgnored { region, cause });
        if epoch != present && !is_planted(Bug::AcksOfAnyReign) {
            return ignored(AckFault::ForeignEpoch { epoch });
        }
        match copy.standing {
            Standing::Detached => return ignored(AckFault::NotAttached),
            Standing::Diverged | Standing::Behind => return ignored(AckFault::NotFollowing),
            Standing::Attached => {}
        }
        let is_possible = own.appended.covers(claim.upto());
        let limit = if is_possible {
            own.appended.upto()
        } else {
            own.durable.upto()
        };
        let said_more = copy.claimed_received.raise(claim.upto().min(limit))
            | copy.claimed_durable.raise(durable_upto.min(limit));
        copy.follow(own.durable);
        if !is_possible {
            return Some(Event::AckClamped {
                region,
                claimed_upto: claim.upto(),
                durable_upto: limit,
            });
        }
        let said_less = claim.upto() < copy.claimed_received.upto()
            || durable_upto < copy.claimed_durable.upto();
        if said_less && !said_more {
            return ignored(AckFault::Regressed {
                received_upto,
                durable_upto,
            });
        }
        None
    }

    /// The home's own disk has caught up with more of what the copies said.
    pub(crate) fn on_durable(&mut self, home_durable: Mark) {
        let attached = |copy: &&mut CopyMarks| copy.standing == Standing::Attached;
        for copy in self.copies.iter_mut().filter(attached) {
            copy.follow(home_durable);
        }
    }

    /// Up to where the copies fulfil `needs`: the k-th best received and the q-th best durable
    /// mark. The home's own mark is the caller's to consider.
    pub(crate) fn met_upto(&self, needs: Needs) -> Option<Seq> {
        let received = self.best(needs.received, CopyMarks::received_upto);
        let durable = self.best(needs.durable, CopyMarks::durable_upto);
        match (received, durable) {
            (Some(received), Some(durable)) => Some(received.min(durable)),
            (one, other) => one.or(other),
        }
    }

    /// The `rank`-th best of a mark; `None` for rank zero, which asks for nothing.
    fn best(&self, rank: usize, mark: fn(&CopyMarks) -> Seq) -> Option<Seq> {
        if rank == 0 {
            return None;
        }
        let count = self.copies.len();
        assert!(rank <= count, "level needs {rank} copies of {count}");
        let mut marks = [Seq::NONE; REGIONS_MAX];
        for (slot, copy) in marks.iter_mut().zip(&self.copies) {
            *slot = mark(copy);
        }
        marks[..count].sort_unstable();
        Some(marks[count - rank])
    }

    /// The furthest durable mark of all copies; `None` if there is no copy.
    pub(crate) fn best_durable(&self) -> Option<Seq> {
        self.copies.iter().map(CopyMarks::durable_upto).max()
    }

    /// The least durable mark of all copies; `None` if there is no copy.
    pub(crate) fn least_durable(&self) -> Option<Seq> {
        self.copies.iter().map(CopyMarks::durable_upto).min()
    }

    /// In how many copies a record is.
    pub(crate) fn achieved(&self, seq: Seq) -> Achieved {
        let count = |mark: fn(&CopyMarks) -> Seq| {
            self.copies.iter().filter(|copy| mark(copy) >= seq).count() as u8
        };
        Achieved {
            received: count(CopyMarks::received_upto),
            durable: count(CopyMarks::durable_upto),
            copies: self.copies.len() as u8,
        }
    }

    /// The regions that hold a record durably.
    pub(crate) fn durable_in(&self, seq: Seq, home_durable: Mark) -> RegionSet {
        let home = if home_durable.covers(seq) {
            RegionSet::EMPTY.with(self.home_index)
        } else {
            RegionSet::EMPTY
        };
        let holding = self.copies.iter().filter(|copy| copy.durable.covers(seq));
        holding.fold(home, |set, copy| set.with(copy.index))
    }
}
