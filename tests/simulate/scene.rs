//! What everybody in a run shares: true time, the queue, the network, chance, and who looks on.
//!
//! **Owns**: sending, the trace and its hash, the first invariant that is broken.
//! **Does not own**: the machines (`world`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::chance::Chance;
use crate::network::{Network, REGIONS};
use crate::packets::{Body, Packet, Place};
use crate::plan::Plan;
use crate::queue::{Event, Queue};
use crate::truth::Truth;

/// Lines of the trace that a failure shows.
const TRACE_LINES: usize = 400;

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) invariant: &'static str,
    pub(crate) problem: String,
}

/// How much of a trace is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tracing {
    /// Its hash alone.
    Hash,
    /// The last lines.
    Last,
    /// Every line, printed as it comes.
    All,
}

pub(crate) struct Scene {
    pub(crate) now_us: u64,
    pub(crate) queue: Queue,
    pub(crate) network: Network,
    pub(crate) chance: Chance,
    pub(crate) plan: Arc<Plan>,
    pub(crate) truth: Truth,
    pub(crate) broken: Option<Violation>,
    pub(crate) tracing: Tracing,
    pub(crate) lines: VecDeque<String>,
    pub(crate) hash: u64,
}

impl Scene {
    pub(crate) fn new(plan: Arc<Plan>, chance: Chance, tracing: Tracing) -> Self {
        Self {
            now_us: 0,
            queue: Queue::default(),
            network: Network::new(plan.ways, plan.is_wild),
            chance,
            truth: Truth::default(),
            plan,
            broken: None,
            tracing,
            lines: VecDeque::new(),
            hash: 0,
        }
    }

    pub(crate) fn after(&mut self, us: u64, event: Event) {
        self.queue.push(self.now_us + us, event);
    }

    pub(crate) fn send(&mut self, from: Place, to: Place, body: Body) {
        let way = (region_of(from), region_of(to));
        let (now_us, chance) = (self.now_us, &mut self.chance);
        let arrivals = self.network.arrivals(now_us, way, &body, chance);
        for at_us in arrivals {
            let body = body.clone();
            let packet = Box::new(Packet { from, to, body });
            self.queue.push(at_us, Event::Arrive(packet));
        }
    }

    /// The first thing that is wrong ends the run.
    pub(crate) fn fail(&mut self, invariant: &'static str, problem: String) {
        self.note(|| format!("!!! {invariant}: {problem}"));
        self.broken.get_or_insert(Violation { invariant, problem });
    }

    /// A line of the trace, made only if somebody reads it.
    #[allow(clippy::print_stdout, reason = "the trace of a run")]
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.tracing == Tracing::Hash {
            return;
        }
        let line = format!("{:>12.6} {}", self.now_us as f64 / 1e6, line());
        if self.tracing == Tracing::All {
            println!("{line}");
            return;
        }
        if self.lines.len() == TRACE_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// Something that must be the same in every run of a seed.
    pub(crate) fn mix(&mut self, number: u64) {
        let mixed = (self.hash ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash = mixed ^ (mixed >> 29);
    }
}

fn region_of(place: Place) -> usize {
    match place {
        Place::Node(index) => index,
        Place::Client(index) => index % REGIONS,
    }
}
