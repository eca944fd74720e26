//! Rules 1 to 4: what the rooms of the house are called, and what is written on their doors.
//!
//! **Owns** crate maps, module headers, `mod.rs` files, names of files and folders.
//! **Does not own** who may enter which room: `imports`. How large one is: `sizes`.

use crate::source::{Source, Violation};
use crate::syntax;

/// Names that say nothing about what is inside, with the near spellings of the worst of them.
const EMPTY_NAMES: [&str; 10] = [
    "utils", "util", "common", "helpers", "helper", "misc", "manager", "types", "service",
    "services",
];

/// Rule 1: a lib.rs says its purpose, maps its modules, and says what the crate never does.
pub(crate) fn crate_map(source: &Source) -> Vec<Violation> {
    if !source.is_crate_code() || source.file_name() != "lib.rs" {
        return Vec::new();
    }
    let (docs, mut found) = (source.inner_docs(), Vec::new());
    if !source.text.starts_with("//!") {
        found.push(source.violation(1, 1, "lib.rs does not open with `//!`"));
    }
    for (name, line) in modules(source) {
        if !source.is_test_line(line) && !docs.contains(&format!("`{name}`")) {
            let message = format!("module `{name}` is missing from the crate's map");
            found.push(source.violation(line, 1, message));
        }
    }
    let mut words = docs.split(|c: char| !c.is_alphanumeric());
    if !words.any(|word| word.eq_ignore_ascii_case("never")) {
        found.push(source.violation(1, 1, "crate docs do not say what the crate `never` does"));
    }
    found
}

/// Rule 2: a module opens with `//!`, and says what it owns and does not own.
pub(crate) fn module_header(source: &Source) -> Vec<Violation> {
    if !source.is_crate_code() || ["lib.rs", "main.rs"].contains(&source.file_name()) {
        return Vec::new();
    }
    if !source.text.starts_with("//!") {
        return vec![source.violation(1, 2, "module does not open with `//!`")];
    }
    if source.file_name() == "mod.rs" {
        return Vec::new();
    }
    let docs = source.inner_docs();
    let missing = ["**Owns**", "**Does not own**"]
        .into_iter()
        .filter(|part| !docs.contains(part));
    missing
        .map(|part| source.violation(1, 2, format!("module header lacks `{part}`")))
        .collect()
}

/// Rule 3: a `mod.rs` holds docs, attributes, `mod x;` and `pub use` only.
pub(crate) fn mod_file(source: &Source) -> Vec<Violation> {
    if source.file_name() != "mod.rs" {
        return Vec::new();
    }
    let (tokens, mut found, mut at) = (&source.tokens, Vec::new(), 0);
    while at < tokens.len() {
        if tokens[at].is("#") {
            let open = at + 1 + usize::from(tokens.get(at + 1).is_some_and(|t| t.is("!")));
            at = syntax::closing(tokens, open.min(tokens.len() - 1)) + 1;
            continue;
        }
        let end = syntax::statement_end(tokens, at);
        let item = &tokens[at..end];
        let public = item[0].is("pub");
        let restricted = item.get(1).is_some_and(|token| token.is("("));
        let head = match (public, restricted) {
            (true, true) => syntax::closing(item, 1) + 1,
            (true, false) => 1,
            (false, _) => 0,
        };
        let starts = |word: &str| item.get(head).is_some_and(|token| token.is(word));
        let declares = starts("mod") && item.iter().all(|token| !token.is("{"));
        let exports = public && starts("use");
        if !declares && !exports {
            let word = item.get(head).map_or("", |token| token.text.as_str());
            let message = format!("mod.rs holds more than docs, `mod` and `pub use` (`{word}`)");
            found.push(source.violation(item[0].line, 3, message));
        }
        at = end;
    }
    found
}

/// Rule 4: no file and no folder of code has an empty name.
pub(crate) fn room_name(source: &Source) -> Vec<Violation> {
    if !source.is_rust() && !source.path.ends_with(".proto") {
        return Vec::new();
    }
    let parts = source
        .path
        .split('/')
        .map(|part| part.split('.').next().unwrap_or(part));
    let empty = parts.filter(|part| EMPTY_NAMES.contains(part));
    empty
        .map(|name| source.violation(1, 4, format!("`{name}` is no noun of this house")))
        .collect()
}

