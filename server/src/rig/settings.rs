//! The configuration files of the servers that a run starts.
//!
//! **Owns**: their text.
//! **Does not own**: what the keys mean (`config`).

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use domicile_replication::Haste;

use super::rtts::Rtts;

/// A keyspace of the run, in all its regions.
#[derive(Clone, Debug)]
pub struct KeyspacePlan {
    /// Its name.
    pub name: String,
    /// When its writes are acknowledged: "async", "semi-sync", "sync".
    pub ack: String,
    /// Where its keys are at home.
    pub home: HomePlan,
    /// Partitions a region; `None`: the default.
    pub buckets: Option<u16>,
}

/// Where keys are at home.
#[derive(Clone, Debug)]
pub enum HomePlan {
    /// All in one region.
    Pinned(String),
    /// In the region whose name and a dash the key begins with; others in the first region.
    ByPrefix,
}

/// Whether homes may change.
#[derive(Clone, Copy, Debug, Default)]
pub enum HomesPlan {
    /// Each stays where it was born.
    #[default]
    Static,
    /// The regions agree on them: a lost one is succeeded.
    Agreed {
        /// The longest round trip, in ms.
        rtt_max_ms: u64,
        /// Whether a silent home is given up as soon as is safe.
        is_aggressive: bool,
    },
}

impl HomesPlan {
    /// The regions agree on homes, in times that the longest way between two of them allows.
    #[must_use]
    pub fn agreed(rtts: &Rtts, haste: Haste) -> Self {
        let longest = rtts.pairs().map(|(_, _, rtt)| rtt).max();
        let longest_ms = longest.unwrap_or_default().as_millis();
        Self::Agreed {
            rtt_max_ms: u64::try_from(longest_ms).unwrap_or(u64::MAX).max(1),
            is_aggressive: haste == Haste::Aggressive,
        }
    }
}

/// One server of the run.
#[derive(Clone, Debug)]
pub(super) struct ServerPlan {
    pub(super) region: String,
    pub(super) data: PathBuf,
    pub(super) client_address: SocketAddr,
    pub(super) peer_address: SocketAddr,
    /// The others with the address at which this one reaches them: a link, not their own.
    pub(super) peers: Vec<(String, SocketAddr)>,
}

/// The text of the file for one server.
pub(super) fn settings(
    server: &ServerPlan,
    keyspaces: &[KeyspacePlan],
    homes: HomesPlan,
) -> String {
    let ServerPlan {
        region,
        data,
        client_address,
        peer_address,
        peers,
    } = server;
    // A debug text escapes quotes and backslashes as the format wants them.
    let data = data.display().to_string();
    let homes = match homes {
        HomesPlan::Static => String::new(),
        HomesPlan::Agreed {
            rtt_max_ms,
            is_aggressive,
        } => {
            let haste = if is_aggressive {
                "aggressive"
            } else {
                "default"
            };
            format!("homes = \"agreed\"\nrtt_max_ms = {rtt_max_ms}\nhaste = \"{haste}\"\n")
        }
    };
    let mut text = format!(
        "[cluster]\nname = \"rig\"\n{homes}\n[node]\nregion = {region:?}\ndata = {data:?}\n\
         listen_client = \"{client_address}\"\nlisten_peer = \"{peer_address}\"\n\
         listen_http = \"\"\n"
    );
    let mut add = |part: String| text.write_str(&part).expect("a string takes all text");
    // The same order everywhere: servers whose regions or policies differ refuse each other.
    let mut regions: Vec<(&str, Option<SocketAddr>)> = vec![(region, None)];
    for (peer, address) in peers {
        regions.push((peer, Some(*address)));
    }
    regions.sort_unstable();
    for (name, address) in &regions {
        add(format!("\n[[region]]\nname = {name:?}\n"));
        if let Some(address) = address {
            add(format!("peer = \"{address}\"\n"));
        }
    }
    for plan in keyspaces {
        let KeyspacePlan { name, ack, .. } = plan;
        let placement = match &plan.home {
            HomePlan::Pinned(region) => format!("{{ pinned = {region:?} }}"),
            HomePlan::ByPrefix => {
                let rule = |(name, _): &(&str, _)| {
                    let prefix = format!("{name}-");
                    format!("{prefix:?} = {name:?}")
                };
                let rules: Vec<_> = regions.iter().map(rule).collect();
                let (rules, otherwise) = (rules.join(", "), regions[0].0);
                format!("{{ rule = {{ {rules} }}, otherwise = {otherwise:?} }}")
            }
        };
        add(format!(
            "\n[[keyspace]]\nname = {name:?}\nplacement = {placement}\nack = {ack:?}\n"
        ));
        if let Some(buckets) = plan.buckets {
            add(format!("buckets = {buckets}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(region: &str, peer: &str) -> ServerPlan {
        ServerPlan {
            region: region.to_owned(),
            data: PathBuf::from("/a \"quoted\" place"),
            client_address: "127.0.0.1:7400".parse().unwrap(),
            peer_address: "127.0.0.1:7401".parse().unwrap(),
            peers: vec![(peer.to_owned(), "127.0.0.1:9000".parse().unwrap())],
        }
    }

    #[test]
    fn the_text_is_as_the_server_reads_it() {
        let keyspaces = [
            KeyspacePlan {
                name: "users".to_owned(),
                ack: "async".to_owned(),
                home: HomePlan::ByPrefix,
                buckets: None,
            },
            KeyspacePlan {
                name: "pinned".to_owned(),
                ack: "sync".to_owned(),
                home: HomePlan::Pinned("eu".to_owned()),
                buckets: Some(32),
            },
        ];
        let text = settings(&plan("us", "eu"), &keyspaces, HomesPlan::Static);
        for part in [
            "data = \"/a \\\"quoted\\\" place\"\n",
            "[[region]]\nname = \"eu\"\npeer = \"127.0.0.1:9000\"\n\n[[region]]\nname = \"us\"\n",
            "placement = { rule = { \"eu-\" = \"eu\", \"us-\" = \"us\" }, otherwise = \"eu\" }",
            "placement = { pinned = \"eu\" }\nack = \"sync\"\nbuckets = 32\n",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        // What must be alike everywhere is: all but the addresses of peers.
        let policies = |text: &str| {
            let from = text.find("[[region]]").unwrap();
            let lines = text[from..]
                .lines()
                .filter(|line| !line.starts_with("peer"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            policies(&text),
            policies(&settings(&plan("eu", "us"), &keyspaces, HomesPlan::Static))
        );
    }
}
