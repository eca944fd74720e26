//! What a second terminal may do to a running demo, as one line of text.
//!
//! **Owns**: the verbs, their text and what they do to the regions.
//! **Does not own**: how the line gets there (`control`).

use std::fmt::Write;
use std::time::Duration;

use crate::rig::{Cluster, RTT_MAX, Stop, Table};

/// A verb with its regions.
#[derive(Clone, Debug, PartialEq)]
pub enum Chaos {
    /// List the regions and links.
    Ls,
    /// Kill a server.
    Kill(String),
    /// Start a server that is down.
    Restart(String),
    /// Cut all links of a region, or those between two.
    Cut(String, Option<String>),
    /// Heal them.
    Heal(String, Option<String>),
    /// Change a round trip, in ms.
    Rtt(String, String, f64),
}

impl Chaos {
    /// The line that says it.
    #[must_use]
    pub fn line(&self) -> String {
        let pair = |verb: &str, region: &str, other: &Option<String>| match other {
            Some(other) => format!("{verb} {region} {other}"),
            None => format!("{verb} {region}"),
        };
        match self {
            Self::Ls => "ls".to_owned(),
            Self::Kill(region) => format!("kill {region}"),
            Self::Restart(region) => format!("restart {region}"),
            Self::Cut(region, other) => pair("cut", region, other),
            Self::Heal(region, other) => pair("heal", region, other),
            Self::Rtt(region, other, ms) => format!("rtt {region} {other} {ms}"),
        }
    }

    /// The inverse of [`Chaos::line`]; `None` for a line that says nothing known.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let owned = |word: &str| word.to_owned();
        match words[..] {
            ["ls"] => Some(Self::Ls),
            ["kill", region] => Some(Self::Kill(owned(region))),
            ["restart", region] => Some(Self::Restart(owned(region))),
            ["cut", region] => Some(Self::Cut(owned(region), None)),
            ["cut", region, other] => Some(Self::Cut(owned(region), Some(owned(other)))),
            ["heal", region] => Some(Self::Heal(owned(region), None)),
            ["heal", region, other] => Some(Self::Heal(owned(region), Some(owned(other)))),
            ["rtt", region, other, ms] => {
                let ms = ms.parse().ok()?;
                Some(Self::Rtt(owned(region), owned(other), ms))
            }
            _ => None,
        }
    }

    /// Does it, and says what is now.
    ///
    /// # Errors
    /// No such region, or a server that does not start.
    pub fn apply(&self, cluster: &mut Cluster, stop: &Stop) -> anyhow::Result<String> {
        let done = match self {
            Self::Ls => return listing(cluster),
            Self::Kill(region) => {
                cluster.kill(region)?;
                format!("{region} is killed")
            }
            Self::Restart(region) => {
                cluster.start_server(region)?;
                let time = cluster.wait_until_ready(region, stop)?;
                format!("{region} answers after {time:.2?}")
            }
            Self::Cut(region, None) => {
                cluster.wan().isolate(region)?;
                format!("all links of {region} are cut")
            }
            Self::Cut(region, Some(other)) => {
                cluster.wan().cut_between(region, other)?;
                format!("the links between {region} and {other} are cut")
            }
            Self::Heal(region, None) => {
                cluster.wan().heal(region)?;
                format!("all links of {region} are healed")
            }
            Self::Heal(region, Some(other)) => {
                cluster.wan().heal_between(region, other)?;
                format!("the links between {region} and {other} are healed")
            }
            Self::Rtt(region, other, ms) => {
                let rtt = Duration::try_from_secs_f64(ms / 1000.0);
                let rtt = rtt.ok().filter(|rtt| *rtt <= RTT_MAX);
                let Some(rtt) = rtt else {
                    anyhow::bail!(
                        "round trip is {ms} ms, allowed 0 to {}",
                        RTT_MAX.as_millis()
                    );
                };
                cluster.wan().set_rtt(region, other, rtt)?;
                format!("the round trip between {region} and {other} is {ms} ms")
            }
        };
        Ok(done)
    }
}

fn listing(cluster: &Cluster) -> anyhow::Result<String> {
    let mut regions = Table::new(&["region", "server", "endpoint"]).left(3);
    for region in cluster.rtts().regions() {
        let server = match cluster.pid(region)? {
            Some(pid) => format!("pid {pid}"),
            None => "down".to_owned(),
        };
        regions.row([region.clone(), server, cluster.endpoint(region)?]);
    }
    let mut links = Table::new(&["link", "RTT ms", "connections", "bytes in flight"]);
    for (a, b, _) in cluster.rtts().pairs() {
        for (from, to) in [(a, b), (b, a)] {
            let link = cluster.wan().link(from, to)?;
            let (stats, rtt) = (link.stats(), link.conditions().rtt());
            let in_flight = stats.forward_buffered_bytes + stats.backward_buffered_bytes;
            links.row([
                format!("{from} -> {to}"),
                format!("{:.1}", rtt.as_secs_f64() * 1000.0),
                stats.connections_open.to_string(),
                in_flight.to_string(),
            ]);
        }
    }
    let mut text = String::new();
    write!(text, "{regions}\n\n{links}").expect("a string takes all text");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_read_back() {
        let (a, b) = ("eu".to_owned(), "us".to_owned());
        for chaos in [
            Chaos::Ls,
            Chaos::Kill(a.clone()),
            Chaos::Restart(a.clone()),
            Chaos::Cut(a.clone(), None),
            Chaos::Cut(a.clone(), Some(b.clone())),
            Chaos::Heal(a.clone(), None),
            Chaos::Heal(a.clone(), Some(b.clone())),
            Chaos::Rtt(a, b, 12.5),
        ] {
            assert_eq!(Chaos::parse(&chaos.line()), Some(chaos));
        }
        for line in ["", "kill", "kill a b", "rtt a b", "rtt a b x", "stop a"] {
            assert_eq!(Chaos::parse(line), None, "{line}");
        }
    }
}
