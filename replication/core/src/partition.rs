//! One partition on one node: the crate's public noun.
//!
//! **Owns**: the entrance to both roles, the rule that time does not go back.
//! **Does not own**: what the roles do (`home`, `copy`).

use domicile_proto::{ChainHash, Epoch, NodeId, Position, RegionId, RequestId, Seq};

use crate::config::{ConfigError, PartitionConfig};
use crate::copy::Copy;
use crate::effect::Effect;
use crate::home::{Home, Phase};
use crate::input::Input;
use crate::moment::Moment;
use crate::receipt::Outcome;
use crate::recovered::Recovered;
use crate::refusal::Refusal;
use crate::session::{SessionStanding, reign_at, session_standing};
use crate::status::{PartitionStatus, Role, Standing};

/// One partition, as a pure state machine: no clock, no disk, no network, no chance.
///
/// - Marks only grow: visible <= durable <= appended (or received), between any two steps.
/// - Every ticket is answered by exactly one reply, however the partition ends.
/// - A receipt is given only when its level is met, or says that it is degraded.
/// - What is visible is met: at the keyspace's level, or degraded on record.
#[derive(Debug)]
pub struct Partition {
    now: Moment,
    state: State,
}

#[derive(Debug)]
enum State {
    Home(Box<Home>),
    Copy(Box<Copy>),
}

impl Partition {
    /// A partition whose home this node is. Step [`Input::Tick`] once after it: what recovery
    /// allows at once (ship, visible) comes out of the first step.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration or what was recovered cannot be.
    pub fn home(
        config: PartitionConfig,
        recovered: Recovered,
        now: Moment,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        check_home(&config)?;
        let home = Home::open(config, recovered, now)?;
        Ok(Self {
            now,
            state: State::Home(Box::new(home)),
        })
    }

    /// A partition that this node follows, be its home in another region or at another node of this
    /// one. Step [`Input::Tick`] once after it.
    ///
    /// # Errors
    /// [`ConfigError`]: the configuration cannot be.
    pub fn copy(
        config: PartitionConfig,
        recovered: Recovered,
        now: Moment,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let copy = Copy::open(config, recovered, now);
        Ok(Self {
            now,
            state: State::Copy(Box::new(copy)),
        })
    }

    /// Takes one input and appends what is to be done about it to `effects`, in order.
    ///
    /// A `now` before the last one counts as the last one.
    pub fn step(&mut self, now: Moment, input: Input, effects: &mut Vec<Effect>) {
        self.now = self.now.max(now);
        match &mut self.state {
            State::Home(home) => home.step(self.now, input, effects),
            State::Copy(copy) => copy.step(input, effects),
        }
    }

    /// Until then no other node may acknowledge in this one's place: as [`Input::Lease`], but what
    /// that sets free waits for the next step.
    pub fn renew_lease(&mut self, until: Moment) {
        if let State::Home(home) = &mut self.state {
            home.lease_until = home.lease_until.max(Some(until));
        }
    }

