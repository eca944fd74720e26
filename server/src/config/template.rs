//! The file that `config init` writes.
//!
//! **Owns**: its text: every key with its default, commented out where the default stands.
//! **Does not own**: what the keys mean (`keys`).

/// A configuration of one region that works as it is.
pub const TEMPLATE: &str = r#"# Domicile. Every key, unit, default and reason: docs/configuration.md
# Flags are stronger than DOMICILE_* variables, these are stronger than this file.

[cluster]
name = "domicile"
# homes = "static"                # "agreed": a lost home is succeeded; needs three regions
# rtt_max_ms = 200                # the largest round trip between regions
# haste = "default"               # "aggressive": a silent home is given up sooner

[node]
region = "local"                  # which [[region]] this node is
# witness = false                 # true: the region's entry has to say so too
# replaces = "n0123456789abcdef"  # whose disk is lost: this node takes its place
data = "domicile-data"
listen_client = "127.0.0.1:7400"
# listen_peer = "127.0.0.1:7401"  # where other regions dial in; unused with one region
# listen_http = "127.0.0.1:7480"  # metrics and health; "": none
# engine = "sled"                 # above a million keys "fjall"; "memory" is rebuilt at every start
# engine_cache_bytes = 134217728
# overlay_bytes_max = 134217728
# journal_file_bytes = 67108864
# journal_keep_bytes = 536870912
# copy_keep_bytes = 4294967296    # kept for a copy that is away; then it needs a snapshot
# copy_keep_ms = 86400000
# stall_max_ms = 20000            # a commit that takes longer fails the node
# scrub_bytes_per_s = 4194304      # what was written long ago is read again
# scrub_pause_ms = 3600000

# [limits]
# connections_max = 1024
# calls_max = 1024                # at once on one connection
# in_flight_bytes_max = 268435456
# watches_max = 1024
# drain_timeout_ms = 10000

# [log]
# filter = "info,openraft=error"
# format = "text"                 # or "json"

[[region]]
name = "local"

# [[region]]
# name = "eu"
# peer = "10.0.0.7:7401"
# witness = true                  # it votes and holds no data

[[keyspace]]
name = "default"
# regions = ["local"]             # default: all
# placement = { pinned = "local" }                                # all keys at home in one region
# placement = { hash = true }                                     # spread over the regions
# placement = { rule = { "eu-" = "eu" }, otherwise = "local" }    # by prefix of the group
# ack = "async"                   # or "semi-sync", "semi-sync:2", "sync", "sync:2"
# on_timeout = "fail"             # or "degrade", "block"
# ack_timeout_ms = 5000
# max_rpo_writes = 100000         # refuse writes beyond this potential loss; default: no limit
# max_rpo_bytes = 104857600
# max_rpo_ms = 60000
# failover = "promote"            # or "read_only": an operator decides; or "buffer"
# buffer_bytes_max = 67108864     # with "buffer": what a node keeps of writes that wait for a home
# buffer_ms_max = 3600000         # and for how long it takes more of them
# successors = ["local"]          # who comes first among copies that have as much
# buckets = 8
# delimiter = "/"
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::checked::Config;
    use super::super::error::Faults;
    use super::super::given::Given;
    use super::super::keys::KEYS;
    use super::*;

    #[test]
    fn the_template_is_a_valid_configuration() {
        let given = Given::parse(Path::new("domicile.toml"), TEMPLATE).unwrap();
        let config = Config::check(&given, Faults::default()).unwrap();
        assert_eq!(config.node.keyspaces.len(), 1);
        assert_eq!(config.node.listen, None);
    }

    #[test]
    fn the_template_names_every_key() {
        for key in KEYS {
            let last = key.name.rsplit('.').next().unwrap();
            assert!(
                TEMPLATE.contains(&format!("{last} = ")) || last == "id",
                "{} is missing",
                key.name
            );
        }
    }
}
