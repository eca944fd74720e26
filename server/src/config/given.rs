//! The configuration as given: every key optional, nothing checked but its type.
//!
//! **Owns**: the shape of the file, and telling of keys that do not exist.
//! **Does not own**: defaults and ranges (`checked`), other sources (`layers`).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::ConfigError;
use super::nearest::nearest;

/// A file, as given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Given {
    #[serde(default)]
    pub(super) cluster: ClusterGiven,
    #[serde(default)]
    pub(super) node: NodeGiven,
    #[serde(default)]
    pub(super) limits: LimitsGiven,
    #[serde(default)]
    pub(super) log: LogGiven,
    #[serde(default)]
    pub(super) region: Vec<RegionGiven>,
    #[serde(default)]
    pub(super) keyspace: Vec<KeyspaceGiven>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClusterGiven {
    pub(super) name: Option<String>,
    pub(super) homes: Option<String>,
    pub(super) rtt_max_ms: Option<u64>,
    pub(super) haste: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeGiven {
    pub(super) region: Option<String>,
    pub(super) witness: Option<bool>,
    pub(super) replaces: Option<String>,
    pub(super) data: Option<String>,
    pub(super) listen_client: Option<String>,
    pub(super) listen_peer: Option<String>,
    pub(super) listen_http: Option<String>,
    pub(super) engine: Option<String>,
    pub(super) engine_cache_bytes: Option<u64>,
    pub(super) overlay_bytes_max: Option<u64>,
    pub(super) journal_file_bytes: Option<u64>,
    pub(super) journal_keep_bytes: Option<u64>,
    pub(super) copy_keep_bytes: Option<u64>,
    pub(super) copy_keep_ms: Option<u64>,
    pub(super) stall_max_ms: Option<u64>,
    pub(super) scrub_bytes_per_s: Option<u64>,
    pub(super) scrub_pause_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsGiven {
    pub(super) connections_max: Option<u64>,
    pub(super) calls_max: Option<u64>,
    pub(super) in_flight_bytes_max: Option<u64>,
    pub(super) watches_max: Option<u64>,
    pub(super) drain_timeout_ms: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LogGiven {
    pub(super) filter: Option<String>,
    pub(super) format: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RegionGiven {
    pub(super) name: String,
    pub(super) id: Option<u16>,
    pub(super) peer: Option<String>,
    pub(super) witness: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyspaceGiven {
    pub(crate) name: String,
    pub(crate) regions: Option<Vec<String>>,
    pub(crate) placement: Option<PlacementGiven>,
    pub(crate) ack: Option<String>,
    pub(crate) on_timeout: Option<String>,
    pub(crate) ack_timeout_ms: Option<u64>,
    pub(crate) max_rpo_writes: Option<u64>,
    pub(crate) max_rpo_bytes: Option<u64>,
    pub(crate) max_rpo_ms: Option<u64>,
    pub(crate) failover: Option<String>,
    pub(crate) buffer_bytes_max: Option<u64>,
    pub(crate) buffer_ms_max: Option<u64>,
    pub(crate) successors: Option<Vec<String>>,
    pub(crate) buckets: Option<u16>,
    pub(crate) delimiter: Option<String>,
}

/// Exactly one of `pinned`, `hash` and `rule`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlacementGiven {
    pub(crate) pinned: Option<String>,
    pub(crate) hash: Option<bool>,
    pub(crate) rule: Option<BTreeMap<String, String>>,
    pub(crate) otherwise: Option<String>,
}

impl Given {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] with the line, and the key that was probably meant.
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let before = text.as_bytes().get(..start).unwrap_or_default();
            let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
            let message = suggest(error.message());
            ConfigError::Syntax {
                path: path.to_owned(),
                line,
                message,
            }
        })
    }
}

/// serde says ``unknown field `a`, expected one of `b`, `c` ``: adds the one that is nearest.
fn suggest(message: &str) -> String {
    let Some(rest) = message.strip_prefix("unknown field `") else {
        return message.to_owned();
    };
    let mut words = rest.split('`');
    let unknown = words.next().unwrap_or_default();
    let known = words.skip(1).step_by(2);
    let expected = rest.split_once("`, ").map_or("", |(_, expected)| expected);
    match nearest(unknown, known) {
        Some(meant) => format!("unknown key `{unknown}`, did you mean `{meant}`?"),
        None => format!("unknown key `{unknown}`, {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Given::parse(Path::new("domicile.toml"), text)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn unknown_keys_are_refused_with_their_line_and_the_nearest_key() {
        assert_eq!(
            refused("[node]\nregion = \"eu\"\nlisten_clent = \"a\"\n"),
            "domicile.toml:3: unknown key `listen_clent`, did you mean `listen_client`?"
        );
        let refused_section = refused("[nodes]\nregion = \"eu\"\n");
        assert!(
            refused_section.contains("`nodes`, did you mean `node`?"),
            "{refused_section}"
        );
        let stranger = refused("[cluster]\ncolour = 1\n");
        assert!(
            stranger.contains("unknown key `colour`, expected one of `name`"),
            "{stranger}"
        );
        let nested = refused("[[keyspace]]\nname = \"a\"\nplacement = { pined = \"eu\" }\n");
        assert!(
            nested.contains(":3: unknown key `pined`, did you mean `pinned`?"),
            "{nested}"
        );
    }

    #[test]
    fn wrong_types_and_bad_syntax_have_a_line() {
        assert!(refused("[node]\ndata = 7\n").starts_with("domicile.toml:2: invalid type"));
        assert!(refused("\n\n[node\n").starts_with("domicile.toml:3: "));
        assert!(refused("[[region]]\npeer = \"a:1\"\n").contains("missing field `name`"));
    }
}
