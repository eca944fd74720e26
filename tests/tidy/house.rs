//! Rules 22, 26, 27 and 30: what the house as a whole has, and what must not leak into it.
//!
//! **Owns** lints, papers, the registry, and paths that exist on one machine only.
//! **Does not own** which crates depend on which: `imports`.

use crate::source::{Source, Violation};

/// Lints that the workspace must set; each stands for a rule that clippy or rustc checks.
const LINTS: [&str; 10] = [
    "unsafe_code",
    "unreachable_pub",
    "missing_docs",
    "unwrap_used",
    "dbg_macro",
    "todo",
    "unimplemented",
    "print_stdout",
    "print_stderr",
    "await_holding_lock",
];

/// What a visitor looks for first.
const PAPERS: [&str; 4] = ["CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];

/// Where every machine gets its crates; a mirror in the lock file works on one network only.
const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Roots that exist on the machine of one developer, in pieces so that this file has none.
const MACHINE_ROOTS: [&str; 3] = [
    concat!("/wo", "rk/"),
    concat!("/tm", "p/target"),
    concat!("/tm", "p/dom/"),
];

/// Rule 22: every crate takes the lints of the workspace.
pub(crate) fn crate_lints(source: &Source) -> Vec<Violation> {
    let is_crate = source.file_name() == "Cargo.toml" && source.text.contains("[package]");
    let taken =
        section(source, "[lints]").any(|(line, _)| line.replace(' ', "") == "workspace=true");
    if !is_crate || taken {
        return Vec::new();
    }
    vec![source.violation(1, 22, "crate lacks `[lints] workspace = true`")]
}

/// Rule 26: the workspace sets its lints, unsafe code forbidden; none is switched off.
pub(crate) fn workspace_lints(files: &[Source]) -> Vec<Violation> {
    let Some(root) = files.iter().find(|file| file.path == "Cargo.toml") else {
        return vec![Source::new("Cargo.toml", "").violation(
            1,
            26,
            "workspace manifest not found",
        )];
    };
    let rust = section(root, "[workspace.lints.rust]");
    let lints: Vec<_> = rust
        .chain(section(root, "[workspace.lints.clippy]"))
        .collect();
    let level = |lint: &str| {
        let set = lints
            .iter()
            .find(|(line, _)| line.split(['=', ' ']).next() == Some(lint));
        set.map(|(line, _)| line.split_once('=').map_or("", |(_, value)| value.trim()))
    };
    let missing = LINTS
        .iter()
        .filter(|lint| level(lint).is_none_or(|level| level == "\"allow\""));
    let mut found: Vec<_> = missing
        .map(|lint| root.violation(1, 26, format!("workspace lint `{lint}` is not set")))
        .collect();
    if level("unsafe_code").is_some_and(|level| level != "\"forbid\"") {
        found.push(root.violation(1, 26, "`unsafe_code` is not forbidden"));
    }
    found
}

/// Rule 27: the lock file names the public registry only, and no manifest replaces it.
pub(crate) fn registry(source: &Source) -> Vec<Violation> {
    let foreign = |text: &str| match source.file_name() {
        "Cargo.lock" => text.starts_with("source = ") && text != format!("source = \"{REGISTRY}\""),
        "Cargo.toml" | "config.toml" => ["replace-with", "sparse+", "registry ="]
            .iter()
            .any(|sign| text.contains(sign)),
        _ => false,
    };
    let lines = source
        .text
        .lines()
        .zip(1..)
        .filter(|(text, _)| foreign(text));
    lines
        .map(|(text, line)| {
            let message = format!(
                "not the public registry ({}, limit {REGISTRY})",
                text.trim()
            );
            source.violation(line, 27, message)
        })
        .collect()
}

/// Rule 27: no file names a path that exists on one machine only.
pub(crate) fn machine_paths(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    for (text, line) in source.text.lines().zip(1..) {
        for root in MACHINE_ROOTS {
            // `src/work/` and `{dir}/work/` go on from something else: the path is not absolute.
            let absolute = text.match_indices(root).any(|(at, _)| {
                let before = text[..at].chars().next_back();
                !before.is_some_and(|c| c.is_alphanumeric() || "._-~})]*".contains(c))
            });
            if absolute {
                found.push(source.violation(line, 27, format!("path of one machine (`{root}`)")));
            }
        }
    }
    found
}

/// Rule 30: the papers of the house exist.
pub(crate) fn papers(files: &[Source]) -> Vec<Violation> {
    let missing = PAPERS
        .iter()
        .filter(|name| files.iter().all(|file| file.path != **name));
    missing
        .map(|name| Source::new(name, "").violation(1, 30, "file is missing"))
        .collect()
}

/// The lines of one section of a manifest, with their numbers.
fn section<'a>(source: &'a Source, header: &'a str) -> impl Iterator<Item = (&'a str, usize)> {
    let lines = source.text.lines().map(str::trim).zip(1..);
    let after = lines.skip_while(move |(line, _)| *line != header).skip(1);
    after.take_while(|(line, _)| !line.starts_with('['))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{planted, planted_tree};

    const NONE: [&str; 0] = [];

    #[test]
    fn crate_lints_self_test() {
        let clean = "[package]\n[lints]\nworkspace = true\n";
        assert_eq!(planted(crate_lints, "a/Cargo.toml", clean), NONE);
        let found = ["a/Cargo.toml:1: rule 22: crate lacks `[lints] workspace = true`"];
        let bad = "[package]\nversion.workspace = true\n[lints]\n[features]\nworkspace = true\n";
        assert_eq!(planted(crate_lints, "a/Cargo.toml", bad), found);
    }

    #[test]
    fn workspace_lints_self_test() {
        let lints = |level: &str| {
            let lines = LINTS.map(|lint| format!("{lint} = \"{level}\"\n"));
            let (rust, clippy) = lines.split_at(3);
            let sections = ("[workspace.lints.rust]\n", "[workspace.lints.clippy]\n");
            format!(
                "{}{}{}{}",
                sections.0,
                rust.concat(),
                sections.1,
                clippy.concat()
            )
        };
        let clean = lints("forbid");
        assert_eq!(
            planted_tree(workspace_lints, &[("Cargo.toml", &clean)]),
            NONE
        );
        let found = ["Cargo.toml:1: rule 26: workspace lint `todo` is not set"];
        let bad = clean.replace("todo = \"forbid\"\n", "");
        assert_eq!(
            planted_tree(workspace_lints, &[("Cargo.toml", &bad)]),
            found
        );
        let found = ["Cargo.toml:1: rule 26: `unsafe_code` is not forbidden"];
        assert_eq!(
            planted_tree(workspace_lints, &[("Cargo.toml", &lints("warn"))]),
            found
        );
        assert_eq!(
            planted_tree(workspace_lints, &[("Cargo.toml", &lints("allow"))]).len(),
            11
        );
        assert_eq!(planted_tree(workspace_lints, &[]).len(), 1);
    }

    #[test]
    fn registry_self_test() {
        let clean = format!("name = \"a\"\nsource = \"{REGISTRY}\"\n");
        assert_eq!(planted(registry, "Cargo.lock", &clean), NONE);
        let found = [format!(
            "Cargo.lock:2: rule 27: not the public registry \
             (source = \"registry+https://mirror.example/index\", limit {REGISTRY})"
        )];
        let bad = "name = \"a\"\nsource = \"registry+https://mirror.example/index\"\n";
        assert_eq!(planted(registry, "Cargo.lock", bad), found);
        let bad = "[source.crates-io]\nreplace-with = \"mirror\"\n";
        assert_eq!(planted(registry, ".cargo/config.toml", bad).len(), 1);
    }

    #[test]
    fn machine_paths_self_test() {
        for root in MACHINE_ROOTS {
            let clean = format!("see src{root}a, {{dir}}{root}b and https://x.example{root}\n");
            assert_eq!(planted(machine_paths, "README.md", &clean), NONE);
            let found = [format!(
                "README.md:1: rule 27: path of one machine (`{root}`)"
            )];
            assert_eq!(
                planted(machine_paths, "README.md", &format!("see `{root}a`\n")),
                found
            );
        }
    }

    #[test]
    fn papers_self_test() {
        let clean = PAPERS.map(|name| (name, "text"));
        assert_eq!(planted_tree(papers, &clean), NONE);
        let found = ["README.md:1: rule 30: file is missing"];
        assert_eq!(planted_tree(papers, &clean[..3]), found);
    }
}
