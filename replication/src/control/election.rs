//! Calling elections, one voter after the other.
//!
//! **Owns**: when this voter calls one, and asking the others first whether it can win.
//! **Does not own**: the votes (openraft), the numbers (timings).
//!
//! ```text
//!  last beat          lease over at all voters
//!     |------- lease -------|-margin-| rank 0 | rank 1 | rank 2 ...   one slot each
//!                                      '- sounding -> quorum would vote -> term + 1, votes
//! ```
//! openraft's own timer is off. In its place: windows by rank among the voters, the lost leader
//! last, drawn anew for every attempt, and taken from the members as they are now. Before the term
//! is raised the others are asked whether they would vote (a pre-vote, which openraft 0.9 lacks):
//! they would not while they hear a leader, nor for a shorter log. So a voter that was cut off, or
//! was removed without hearing of it, comes back without deposing a leader, and one that is heard
//! but hears nobody does not keep the others from electing. After a vote that was lost all other
//! voters' windows come before the next attempt.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domicile_proto::v1::ControlSounding;
use domicile_proto::v1::control_reply::Reply;
use domicile_proto::v1::control_request::Request;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::core::{Core, View};
use super::raft::{LogId, node};
use super::timings::Timings;
use super::wire::put_id;

/// Rounds of all other voters that a voter lets go first after lost votes; more would only delay
/// the one whose votes were lost by chance.
const ROUNDS_MAX: u32 = 4;

/// When this voter calls its next election.
#[derive(Debug)]
pub(super) struct Elections {
    core: Arc<Core>,
    /// Votes called without a leader since.
    lost: u32,
    /// A share of the window, from 0 to 255.
    draw: u8,
    /// Not before, whatever the silence: the last sounding found no majority.
    not_before: Option<Instant>,
}

impl Elections {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            lost: 0,
            draw: draw(),
            not_before: None,
        }
    }

    /// Looks once, and calls an election if it is time.
    pub(super) async fn look(&mut self, view: &View) {
        if view.vote.committed {
            self.lost = 0;
        }
        let me = self.core.node();
        let is_voter = view.members.voters.contains(&me);
        let early = self
            .not_before
            .is_some_and(|instant| Instant::now() < instant);
        if view.leads || !is_voter || early {
            return;
        }
        let wait = wait(view, me.get(), self.lost, self.draw, &self.core.timings);
        if view.silence < wait {
            return;
        }
        self.draw = draw();
        let replied = sound_out(&self.core, view, view.last).await;
        if !view.is_quorum(&replied.granted) {
            self.not_before = Some(Instant::now() + self.core.timings.slot);
            return;
        }
        // Whoever was heard meanwhile goes first.
        let now = self.core.view().await;
        if now.is_ok_and(|now| now.vote == view.vote && now.silence >= wait) {
            self.lost = (self.lost + 1).min(ROUNDS_MAX);
            tracing::info!(node = %me, silence = ?view.silence, "calling an election");
            // An error says that openraft has stopped, which the next look finds, too.
            let _ = self.core.raft.0.trigger().elect().await;
        }
    }
}

/// For how long nobody must have been heard before `me` calls an election.
fn wait(view: &View, me: u64, lost: u32, draw: u8, timings: &Timings) -> Duration {
    let voters = view.members.voters.len() as u32;
    if voters == 1 {
        return Duration::ZERO;
    }
    let led_by = view.vote.committed.then_some(view.vote.leader_id.node_id);
    let before = view.members.voters.iter().filter(|voter| {
        let voter = voter.get();
        if Some(me) == led_by {
            voter != me
        } else {
            voter < me && Some(voter) != led_by
        }
    });
    let rank = before.count() as u32;
    let begin = if view.vote.committed {
        timings.lease + timings.margin
    } else {
        timings.campaign()
    };
    let jitter = timings.slot / 4 * u32::from(draw) / 256;
    begin + timings.slot * (rank + lost * voters) + jitter
}

fn draw() -> u8 {
    // The hasher's keys come from the operating system's randomness.
    RandomState::new().hash_one(0_u8) as u8
}

/// Who answered a sounding, this node included.
#[derive(Debug, Default)]
pub(super) struct Replied {
    pub(super) answered: BTreeSet<u64>,
    pub(super) granted: BTreeSet<u64>,
}

