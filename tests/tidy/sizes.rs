//! Rules 5 and 6: how long a file, how long a function, how wide a line may be.
//!
//! **Owns** the limits and the counting.
//! **Does not own** formatting, which is rustfmt's.

use crate::source::{Source, Violation};
use crate::syntax;

/// A longer file, tests and all, is two thoughts; at twice this nobody reads one to its end.
const FILE_LINES_MAX: usize = 800;

/// The same for a file without its tests, the part that is read most.
const CODE_LINES_MAX: usize = 600;

/// The binary only calls into the server; doubled, it would start to decide things.
const BINARY_LINES_MAX: usize = 40;

/// A function fits a screen, from its `fn` to its closing brace; doubled, its branches hide.
const FUNCTION_LINES_MAX: usize = 70;

/// Two files fit side by side; rustfmt has the same limit, but leaves strings and comments alone.
const LINE_COLUMNS_MAX: usize = 100;

/// Rule 5: a file of Rust has a limit, and another one without its tests.
pub(crate) fn file_length(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    if !source.is_rust() {
        return found;
    }
    let all = source.text.lines().count();
    let code = (1..=all).filter(|line| !source.is_test_line(*line)).count();
    let code_max = if source.path == "src/main.rs" {
        BINARY_LINES_MAX
    } else {
        CODE_LINES_MAX
    };
    for (what, lines, limit) in [
        ("file", all, FILE_LINES_MAX),
        ("file without its tests", code, code_max),
    ] {
        if lines > limit {
            let message = format!("{what} too long ({lines} lines, limit {limit})");
            found.push(source.violation(1, 5, message));
        }
    }
    found
}

/// Rule 6: a function, in tests too, has a limit.
pub(crate) fn function_length(source: &Source) -> Vec<Violation> {
    let functions = syntax::functions(&source.tokens).into_iter();
    let sized = functions.map(|function| (function.line_end + 1 - function.line, function));
    sized
        .filter(|(lines, _)| *lines > FUNCTION_LINES_MAX)
        .map(|(lines, function)| {
            let limit = format!("{lines} lines, limit {FUNCTION_LINES_MAX}");
            let message = format!("function `{}` too long ({limit})", function.name);
            source.violation(function.line, 6, message)
        })
        .collect()
}

/// Rule 6: a line of code has a width; a link cannot be broken and is let through.
pub(crate) fn line_width(source: &Source) -> Vec<Violation> {
    if !source.is_rust() && !source.path.ends_with(".proto") {
        return Vec::new();
    }
    let lines = source
        .text
        .lines()
        .zip(1..)
        .filter(|(text, _)| !text.contains("://"));
    let wide = lines.map(|(text, line)| (text.chars().count(), line));
    wide.filter(|(columns, _)| *columns > LINE_COLUMNS_MAX)
        .map(|(columns, line)| {
            let message = format!("line too wide ({columns} columns, limit {LINE_COLUMNS_MAX})");
            source.violation(line, 6, message)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const NONE: [&str; 0] = [];

    #[test]
    fn file_length_self_test() {
        let tests = |lines| format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(lines));
        let clean = "\n".repeat(600) + &tests(197);
        assert_eq!(planted(file_length, "src/a.rs", &clean), NONE);
        let found = ["src/a.rs:1: rule 5: file too long (801 lines, limit 800)"];
        assert_eq!(
            planted(file_length, "src/a.rs", &("\n".repeat(600) + &tests(198))),
            found
        );
        let found = ["src/a.rs:1: rule 5: file without its tests too long (601 lines, limit 600)"];
        assert_eq!(planted(file_length, "src/a.rs", &"\n".repeat(601)), found);
        let found = ["src/main.rs:1: rule 5: file without its tests too long (41 lines, limit 40)"];
        assert_eq!(planted(file_length, "src/main.rs", &"\n".repeat(41)), found);
        assert_eq!(planted(file_length, "tests/a.rs", &"\n".repeat(800)), NONE);
        assert_eq!(planted(file_length, "README.md", &"\n".repeat(801)), NONE);
    }

    #[test]
    fn function_length_self_test() {
        let text = |lines| {
            format!(
                "struct S;\nfn long(a: [u8; 2])\n{{{}}}\n",
                "\n".repeat(lines)
            )
        };
        assert_eq!(planted(function_length, "src/a.rs", &text(68)), NONE);
        let found = ["src/a.rs:2: rule 6: function `long` too long (71 lines, limit 70)"];
        assert_eq!(planted(function_length, "src/a.rs", &text(69)), found);
    }

    #[test]
    fn line_width_self_test() {
        let text = format!(
            "// https://{0}\n// {0}\n// é{1}\n",
            "x".repeat(98),
            "x".repeat(96)
        );
        let found = ["src/a.rs:2: rule 6: line too wide (101 columns, limit 100)"];
        assert_eq!(planted(line_width, "src/a.rs", &text), found);
        assert_eq!(planted(line_width, "README.md", &text), NONE);
    }
}
