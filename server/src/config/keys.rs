//! Every key with its unit, its default and the reason for it.
//!
//! **Owns**: what `docs/configuration.md` and `config show` say of a key.
//! **Does not own**: reading values (`given`), checking them (`checked`).

/// One key of the configuration.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// Dotted; `[]` stands for each entry of a list.
    pub name: &'static str,
    /// What its value is.
    pub unit: &'static str,
    /// What holds when it is not given.
    pub default: &'static str,
    /// Why that is the default, or what the key is for.
    pub reason: &'static str,
}

#[cfg(test)]
impl Key {
    /// A value that it takes and that is not its default.
    pub(crate) fn sample(&self) -> &'static str {
        match self.unit {
            "true, false" => "true",
            _ => "17",
        }
    }
}

const fn key(
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    reason: &'static str,
) -> Key {
    Key {
        name,
        unit,
        default,
        reason,
    }
}

/// All keys, in the order of the file.
pub const KEYS: &[Key] = &[
    key(
        "cluster.name",
        "name",
        "domicile",
        "nodes of another cluster are refused",
    ),
    key(
        "cluster.homes",
        "text",
        "static",
        "static: each partition in its region for ever; agreed: a lost home is succeeded",
    ),
    key(
        "cluster.rtt_max_ms",
        "ms",
        "200",
        "the largest round trip between regions: leases and elections follow from it",
    ),
    key(
        "cluster.haste",
        "text",
        "default",
        "default or aggressive: how soon a silent home is given up",
    ),
    key(
        "node.region",
        "name",
        "the only region",
        "which of the regions this node is",
    ),
    key(
        "node.witness",
        "true, false",
        "false",
        "says that the own region is a witness, as a check against its entry",
    ),
    key(
        "node.replaces",
        "node id",
        "none",
        "the node of this region whose disk is lost and whose place this one takes",
    ),
    key(
        "node.data",
        "path",
        "domicile-data",
        "holds journal, cells and the lock",
    ),
    key(
        "node.listen_client",
        "address:port",
        "127.0.0.1:7400",
        "no door is open unasked",
    ),
    key(
        "node.listen_peer",
        "address:port",
        "127.0.0.1:7401",
        "only with several regions",
    ),
    key(
        "node.listen_http",
        "address:port",
        "127.0.0.1:7480",
        "metrics and health; empty: none",
    ),
    key(
        "node.engine",
        "sled, fjall, memory",
        "sled",
        "above a million keys fjall (decision 0007); a change fills it anew",
    ),
    key(
        "node.engine_cache_bytes",
        "bytes",
        "134217728",
        "cells read often; the rest is the kernel's",
    ),
    key(
        "node.overlay_bytes_max",
        "bytes",
        "134217728",
        "cells not in the engine yet; bounds replay",
    ),
    key(
        "node.journal_file_bytes",
        "bytes",
        "67108864",
        "preallocated: fdatasync is faster then",
    ),
    key(
        "node.journal_keep_bytes",
        "bytes",
        "536870912",
        "above it what nobody needs is deleted",
    ),
    key(
        "node.copy_keep_bytes",
        "bytes",
        "4294967296",
        "kept for a copy; above it: a snapshot",
    ),
    key(
        "node.copy_keep_ms",
        "ms",
        "86400000",
        "age of what is kept for a copy",
    ),
    key(
        "node.stall_max_ms",
        "ms",
        "20000",
        "a commit that takes longer fails the node",
    ),
    key(
        "node.scrub_bytes_per_s",
        "bytes/s",
        "4194304",
        "reads the disk again; 0: not at all",
    ),
    key(
        "node.scrub_pause_ms",
        "ms",
        "3600000",
        "between two such passes",
    ),
    key(
        "limits.connections_max",
        "count",
        "1024",
        "clients at once; more wait in the kernel",
    ),
    key(
        "limits.calls_max",
        "count",
        "1024",
        "calls at once on a connection; more wait",
    ),
    key(
        "limits.in_flight_bytes_max",
        "bytes",
        "268435456",
        "unanswered writes; then OVERLOADED",
    ),
    key(
        "limits.watches_max",
        "count",
        "1024",
        "watches at once on a node; then OVERLOADED",
    ),
    key(
        "limits.drain_timeout_ms",
        "ms",
        "10000",
        "what calls may take once the node closes",
    ),
    key(
        "log.filter",
        "directives",
        "info,openraft=error",
        "as RUST_LOG: info,domicile_server=debug",
    ),
    key(
        "log.format",
        "text, json",
        "text",
        "people first; json for collectors",
    ),
    key(
        "region[].name",
        "name",
        "required",
        "1 to 63 of a-z 0-9 - _",
    ),
    key(
        "region[].id",
        "1 to 65535",
        "from the name",
        "only where two names collide",
    ),
    key(
        "region[].peer",
        "host:port",
        "required, but for the own region",
        "where it is dialled",
    ),
    key(
        "region[].witness",
        "true, false",
        "false",
        "it votes and holds no data",
    ),
    key(
        "keyspace[].name",
        "name",
        "required",
        "1 to 63 of a-z 0-9 - _",
    ),
    key(
        "keyspace[].regions",
        "names",
        "all regions",
        "who may hold the data, and does",
    ),
    key(
        "keyspace[].placement",
        "table",
        "pinned to the first region",
        "which region is home",
    ),
    key(
        "keyspace[].ack",
        "level",
        "async",
        "async, semi-sync[:k] or sync[:quorum]",
    ),
    key(
        "keyspace[].on_timeout",
        "fail, degrade, block",
        "fail",
        "the answer that hides nothing",
    ),
    key(
        "keyspace[].ack_timeout_ms",
        "ms",
        "5000",
        "above any round trip, below patience",
    ),
    key(
        "keyspace[].max_rpo_writes",
        "count",
        "none",
        "writes at risk before new ones are refused",
    ),
    key(
        "keyspace[].max_rpo_bytes",
        "bytes",
        "none",
        "the same in bytes",
    ),
    key("keyspace[].max_rpo_ms", "ms", "none", "the same in time"),
    key(
        "keyspace[].failover",
        "promote, read_only, buffer",
        "promote",
        "whether a lost home is succeeded by itself or by an operator's word; buffer: as \
         read_only, and writes wait at the node that took them",
    ),
    key(
        "keyspace[].buffer_bytes_max",
        "8388608 to 4294967296",
        "67108864",
        "with buffer: what a node keeps of the keyspace's writes; beyond it they are refused",
    ),
    key(
        "keyspace[].buffer_ms_max",
        "1 to 604800000 ms",
        "3600000",
        "with buffer: the age of the oldest of them; beyond it further ones are refused",
    ),
    key(
        "keyspace[].successors",
        "names",
        "in the order of regions",
        "who comes first among copies that have as much",
    ),
    key(
        "keyspace[].buckets",
        "1 to 1024",
        "8",
        "partitions a region; fixed for ever",
    ),
    key(
        "keyspace[].delimiter",
        "one byte",
        "/",
        "ends the group within a key; fixed for ever",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_keys_has_every_key_with_its_default() {
        let page = include_str!("../../../docs/configuration.md");
        for Key {
            name,
            unit,
            default,
            reason,
        } in KEYS
        {
            let row = format!("| `{name}` | {unit} | {default} | {reason} |");
            assert!(
                page.lines().any(|line| line == row),
                "docs/configuration.md lacks {row}"
            );
        }
        // Tables of keys have four columns, the others three.
        let is_key = |line: &&str| line.starts_with("| `") && line.matches('|').count() == 5;
        let rows = page.lines().filter(is_key).count();
        assert_eq!(
            rows,
            KEYS.len(),
            "docs/configuration.md has rows of keys that do not exist"
        );
    }
}
