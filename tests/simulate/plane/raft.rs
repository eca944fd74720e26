//! A small consensus: terms, votes, a log of commands that a majority holds.
//!
//! **Owns**: who leads, what is committed, confirming that a leader still is one.
//! **Does not own**: what commands do (the map), sending (the node). Log and vote are taken to be
//! on disk whenever they are spoken of; that they are is tested elsewhere.

use std::sync::Arc;

use domicile_core::control::Command;

use crate::network::REGIONS;
use crate::packets::Body;

const MAJORITY: usize = REGIONS / 2 + 1;

/// Commands that were put down together.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) commands: Vec<Command>,
}

#[derive(Debug, Clone)]
pub(crate) struct Append {
    pub(crate) term: u64,
    pub(crate) from: usize,
    pub(crate) previous: (usize, u64),
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) commit: usize,
    pub(crate) round: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Appended {
    pub(crate) term: u64,
    pub(crate) from: usize,
    pub(crate) round: u64,
    /// `Err`: the log does not reach there or differs; try before this.
    pub(crate) matched: Result<usize, usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Vote {
    pub(crate) term: u64,
    pub(crate) from: usize,
    pub(crate) last: (u64, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Voted {
    pub(crate) term: u64,
    pub(crate) from: usize,
    pub(crate) granted: bool,
}

#[derive(Debug)]
enum Role {
    Follower,
    Candidate {
        votes: [bool; REGIONS],
    },
    Leader {
        matched: [usize; REGIONS],
        next: [usize; REGIONS],
        rounds: [u64; REGIONS],
    },
}

/// Times of the consensus, in us.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RaftTimes {
    pub(crate) beat_us: u64,
    pub(crate) election_us: u64,
}

/// One voter.
#[derive(Debug)]
pub(crate) struct Raft {
    own: usize,
    times: RaftTimes,
    pub(crate) term: u64,
    voted_for: Option<usize>,
    pub(crate) log: Vec<Arc<Entry>>,
    pub(crate) commit: usize,
    role: Role,
    pub(crate) leader: Option<usize>,
    heard_us: u64,
    beat_at_us: u64,
    round: u64,
}

type Out = Vec<(usize, Body)>;

impl Raft {
    pub(crate) fn new(own: usize, times: RaftTimes, first: Vec<Command>) -> Self {
        let log = vec![Arc::new(Entry {
            term: 0,
            commands: first,
        })];
        Self {
            own,
            times,
            term: 0,
            voted_for: None,
            commit: log.len(),
            log,
            role: Role::Follower,
            leader: None,
            heard_us: 0,
            beat_at_us: 0,
            round: 0,
        }
    }

    /// The process begins anew with what is on disk.
    pub(crate) fn restart(&mut self, now_us: u64, commit: usize) {
        self.role = Role::Follower;
        (self.leader, self.heard_us) = (None, now_us);
        self.commit = commit.min(self.commit);
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader { .. })
    }

    /// Whether what was committed before this lead is known to be.
    pub(crate) fn is_settled(&self) -> bool {
        let last = self.commit.checked_sub(1).and_then(|at| self.log.get(at));
        last.is_some_and(|entry| entry.term == self.term)
    }

    /// The last round that a majority answered in this term.
    pub(crate) fn confirmed_round(&self) -> u64 {
        let Role::Leader { rounds, .. } = &self.role else {
            return 0;
        };
        let mut rounds = *rounds;
        rounds.sort_unstable();
        rounds[REGIONS - MAJORITY]
    }

    /// Asks a majority whether this is still the leader; the round's number.
    pub(crate) fn begin_round(&mut self, now_us: u64, out: &mut Out) -> u64 {
        self.round += 1;
        let (own, round) = (self.own, self.round);
        if let Role::Leader { rounds, .. } = &mut self.role {
            rounds[own] = round;
        }
        self.send_all(now_us, out);
        self.round
    }

    /// Puts commands down, if it leads.
    pub(crate) fn propose(&mut self, now_us: u64, commands: Vec<Command>, out: &mut Out) {
        let (own, term) = (self.own, self.term);
        self.log.push(Arc::new(Entry { term, commands }));
        let len = self.log.len();
        if let Role::Leader { matched, .. } = &mut self.role {
            matched[own] = len;
        }
        self.send_all(now_us, out);
    }

    /// Time passes.
    pub(crate) fn wake(&mut self, now_us: u64, out: &mut Out) {
        if self.is_leader() {
            if now_us >= self.beat_at_us {
                self.send_all(now_us, out);
            }
            return;
        }
        // Disjoint windows, as in the product: no two voters are candidates at once for long.
        let window = self.times.election_us / 4;
        let patience = self.times.election_us + window * self.own as u64;
        if now_us < self.heard_us + patience {
            return;
        }
        self.heard_us = now_us;
        (self.term, self.voted_for, self.leader) = (self.term + 1, Some(self.own), None);
        let mut votes = [false; REGIONS];
        votes[self.own] = true;
        self.role = Role::Candidate { votes };
        let vote = Vote {
            term: self.term,
            from: self.own,
            last: self.last(),
        };
        out.extend(self.others().map(|to| (to, Body::Vote(vote.clone()))));
    }

    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let own = self.own;
        (0..REGIONS).filter(move |to| *to != own)
    }

    fn last(&self) -> (u64, usize) {
        (
            self.log.last().map_or(0, |entry| entry.term),
            self.log.len(),
        )
    }

    fn see_term(&mut self, term: u64) {
        if term > self.term {
            (self.term, self.voted_for, self.leader) = (term, None, None);
            self.role = Role::Follower;
        }
    }

    fn send_all(&mut self, now_us: u64, out: &mut Out) {
        self.beat_at_us = now_us + self.times.beat_us;
        for to in self.others() {
            self.send(to, out);
        }
    }

    fn send(&mut self, to: usize, out: &mut Out) {
        let Role::Leader { next, .. } = &self.role else {
            return;
        };
        let at = next[to];
        let previous = at.checked_sub(1).map_or(0, |at| self.log[at].term);
        let append = Append {
            term: self.term,
            from: self.own,
            previous: (at, previous),
            entries: self.log[at..].to_vec(),
            commit: self.commit,
            round: self.round,
        };
        out.push((to, Body::Append(append)));
    }

    pub(crate) fn on_append(&mut self, now_us: u64, append: Append, out: &mut Out) {
        self.see_term(append.term);
        let (to, round) = (append.from, append.round);
        let answer = |term, from, matched| {
            let answer = Appended {
                term,
                from,
                round,
                matched,
            };
            (to, Body::Appended(answer))
        };
        if append.term < self.term {
            out.push(answer(self.term, self.own, Err(0)));
            return;
        }
        self.role = Role::Follower;
        (self.leader, self.heard_us) = (Some(append.from), now_us);
        let (at, term) = append.previous;
        let here = at
            .checked_sub(1)
            .map(|at| self.log.get(at).map(|it| it.term));
        if here.is_some_and(|here| here != Some(term)) {
            let before = at.saturating_sub(1).min(self.log.len());
            out.push(answer(self.term, self.own, Err(before)));
            return;
        }
        let mut index = at;
        for entry in append.entries {
            if self.log.get(index).is_some_and(|it| it.term != entry.term) {
                assert!(index >= self.commit, "a committed entry is replaced");
                self.log.truncate(index);
            }
            if index == self.log.len() {
                self.log.push(entry);
            }
            index += 1;
        }
        self.commit = self.commit.max(append.commit.min(index));
        out.push(answer(self.term, self.own, Ok(index)));
    }

    pub(crate) fn on_appended(&mut self, answer: Appended, out: &mut Out) {
        self.see_term(answer.term);
        let Role::Leader {
            matched,
            next,
            rounds,
        } = &mut self.role
        else {
            return;
        };
        if answer.term < self.term {
            return;
        }
        let from = answer.from;
        rounds[from] = rounds[from].max(answer.round);
        match answer.matched {
            Ok(upto) => {
                matched[from] = matched[from].max(upto);
                next[from] = next[from].max(upto);
            }
            Err(before) => {
                next[from] = before.max(matched[from]);
                return self.send(from, out);
            }
        }
        let mut held = *matched;
        held.sort_unstable();
        let by_majority = held[REGIONS - MAJORITY];
        let is_own = by_majority > 0 && self.log[by_majority - 1].term == self.term;
        if is_own && by_majority > self.commit {
            self.commit = by_majority;
        }
    }

    pub(crate) fn on_vote(&mut self, now_us: u64, vote: Vote, out: &mut Out) {
        // Whoever hears a leader helps nobody to depose it.
        let hears = self.leader.is_some_and(|leader| leader != vote.from)
            && now_us < self.heard_us + self.times.election_us;
        if hears || (self.is_leader() && vote.term <= self.term) {
            return;
        }
        self.see_term(vote.term);
        let is_free = self.voted_for.is_none_or(|it| it == vote.from);
        let granted = vote.term == self.term && is_free && vote.last >= self.last();
        if granted {
            (self.voted_for, self.heard_us) = (Some(vote.from), now_us);
        }
        let voted = Voted {
            term: self.term,
            from: self.own,
            granted,
        };
        out.push((vote.from, Body::Voted(voted)));
    }

    pub(crate) fn on_voted(&mut self, now_us: u64, voted: Voted, out: &mut Out) {
        self.see_term(voted.term);
        let Role::Candidate { votes } = &mut self.role else {
            return;
        };
        if voted.term < self.term || !voted.granted {
            return;
        }
        votes[voted.from] = true;
        if votes.iter().filter(|vote| **vote).count() < MAJORITY {
            return;
        }
        let (mut matched, next) = ([0; REGIONS], [self.log.len(); REGIONS]);
        matched[self.own] = self.log.len();
        self.role = Role::Leader {
            matched,
            next,
            rounds: [0; REGIONS],
        };
        self.leader = Some(self.own);
        self.propose(now_us, Vec::new(), out);
    }
}