/// Asks all voters whether they would vote for a log that ends with `last`.
pub(super) async fn sound_out(core: &Core, view: &View, last: Option<LogId>) -> Replied {
    let me = core.node();
    let mut replied = Replied::default();
    replied.answered.insert(me.get());
    replied.granted.insert(me.get());
    let others = view.members.voters.iter().filter(|voter| **voter != me);
    let mut asked: FuturesUnordered<_> = others
        .filter_map(|voter| {
            let member = view.members.members.get(voter)?;
            let last = last.as_ref().map(put_id);
            let request = Request::Sounding(ControlSounding { last });
            let within = core.timings.interval;
            Some(async move {
                (
                    *voter,
                    core.calls.ask(Some(*voter), member, request, within).await,
                )
            })
        })
        .collect();
    while let Some((voter, reply)) = asked.next().await {
        let Ok(Reply::Sounding(reply)) = reply else {
            continue;
        };
        replied.answered.insert(voter.get());
        if reply.granted {
            replied.granted.insert(voter.get());
        }
        if view.is_quorum(&replied.granted) {
            break;
        }
    }
    replied
}

/// Whether this node would vote for a log that ends with `last`: it hears no leader, and has no
/// longer log. Changes nothing.
pub(super) fn grants(core: &Core, view: &View, last: Option<LogId>) -> bool {
    let follows = view.vote.committed
        && node(view.vote.leader_id.node_id) != Some(core.node())
        && view.silence < core.timings.lease;
    let leads = view.leads && !core.muted.load(Ordering::Relaxed);
    !follows && !leads && last >= view.last
}

#[cfg(test)]
mod tests {
    use domicile_proto::{NodeId, RegionId};

    use super::super::member::{Member, Members};
    use super::super::raft::Vote;
    use super::super::timings::Pace;
    use super::*;

    fn view(voters: &[u64], leader: u64, committed: bool) -> View {
        let member = Member {
            region: RegionId::new(1).unwrap(),
            addresses: Vec::new(),
        };
        let ids = voters.iter().map(|id| NodeId::new(*id).unwrap());
        let members = Members {
            voters: ids.clone().collect(),
            members: ids.map(|id| (id, member.clone())).collect(),
            changing: false,
        };
        let mut vote = Vote::new(3, leader);
        vote.committed = committed;
        View {
            leads: false,
            vote,
            silence: Duration::ZERO,
            last: None,
            configurations: vec![voters.iter().copied().collect()],
            members,
        }
    }

    /// Whatever is drawn and whoever led, no two voters' windows are closer than the vote of the
    /// first needs to reach the second; the lost leader comes last.
    #[test]
    fn windows_are_disjoint_for_every_set_of_voters() {
        for rtt_ms in [1, 80, 300] {
            let timings = Timings::new(Duration::from_millis(rtt_ms), Pace::Steady);
            for voters in [&[1, 2][..], &[3, 5, 9], &[1, 2, 3, 4, 5]] {
                for leader in voters.iter().copied().chain([77]) {
                    for committed in [true, false] {
                        let view = view(voters, leader, committed);
                        check_windows(&view, voters, &timings);
                    }
                }
            }
        }
    }

    fn check_windows(view: &View, voters: &[u64], timings: &Timings) {
        let mut windows: Vec<_> = voters
            .iter()
            .map(|me| {
                let first = wait(view, *me, 0, 0, timings);
                (first, wait(view, *me, 0, u8::MAX, timings), *me)
            })
            .collect();
        windows.sort_unstable();
        for pair in windows.windows(2) {
            assert!(
                pair[1].0 >= pair[0].1 + timings.rtt_max * 3 / 2,
                "{windows:?}"
            );
        }
        let leader = view.vote.leader_id.node_id;
        if view.vote.committed && voters.contains(&leader) {
            assert_eq!(windows.last().unwrap().2, leader);
            assert!(windows[0].0 > timings.lease);
        }
        // A lost vote lets everyone else try first.
        let again = wait(view, windows[0].2, 1, 0, timings);
        assert!(windows.iter().all(|window| again > window.1));
    }

    #[test]
    fn the_only_voter_waits_for_nobody() {
        let timings = Timings::new(Duration::from_millis(80), Pace::Steady);
        assert_eq!(
            wait(&view(&[4], 4, true), 4, 3, 9, &timings),
            Duration::ZERO
        );
    }

    #[test]
    fn a_quorum_is_one_of_both_sets_while_they_change() {
        let mut view = view(&[1, 2, 3, 4], 1, true);
        view.configurations = vec![[1, 2, 3].into(), [2, 3, 4].into()];
        assert!(view.is_quorum(&[2, 3].into()));
        assert!(!view.is_quorum(&[1, 2].into()));
        view.configurations.clear();
        assert!(!view.is_quorum(&[1, 2, 3, 4].into()));
    }
}
