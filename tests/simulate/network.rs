//! The WAN: every way between two regions, and what it does to packets.
//!
//! **Owns**: delay, jitter, loss, doubling, order, cuts in one direction, connections that break.
//! **Does not own**: who notices (the ends of a stream, by silence).
//!
//! A stream's frames stay in order as on TCP: what is lost is sent again and comes later; across a
//! cut the connection breaks, and nothing more of it arrives in that direction. In a wild run acks,
//! segments and beats are lost, doubled and reordered within a stream as well.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;
use crate::packets::{Body, Frame};

/// Regions of a run.
pub(crate) const REGIONS: usize = 3;

/// What is lost on a stream comes this much later.
const RETRANSMIT_US: u64 = 200_000;

/// One direction between two regions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) delay_us: u64,
    pub(crate) jitter_us: u64,
    pub(crate) loss_permille: u64,
    pub(crate) double_permille: u64,
    pub(crate) is_cut: bool,
}

/// All ways.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) ways: [[Way; REGIONS]; REGIONS],
    pub(crate) is_wild: bool,
    /// When the last frame of a connection's direction arrives.
    last: BTreeMap<(u64, usize), u64>,
    broken: BTreeSet<(u64, usize)>,
    next_conn: u64,
}

impl Network {
    pub(crate) fn new(ways: [[Way; REGIONS]; REGIONS], is_wild: bool) -> Self {
        Self {
            ways,
            is_wild,
            last: BTreeMap::new(),
            broken: BTreeSet::new(),
            next_conn: 0,
        }
    }

    pub(crate) fn new_conn(&mut self) -> u64 {
        self.next_conn += 1;
        self.next_conn
    }

    /// Every connection breaks.
    pub(crate) fn break_all(&mut self) {
        let all = (0..=self.next_conn).flat_map(|conn| (0..REGIONS).map(move |to| (conn, to)));
        self.broken.extend(all);
    }

    /// When a packet arrives: never, once, or twice.
    pub(crate) fn arrivals(
        &mut self,
        now_us: u64,
        (from, to): (usize, usize),
        body: &Body,
        chance: &mut Chance,
    ) -> Vec<u64> {
        let way = self.ways[from][to];
        let delay = way.delay_us + chance.below(way.jitter_us + 1);
        let is_lost = chance.permille(way.loss_permille);
        let is_doubled = chance.permille(way.double_permille);
        match body {
            Body::Stream { conn, frame } => {
                let direction = (*conn, to);
                let is_loose = self.is_wild && is_loose(frame);
                if way.is_cut {
                    self.broken.insert(direction);
                }
                if self.broken.contains(&direction) || (is_loose && is_lost) {
                    return Vec::new();
                }
                if is_loose {
                    let late = now_us + delay + chance.below(3 * way.delay_us + 1000);
                    let once = [now_us + delay, late][chance.below(2) as usize];
                    return if is_doubled {
                        vec![once, late + 1]
                    } else {
                        vec![once]
                    };
                }
                let retransmit = if is_lost { RETRANSMIT_US } else { 0 };
                let last = self.last.entry(direction).or_default();
                *last = (*last + 1).max(now_us + delay + retransmit);
                vec![*last]
            }
            _ if way.is_cut || is_lost => Vec::new(),
            // What callers send is doubled by themselves alone: they know how often they asked.
            Body::Request { .. } | Body::Answer { .. } => vec![now_us + delay],
            _ if is_doubled => vec![now_us + delay, now_us + 2 * delay + 1],
            _ => vec![now_us + delay],
        }
    }
}

fn is_loose(frame: &Frame) -> bool {
    matches!(
        frame,
        Frame::Segments(..) | Frame::Acks(_) | Frame::Beat { .. } | Frame::Echo
    )
}
