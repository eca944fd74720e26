//! Rule 7: imports go one way, and a dependency is named in one module only.
//!
//! **Owns** the two tables: which crate sees which, and which room names which dependency.
//! **Does not own** what the core may not name at all: `purity`.
//!
//! ```text
//! proto <- replication/core <- replication <- server <- domicile     client <- server's cli only
//! proto <- storage <---------'                                 core and storage: strangers
//! ```

use crate::source::{Source, Violation};
use crate::syntax;

/// One crate of the workspace: its package, its folder, and the packages it may name.
struct Crate {
    package: &'static str,
    dir: &'static str,
    sees: &'static [&'static str],
}

const CRATES: [Crate; 7] = [
    Crate {
        package: "domicile-proto",
        dir: "proto",
        sees: &[],
    },
    Crate {
        package: "domicile-core",
        dir: "replication/core",
        sees: &["domicile-proto"],
    },
    Crate {
        package: "domicile-storage",
        dir: "storage",
        sees: &["domicile-proto"],
    },
    Crate {
        package: "domicile-replication",
        dir: "replication",
        sees: &["domicile-proto", "domicile-core", "domicile-storage"],
    },
    Crate {
        package: "domicile-client",
        dir: "client",
        sees: &["domicile-proto"],
    },
    Crate {
        package: "domicile-server",
        dir: "server",
        sees: &[
            "domicile-proto",
            "domicile-storage",
            "domicile-replication",
            "domicile-client",
        ],
    },
    Crate {
        package: "domicile",
        dir: "",
        sees: &["domicile-proto", "domicile-replication", "domicile-server"],
    },
];

/// Whether a whole room may name a dependency, or one file in it only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    Room,
    OneFile,
}

/// The dependencies that have one room (or one a crate): what names them can be replaced there.
const NAMED: [(&str, &[&str], Share); 14] = [
    ("sled", &["storage/src/engine/sled.rs"], Share::OneFile),
    ("object_store", &["server/src/backup/"], Share::OneFile),
    ("openraft", &["replication/src/control/"], Share::Room),
    ("zstd", &["replication/src/"], Share::OneFile),
    ("twox_hash", &["proto/src/"], Share::OneFile),
    ("uuid", &["client/src/", "replication/src/"], Share::OneFile),
    ("toml", &["server/src/config/"], Share::Room),
    ("clap", &["server/src/cli/"], Share::Room),
    ("clap_complete", &["server/src/cli/"], Share::Room),
    ("clap_mangen", &["server/src/cli/"], Share::Room),
    ("indicatif", &["server/src/cli/"], Share::Room),
    ("comfy_table", &["server/src/cli/"], Share::Room),
    ("hdrhistogram", &["server/src/bench/"], Share::Room),
    // `bench` and `demo` are verbs of the command line with rooms of their own.
    (
        "domicile_client",
        &["server/src/cli/", "server/src/bench/", "server/src/demo/"],
        Share::Room,
    ),
];

/// The folders of the crates, the root as an empty name.
pub(crate) fn crate_dirs() -> impl Iterator<Item = &'static str> {
    CRATES.iter().map(|each| each.dir)
}

/// Rule 7: a manifest depends only on what its crate may see; the root's tests may see all.
pub(crate) fn manifest(source: &Source) -> Vec<Violation> {
    if source.file_name() != "Cargo.toml" {
        return Vec::new();
    }
    let dir = source
        .path
        .strip_suffix("Cargo.toml")
        .unwrap_or_default()
        .trim_end_matches('/');
    let Some(home) = CRATES.iter().find(|each| each.dir == dir) else {
        return vec![source.violation(1, 7, "crate is not in the table of who sees whom")];
    };
    let (mut found, mut section) = (Vec::new(), "");
    for (text, line) in source.text.lines().zip(1..) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.starts_with('[') {
            section = text;
        }
        let free =
            section.starts_with("[workspace") || (dir.is_empty() && section.contains("dev-"));
        if free || !section.contains("dependencies") {
            continue;
        }
        let words = text.split(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
        for name in words.filter(|word| is_ours(word)) {
            if !home.sees.contains(&name) {
                let message = format!("`{}` may not depend on `{name}`", home.package);
                found.push(source.violation(line, 7, message));
            }
        }
    }
    found
}

/// Rule 7: no path names a crate that may not be seen from there.
pub(crate) fn paths(source: &Source) -> Vec<Violation> {
    let inside = |each: &&Crate| {
        let below = source.path.strip_prefix(each.dir);
        each.dir.is_empty() || below.is_some_and(|rest| rest.starts_with('/'))
    };
    let Some(home) = CRATES
        .iter()
        .filter(inside)
        .max_by_key(|each| each.dir.len())
    else {
        return Vec::new();
    };
    if home.dir.is_empty() && source.is_test_file() {
        return Vec::new();
    }
    let named = syntax::paths(&source.tokens);
    let hidden = named.iter().filter_map(|path| {
        let name = path.root().replace('_', "-");
        let seen = !is_ours(&name) || name == home.package || home.sees.contains(&&*name);
        let message = format!("`{}` may not name `{}`", home.package, path.root());
        (!seen).then(|| source.violation(path.line, 7, message))
    });
    hidden.collect()
}

