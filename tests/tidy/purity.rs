//! Rule 10: the core is a function of its inputs; nothing in it waits, reads a clock, or guesses.
//!
//! **Owns** the list of what the core may not name, its tests apart.
//! **Does not own** which crates it may see: `imports`.

use crate::source::{Source, Violation};
use crate::syntax;

/// The core crate; everything in it must run the same way twice.
const CORE: &str = "replication/core/src/";

/// Roots that bring in a clock, a disk, a network, a thread or chance.
const FORBIDDEN_PATHS: [&[&str]; 12] = [
    &["std", "env"],
    &["std", "fs"],
    &["std", "io"],
    &["std", "net"],
    &["std", "process"],
    &["std", "sync", "mpsc"],
    &["std", "thread"],
    &["futures"],
    &["getrandom"],
    &["rand"],
    &["rustix"],
    &["tokio"],
];

/// Types whose order of iteration changes from run to run.
const FORBIDDEN_WORDS: [&str; 3] = ["HashMap", "HashSet", "RandomState"];

/// Rule 10: the code of the core names nothing that could differ between two runs.
pub(crate) fn core(source: &Source) -> Vec<Violation> {
    if !source.path.starts_with(CORE) || !source.is_crate_code() {
        return Vec::new();
    }
    let named = syntax::paths(&source.tokens).into_iter();
    let impure = named.filter(|path| {
        let parts: Vec<&str> = path.parts.iter().map(String::as_str).collect();
        // A duration is a number; everything else in `std::time` reads a clock.
        let clock = parts.starts_with(&["std", "time"]) && parts.get(2) != Some(&"Duration");
        clock
            || FORBIDDEN_PATHS
                .iter()
                .any(|forbidden| parts.starts_with(forbidden))
    });
    let paths = impure.map(|path| (path.line, path.parts.join("::")));
    let words = source
        .tokens
        .iter()
        .filter(|token| FORBIDDEN_WORDS.contains(&&*token.text));
    let words = words.map(|token| (token.line, token.text.clone()));
    let all = paths
        .chain(words)
        .filter(|(line, _)| !source.is_test_line(*line));
    all.map(|(line, name)| source.violation(line, 10, format!("the core may not name `{name}`")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const NONE: [&str; 0] = [];

    #[test]
    fn core_self_test() {
        let path = "replication/core/src/step.rs";
        let clean = "use std::collections::BTreeMap; // not a HashMap\nuse std::time::Duration;\n\
                     struct Instant;\n#[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(planted(core, path, clean), NONE);
        let bad = "use std::{fmt, time::{Duration, Instant}};\nuse std::collections::HashMap;\n\
                   fn f() { std::thread::yield_now(); tokio::spawn(g()) }\nuse std::time;\n";
        let found = [
            (1, "std::time::Instant"),
            (3, "std::thread::yield_now"),
            (3, "tokio::spawn"),
            (4, "std::time"),
            (2, "HashMap"),
        ]
        .map(|(line, name)| format!("{path}:{line}: rule 10: the core may not name `{name}`"));
        assert_eq!(planted(core, path, bad), found);
        assert_eq!(planted(core, "replication/src/driver.rs", bad), NONE);
    }
}
