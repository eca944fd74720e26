//! How far the regions of a run are from each other.
//!
//! **Owns**: reading and checking the distances that were asked for.
//! **Does not own**: making bytes late (`wan`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use domicile_proto::Name;

/// The most regions that a run on one machine starts: each is a process. Doubled, two cores carry
/// as many servers and what is measured is their scheduler.
pub(super) const REGIONS_MAX: usize = 8;

/// The longest round trip: the diameter of the earth in fibre, four times. Doubled, the bounds of
/// all waits here are too short.
pub const RTT_MAX: Duration = Duration::from_secs(1);

/// Why distances cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RttError {
    /// No region, or too many, or one twice.
    #[error(
        "{regions} regions of which {distinct} distinct, allowed 1 to {REGIONS_MAX}, no duplicates"
    )]
    Regions {
        /// Listed.
        regions: usize,
        /// Distinct among them.
        distinct: usize,
    },
    /// A region whose name is outside the grammar.
    #[error("{0}")]
    Name(String),
    /// A part of the text that is neither a time nor a pair with a time.
    #[error("invalid round trip {actual:?}: expected MS or A:B=MS,..., at most 1000 ms")]
    Text {
        /// That part.
        actual: String,
    },
    /// A pair names a region that is not in the list.
    #[error("unknown region {actual:?}")]
    UnknownRegion {
        /// The name.
        actual: String,
    },
    /// A pair without a time.
    #[error("no round trip between {a} and {b}")]
    Missing {
        /// One of them.
        a: String,
        /// The other.
        b: String,
    },
}

/// The round trips between all pairs of some regions.
#[derive(Clone, Debug)]
pub struct Rtts {
    regions: Vec<String>,
    by_pair: BTreeMap<(String, String), Duration>,
}

impl Rtts {
    /// Reads "80" (all pairs) or "a:b=66,a:c=64,b:c=146" (milliseconds; "80,a:b=10" overrides).
    ///
    /// # Errors
    /// [`RttError`], with the part that is wrong.
    pub fn parse(regions: &[String], text: &str) -> Result<Self, RttError> {
        let mut distinct = regions.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        if distinct.len() != regions.len() || !(1..=REGIONS_MAX).contains(&regions.len()) {
            return Err(RttError::Regions {
                regions: regions.len(),
                distinct: distinct.len(),
            });
        }
        for region in regions {
            Name::new(region.clone()).map_err(|error| RttError::Name(error.to_string()))?;
        }
        let (mut all, mut by_pair) = (None, BTreeMap::new());
        for part in text.split(',').map(str::trim) {
            match part.split_once('=') {
                None => all = Some(time(part, part)?),
                Some((pair, rtt)) => {
                    let wrong = || RttError::Text {
                        actual: part.to_owned(),
                    };
                    let (a, b) = pair.split_once(':').ok_or_else(wrong)?;
                    if a == b {
                        return Err(wrong());
                    }
                    for name in [a, b] {
                        if !regions.iter().any(|region| region == name) {
                            let actual = name.to_owned();
                            return Err(RttError::UnknownRegion { actual });
                        }
                    }
                    by_pair.insert(unordered(a, b), time(rtt, part)?);
                }
            }
        }
        for (at, a) in regions.iter().enumerate() {
            for b in &regions[at + 1..] {
                let missing = || RttError::Missing {
                    a: a.clone(),
                    b: b.clone(),
                };
                if let Entry::Vacant(pair) = by_pair.entry(unordered(a, b)) {
                    pair.insert(all.ok_or_else(missing)?);
                }
            }
        }
        let regions = regions.to_vec();
        Ok(Self { regions, by_pair })
    }

    /// The regions in the order given; the first is the home where one has to be chosen.
    #[must_use]
    pub fn regions(&self) -> &[String] {
        &self.regions
    }

    /// The regions other than `region`.
    pub fn others<'a>(&'a self, region: &'a str) -> impl Iterator<Item = &'a str> {
        let regions = self.regions.iter().map(String::as_str);
        regions.filter(move |other| *other != region)
    }

    /// The round trip between two regions; zero from a region to itself.
    #[must_use]
    pub fn between(&self, a: &str, b: &str) -> Duration {
        self.by_pair
            .get(&unordered(a, b))
            .copied()
            .unwrap_or_default()
    }

    /// Each pair once, with its round trip.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str, Duration)> {
        let pairs = self.by_pair.iter();
        pairs.map(|((a, b), rtt)| (a.as_str(), b.as_str(), *rtt))
    }
}

fn time(text: &str, part: &str) -> Result<Duration, RttError> {
    let ms = text.trim().trim_end_matches("ms").trim().parse::<f64>();
    let rtt = ms
        .ok()
        .and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
    match rtt {
        Some(rtt) if rtt <= RTT_MAX => Ok(rtt),
        _ => Err(RttError::Text {
            actual: part.to_owned(),
        }),
    }
}

fn unordered(a: &str, b: &str) -> (String, String) {
    let (first, second) = if a < b { (a, b) } else { (b, a) };
    (first.to_owned(), second.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regions() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_time_or_one_for_each_pair() {
        let rtts = Rtts::parse(&regions(), "80").unwrap();
        assert_eq!(rtts.between("a", "c"), ms(80));
        assert_eq!(rtts.pairs().count(), 3);
        let rtts = Rtts::parse(&regions(), "a:b=66, c:a=64ms,b:c=146").unwrap();
        assert_eq!(rtts.between("b", "a"), ms(66));
        assert_eq!(rtts.between("a", "c"), ms(64));
        assert_eq!(rtts.between("a", "a"), ms(0));
        let rtts = Rtts::parse(&regions(), "80,b:a=0.5").unwrap();
        assert_eq!(rtts.between("a", "b"), Duration::from_micros(500));
        assert_eq!(rtts.others("b").collect::<Vec<_>>(), ["a", "c"]);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |text: &str| Rtts::parse(&regions(), text).unwrap_err().to_string();
        assert!(refused("a:b=66").contains("between a and c"));
        for text in ["", "x", "-1", "1e9", "a-b=3", "a:a=3", "80,a:b=", "NaN"] {
            assert!(refused(text).contains("invalid round trip"), "{text}");
        }
        assert!(refused("a:d=3").contains("unknown region \"d\""));
        let twice = ["a", "a"].map(str::to_owned);
        assert!(Rtts::parse(&twice, "80").is_err());
        assert!(Rtts::parse(&[], "80").is_err());
        let bad = ["a", "B"].map(str::to_owned);
        assert!(Rtts::parse(&bad, "80").is_err());
    }
}
