//! The links of a set of regions: one for every ordered pair.
//!
//! **Owns** the links by name, and the faults that concern a region or a pair of regions.
//!
//! **Does not own** the nodes behind the links, nor when a fault begins and ends.
//!
//! The link from a to b is the one that a dials: its forward way leads to b. Bytes from a to b also
//! take the backward way of the link from b to a, so a fault between regions concerns both links.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::conditions::LinkConditions;
use super::error::WanError;
use super::lane::Direction;
use super::link::{Control, Link};

/// The most regions of a mesh: 32 make 992 links, each with a socket and a thread.
///
/// Doubled, the links quadruple and the sockets pass the usual limit of a process.
pub const REGIONS_MAX: usize = 32;

/// The two ends of a link of a mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where the link listens; port 0 picks one.
    pub listen: SocketAddr,
    /// Where the link leads, or `None` until [`Wan::set_target`] or [`Link::set_target`].
    pub target: Option<SocketAddr>,
}

impl Route {
    /// A route to `target` from a free port of 127.0.0.1.
    #[must_use]
    pub fn to(target: SocketAddr) -> Self {
        Self {
            target: Some(target),
            ..Self::later()
        }
    }

    /// A route from a free port of 127.0.0.1 to a target that is not known yet. Until it is, its
    /// connections end as with an unreachable target.
    #[must_use]
    pub fn later() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            target: None,
        }
    }
}

/// A named set of links between regions.
#[derive(Debug)]
pub struct Wan {
    regions: BTreeSet<String>,
    /// By the region that dials and the region that is dialled.
    links: BTreeMap<(String, String), Link>,
    isolated: Mutex<BTreeSet<String>>,
}

impl Wan {
    /// Opens a link for every ordered pair of the regions named in `rtts`, which lists each
    /// unordered pair once with its round-trip time. `route` is asked for (from, to) of each link.
    ///
    /// # Errors
    ///
    /// A pair is missing or repeated, there are too many regions, or a link cannot be opened.
    pub fn mesh(
        rtts: &[(&str, &str, Duration)],
        mut route: impl FnMut(&str, &str) -> Route,
    ) -> Result<Self, WanError> {
        let regions: BTreeSet<String> = rtts
            .iter()
            .flat_map(|&(a, b, _)| [a.to_owned(), b.to_owned()])
            .collect();
        if regions.len() > REGIONS_MAX {
            return Err(WanError::TooManyRegions {
                actual: regions.len(),
                limit: REGIONS_MAX,
            });
        }
        let mut rtt_by_pair = BTreeMap::new();
        for &(a, b, rtt) in rtts {
            if a == b || rtt_by_pair.insert(unordered(a, b), rtt).is_some() {
                return Err(WanError::RepeatedRtt {
                    a: a.to_owned(),
                    b: b.to_owned(),
                });
            }
        }
        let mut links = BTreeMap::new();
        for from in &regions {
            for to in regions.iter().filter(|to| *to != from) {
                let rtt =
                    *rtt_by_pair
                        .get(&unordered(from, to))
                        .ok_or_else(|| WanError::MissingRtt {
                            a: from.clone(),
                            b: to.clone(),
                        })?;
                let Route { listen, target } = route(from, to);
                let conditions = LinkConditions::with_rtt(rtt);
                let link = Link::open_seeded(listen, target, conditions, links.len() as u64)?;
                links.insert((from.clone(), to.clone()), link);
            }
        }
        Ok(Self {
            regions,
            links,
            isolated: Mutex::default(),
        })
    }