/// The modules declared by a file, inline ones too, with their lines.
fn modules(source: &Source) -> Vec<(&str, usize)> {
    let (tokens, mut found, mut at) = (&source.tokens, Vec::new(), 0);
    while at + 1 < tokens.len() {
        if tokens[at].is("mod") {
            found.push((tokens[at + 1].text.as_str(), tokens[at].line));
        }
        // Bodies are skipped: only the top level of the file is its map.
        at = if tokens[at].is("{") {
            syntax::closing(tokens, at) + 1
        } else {
            at + 1
        };
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const NONE: [&str; 0] = [];

    #[test]
    fn crate_map_self_test() {
        let clean = "//! Disk. It never waits.\n//! - [`cells`]: x\nmod cells;\n\
                     #[cfg(test)]\nmod tests;\nfn f() { mod inner {} }\n";
        assert_eq!(planted(crate_map, "storage/src/lib.rs", clean), NONE);
        let bare = "//! Disk.\npub mod cells { }\n";
        let found = [
            "storage/src/lib.rs:2: rule 1: module `cells` is missing from the crate's map",
            "storage/src/lib.rs:1: rule 1: crate docs do not say what the crate `never` does",
        ];
        assert_eq!(planted(crate_map, "storage/src/lib.rs", bare), found);
        assert_eq!(planted(crate_map, "storage/src/cells.rs", bare), NONE);
        let first = &planted(crate_map, "src/lib.rs", "\n//! Never.\n")[..];
        assert_eq!(
            first,
            ["src/lib.rs:1: rule 1: lib.rs does not open with `//!`"]
        );
    }

    #[test]
    fn module_header_self_test() {
        let clean = "//! Cells.\n//!\n//! **Owns** cells.\n//! **Does\n//! not own** disks.\n";
        assert_eq!(planted(module_header, "storage/src/cells.rs", clean), NONE);
        assert_eq!(
            planted(module_header, "storage/src/cells_tests.rs", "fn a() {}"),
            NONE
        );
        assert_eq!(
            planted(module_header, "storage/src/engine/mod.rs", "//! Engines.\n"),
            NONE
        );
        let found = ["storage/src/cells.rs:1: rule 2: module header lacks `**Does not own**`"];
        let half = "//! Cells.\n//! **Owns** cells.\n";
        assert_eq!(planted(module_header, "storage/src/cells.rs", half), found);
        let found = ["src/a/mod.rs:1: rule 2: module does not open with `//!`"];
        assert_eq!(planted(module_header, "src/a/mod.rs", "mod b;\n"), found);
    }

    #[test]
    fn mod_file_self_test() {
        let clean = "//! Engines.\n#![allow(x)]\n#[cfg(test)]\nmod tests;\npub(crate) mod a;\n\
                     pub use a::{B, C};\npub(crate) use a::D;\n";
        assert_eq!(planted(mod_file, "src/a/mod.rs", clean), NONE);
        let bad = "mod a;\nuse a::{B, C};\npub fn f() { g(); }\nmod b { }\npub use a::D;\n";
        let rest = "rule 3: mod.rs holds more than docs, `mod` and `pub use`";
        let found = [("2", "use"), ("3", "fn"), ("4", "mod")]
            .map(|(line, word)| format!("src/a/mod.rs:{line}: {rest} (`{word}`)"));
        assert_eq!(planted(mod_file, "src/a/mod.rs", bad), found);
        assert_eq!(planted(mod_file, "src/a/b.rs", bad), NONE);
    }

    #[test]
    fn room_name_self_test() {
        assert_eq!(planted(room_name, "server/src/commonplace.rs", ""), NONE);
        let found = ["src/utils/a.rs:1: rule 4: `utils` is no noun of this house"];
        assert_eq!(planted(room_name, "src/utils/a.rs", ""), found);
        let found = ["proto/types.proto:1: rule 4: `types` is no noun of this house"];
        assert_eq!(planted(room_name, "proto/types.proto", ""), found);
    }
}