/// Rule 7: a dependency of the table is named in its room only.
pub(crate) fn named_dependencies(files: &[Source]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (dependency, rooms, share) in NAMED {
        let mut holders: Vec<(&str, &str)> = Vec::new();
        for source in files.iter().filter(|source| source.is_crate_code()) {
            let Some(line) = first_naming(source, dependency) else {
                continue;
            };
            let Some(room) = rooms.iter().find(|room| source.path.starts_with(**room)) else {
                let message = format!("`{dependency}` is named outside {}", rooms.join(", "));
                found.push(source.violation(line, 7, message));
                continue;
            };
            match holders.iter().find(|(held, _)| held == room) {
                Some((_, holder)) if share == Share::OneFile => {
                    let message =
                        format!("`{dependency}` is already named in {holder} (2 files, limit 1)");
                    found.push(source.violation(line, 7, message));
                }
                _ => holders.push((room, &source.path)),
            }
        }
    }
    found
}

/// The line that names `dependency` first, unless a module of this file has its name.
fn first_naming(source: &Source, dependency: &str) -> Option<usize> {
    let mut pairs = source.tokens.windows(2);
    if pairs.any(|pair| pair[0].is("mod") && pair[1].is(dependency)) {
        return None;
    }
    let paths = syntax::paths(&source.tokens);
    let named = paths.iter().filter(|path| path.root() == dependency);
    named
        .map(|path| path.line)
        .find(|line| !source.is_test_line(*line))
}

fn is_ours(package: &str) -> bool {
    package.starts_with("domicile-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{planted, planted_tree};

    const NONE: [&str; 0] = [];

    #[test]
    fn manifest_self_test() {
        let text = "[package]\nname = \"domicile-core\"\n[dependencies]\n\
                    domicile-proto.workspace = true\ndisk = { package = \"domicile-storage\" }\n";
        let found = ["replication/core/Cargo.toml:5: rule 7: \
                      `domicile-core` may not depend on `domicile-storage`"];
        assert_eq!(
            planted(manifest, "replication/core/Cargo.toml", text),
            found
        );
        assert_eq!(planted(manifest, "replication/Cargo.toml", text), NONE);
        let dev = "[dev-dependencies.domicile-core]\nworkspace = true\n";
        assert_eq!(planted(manifest, "Cargo.toml", dev), NONE);
        assert_eq!(planted(manifest, "storage/Cargo.toml", dev).len(), 1);
        let found = ["attic/Cargo.toml:1: rule 7: crate is not in the table of who sees whom"];
        assert_eq!(planted(manifest, "attic/Cargo.toml", dev), found);
    }

    #[test]
    fn paths_self_test() {
        let text = "use domicile_proto::Seq;\nfn f() {\n    domicile_storage::g()\n}\n";
        let found = ["replication/core/src/a.rs:3: rule 7: \
                      `domicile-core` may not name `domicile_storage`"];
        assert_eq!(planted(paths, "replication/core/src/a.rs", text), found);
        assert_eq!(planted(paths, "src/lib.rs", text).len(), 1);
        assert_eq!(
            planted(paths, "storage/src/a.rs", "use domicile_core;").len(),
            1
        );
        for path in [
            "replication/src/a.rs",
            "server/src/a.rs",
            "storage/tests/a.rs",
            "tests/a.rs",
        ] {
            assert_eq!(planted(paths, path, text), NONE, "{path}");
        }
    }

    #[test]
    fn named_dependencies_self_test() {
        let clean = [
            ("storage/src/engine/sled.rs", "use sled::Db;"),
            (
                "storage/src/engine/mod.rs",
                "mod sled;\npub use sled::Engine;",
            ),
            (
                "storage/src/a.rs",
                "use crate::engine::sled::E; // sled::Db\n#[cfg(test)]\nuse sled;",
            ),
            ("client/src/id.rs", "use uuid::Uuid;"),
            ("replication/src/id.rs", "use uuid::Uuid;"),
            ("server/src/cli/a.rs", "use clap::Args;"),
            ("server/src/cli/b.rs", "use clap::Args;"),
        ];
        assert_eq!(planted_tree(named_dependencies, &clean), NONE);
        let bad = [
            ("storage/src/a.rs", "\nuse {std::fs, ::sled::Db};"),
            ("replication/src/id.rs", "use uuid::Uuid;"),
            ("replication/src/node.rs", "fn f() { uuid::Uuid::nil(); }"),
        ];
        let found = [
            "storage/src/a.rs:2: rule 7: `sled` is named outside storage/src/engine/sled.rs",
            "replication/src/node.rs:1: rule 7: `uuid` is already named in replication/src/id.rs \
             (2 files, limit 1)",
        ];
        assert_eq!(planted_tree(named_dependencies, &bad), found);
    }
}