    /// When to step [`Input::Tick`], unless another step moves it. `None`: not before another step.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Moment> {
        match &self.state {
            State::Home(home) => home.next_timeout(self.now),
            State::Copy(copy) => copy.next_timeout(),
        }
    }

    /// Whether this node may serve reads of the newest, and up to where they see.
    ///
    /// # Errors
    /// [`Refusal::NotHome`]; [`Refusal::Recovering`] while something that was visible before a
    /// restart may not be so yet: try again; [`Refusal::NoLease`], [`Refusal::Fenced`],
    /// [`Refusal::Poisoned`].
    pub fn read_gate(&self, now: Moment) -> Result<Seq, Refusal> {
        match &self.state {
            State::Home(home) => home.read_gate(now),
            State::Copy(copy) => copy.read_gate(),
        }
    }

    /// Whether this home may say what its log comes to, visible or not, to a copy that waits for it
    /// and shows nothing of it before it is visible: its own records may be waiting for that copy.
    ///
    /// # Errors
    /// As [`Partition::read_gate`], but for [`Refusal::Recovering`].
    pub fn heal_gate(&self, now: Moment) -> Result<(), Refusal> {
        match &self.state {
            State::Home(home) => home.heal_gate(now),
            State::Copy(copy) => copy.read_gate().map(drop),
        }
    }

    /// What became of a request. A copy knows none.
    #[must_use]
    pub fn outcome(&self, request_id: RequestId) -> Outcome {
        match &self.state {
            State::Home(home) => home.outcome(request_id),
            State::Copy(_) => Outcome::Unknown,
        }
    }

    /// The partition at a glance, with ages as of `now`.
    #[must_use]
    pub fn status(&self, now: Moment) -> PartitionStatus {
        match &self.state {
            State::Home(home) => home.status(self.now.max(now)),
            State::Copy(copy) => copy.status(),
        }
    }

    /// What it is here.
    #[must_use]
    pub fn role(&self) -> Role {
        match &self.state {
            State::Home(_) => Role::Home,
            State::Copy(_) => Role::Copy,
        }
    }

    /// Its policy.
    #[must_use]
    pub fn config(&self) -> &PartitionConfig {
        match &self.state {
            State::Home(home) => &home.config,
            State::Copy(copy) => copy.config(),
        }
    }

    /// The home's reign; at a copy that of its last record.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match &self.state {
            State::Home(home) => Some(home.epochs.present()),
            State::Copy(copy) => copy.epoch(),
        }
    }

    /// Every reign of the log with its first record, oldest first; at a home the last is its own,
    /// which may have no record yet. What is not on disk so far is included.
    #[must_use]
    pub fn reigns(&self) -> &[(Epoch, Seq)] {
        match &self.state {
            State::Home(home) => home.epochs.firsts(),
            State::Copy(copy) => copy.reigns(),
        }
    }

    /// The place of a record in the history, by which a session remembers it.
    #[must_use]
    pub fn position(&self, seq: Seq) -> Option<Position> {
        let epoch = reign_at(self.reigns(), seq).or_else(|| self.epoch());
        let epoch = epoch.filter(|_| seq > Seq::NONE)?;
        Some(Position { epoch, seq })
    }

    /// How the log stands to what a session has seen.
    #[must_use]
    pub fn session_standing(&self, seen: Position) -> SessionStanding {
        session_standing(self.reigns(), self.appended_upto(), seen)
    }

    /// The last record appended (home) or received (copy).
    #[must_use]
    pub fn appended_upto(&self) -> Seq {
        self.marks().0
    }

    /// The last record that the home is known to have had, be it here or not: at a copy, what it
    /// was told is visible there.
    #[must_use]
    pub fn home_upto(&self) -> Seq {
        match &self.state {
            State::Home(_) => self.appended_upto(),
            State::Copy(copy) => copy.home_upto(),
        }
    }

    /// The last record on disk here.
    #[must_use]
    pub fn durable_upto(&self) -> Seq {
        self.marks().1
    }

    /// The last record that readers may see here.
    #[must_use]
    pub fn visible_upto(&self) -> Seq {
        self.marks().2
    }

    /// The last record that this node may claim to hold: once the store has failed, what was only
    /// received will never be durable.
    #[must_use]
    pub fn held_upto(&self) -> Seq {
        if self.is_poisoned() {
            self.durable_upto()
        } else {
            self.appended_upto()
        }
    }

    /// Whether the store has failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        match &self.state {
            State::Home(home) => home.phase == Phase::Poisoned,
            State::Copy(copy) => copy.is_poisoned(),
        }
    }

    /// At a home that has ended its reign: the node that follows.
    #[must_use]
    pub fn handed_to(&self) -> Option<NodeId> {
        match &self.state {
            State::Home(home) => match home.phase {
                Phase::HandedOn(to) => Some(to),
                _ => None,
            },
            State::Copy(_) => None,
        }
    }

    /// At the home: how a copy stands; `None` for a region that holds none.
    #[must_use]
    pub fn standing(&self, region: RegionId) -> Option<Standing> {
        match &self.state {
            State::Home(home) => home.acks.standing(region),
            State::Copy(_) => None,
        }
    }

    /// At a copy: the chain hash after the last record received.
    #[must_use]
    pub fn chain(&self) -> Option<ChainHash> {
        match &self.state {
            State::Home(_) => None,
            State::Copy(copy) => Some(copy.chain()),
        }
    }

    fn marks(&self) -> (Seq, Seq, Seq) {
        match &self.state {
            State::Home(home) => (
                home.appended.upto(),
                home.durable.upto(),
                home.visible.upto(),
            ),
            State::Copy(copy) => copy.marks(),
        }
    }
}

fn check_home(config: &PartitionConfig) -> Result<(), ConfigError> {
    let (home_region, own_region) = (config.home_region, config.own_region);
    if home_region == own_region {
        return Ok(());
    }
    Err(ConfigError::Role {
        opened_as: "home",
        home_region,
        own_region,
    })
}