    /// The names of the regions, in order.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.iter().map(String::as_str)
    }

    /// The link that `from` dials to reach `to`.
    ///
    /// # Errors
    ///
    /// There are no such regions, or they are the same.
    pub fn link(&self, from: &str, to: &str) -> Result<&Link, WanError> {
        self.links
            .get(&(from.to_owned(), to.to_owned()))
            .ok_or_else(|| WanError::UnknownLink {
                from: from.to_owned(),
                to: to.to_owned(),
            })
    }

    /// Leads every link to `region` to `target`, for a region that one address serves.
    ///
    /// # Errors
    ///
    /// There is no such region.
    pub fn set_target(&self, region: &str, target: SocketAddr) -> Result<(), WanError> {
        self.known(region)?;
        let links = self.links.iter().filter(|((_, to), _)| to == region);
        links.for_each(|(_, link)| link.set_target(target));
        Ok(())
    }

    /// Changes the round-trip time between two regions, in both links and split evenly.
    ///
    /// # Errors
    ///
    /// There are no such regions, or the time is out of range.
    pub fn set_rtt(&self, a: &str, b: &str, rtt: Duration) -> Result<(), WanError> {
        for link in [self.link(a, b)?, self.link(b, a)?] {
            link.update_conditions(|conditions| conditions.at_rtt(rtt))?;
        }
        Ok(())
    }

    /// Cuts all links of a region, from it and to it, at one instant: see [`Link::cut`].
    ///
    /// # Errors
    ///
    /// There is no such region.
    pub fn isolate(&self, region: &str) -> Result<(), WanError> {
        self.known(region)?;
        let mut isolated = self.isolated();
        isolated.insert(region.to_owned());
        self.locked(|from, to| from == region || to == region)
            .iter_mut()
            .for_each(|(_, control)| control.cut());
        Ok(())
    }

    /// Black-holes all links of a region, from it and to it, at one instant: nothing flows and
    /// nobody is told, see [`Link::black_hole`].
    ///
    /// # Errors
    ///
    /// There is no such region.
    pub fn silence(&self, region: &str) -> Result<(), WanError> {
        self.known(region)?;
        let mut isolated = self.isolated();
        isolated.insert(region.to_owned());
        for (_, control) in &mut self.locked(|from, to| from == region || to == region) {
            for direction in Direction::BOTH {
                control.hold(direction);
            }
        }
        Ok(())
    }

    /// Ends all faults on the links of a region, at one instant, except on links to a region that
    /// is itself still isolated or silenced.
    ///
    /// # Errors
    ///
    /// There is no such region.
    pub fn heal(&self, region: &str) -> Result<(), WanError> {
        self.known(region)?;
        let mut isolated = self.isolated();
        isolated.remove(region);
        self.locked(|from, to| {
            (from == region && !isolated.contains(to)) || (to == region && !isolated.contains(from))
        })
        .iter_mut()
        .for_each(|(_, control)| control.heal());
        Ok(())
    }

    /// Cuts the links between two regions, at one instant: see [`Link::cut`].
    ///
    /// # Errors
    ///
    /// There are no such regions.
    pub fn cut_between(&self, a: &str, b: &str) -> Result<(), WanError> {
        self.pair(a, b)?
            .iter_mut()
            .for_each(|(_, control)| control.cut());
        Ok(())
    }

    /// Holds all bytes from one region to another, whoever dialled; the other way flows: see
    /// [`Link::cut_forward`].
    ///
    /// # Errors
    ///
    /// There are no such regions.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<(), WanError> {
        for (dialler, control) in &mut self.pair(from, to)? {
            let direction = if *dialler == from {
                Direction::Forward
            } else {
                Direction::Backward
            };
            control.hold(direction);
        }
        Ok(())
    }

    /// Ends all faults on the links between two regions, at one instant.
    ///
    /// # Errors
    ///
    /// There are no such regions.
    pub fn heal_between(&self, a: &str, b: &str) -> Result<(), WanError> {
        self.pair(a, b)?
            .iter_mut()
            .for_each(|(_, control)| control.heal());
        Ok(())
    }

    fn pair(&self, a: &str, b: &str) -> Result<Vec<(&str, MutexGuard<'_, Control>)>, WanError> {
        self.link(a, b)?;
        Ok(self.locked(|from, to| (from == a && to == b) || (from == b && to == a)))
    }

    /// The chosen links with the region that dials, all locked, so that what is done to them takes
    /// effect at one instant. Always locked in the same order, which excludes a deadlock.
    fn locked(&self, chosen: impl Fn(&str, &str) -> bool) -> Vec<(&str, MutexGuard<'_, Control>)> {
        self.links
            .iter()
            .filter(|((from, to), _)| chosen(from, to))
            .map(|((from, _), link)| (from.as_str(), link.control()))
            .collect()
    }

    fn known(&self, region: &str) -> Result<(), WanError> {
        if self.regions.contains(region) {
            return Ok(());
        }
        Err(WanError::UnknownRegion {
            region: region.to_owned(),
        })
    }

    fn isolated(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.isolated
            .lock()
            .expect("nothing panics while it holds the isolated regions")
    }
}

fn unordered<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    if a < b { (a, b) } else { (b, a) }
}
