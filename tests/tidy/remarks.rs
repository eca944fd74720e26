//! Rules 17 and 18: what a comment may leave open, and what a constant must say.
//!
//! **Owns** marks of unfinished work, and the comments above constants.
//! **Does not own** headers of crates and modules: `rooms`.

use crate::lexer::{Kind, Token};
use crate::source::{Source, Violation};

/// Marks of work left open, in pieces so that this file has none.
const OPEN_MARKS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];

/// The types whose constants are sizes, counts and bounds.
const INTEGERS: [&str; 12] = [
    "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128", "isize",
];

/// Rule 17: work left open has an issue number on the same line. Prose (`.md`) may name the marks.
pub(crate) fn open_marks(source: &Source) -> Vec<Violation> {
    let lines: Vec<(&str, usize)> = if source.is_rust() {
        source
            .comments
            .iter()
            .map(|comment| (comment.text.as_str(), comment.line))
            .collect()
    } else if source.path.ends_with(".md") || source.path.ends_with(".lock") {
        Vec::new()
    } else {
        source.text.lines().zip(1..).collect()
    };
    let mut found = Vec::new();
    for (text, line) in lines {
        let mut words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let mark = words.find(|word| OPEN_MARKS.contains(word));
        let issue = text
            .split('#')
            .skip(1)
            .any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if let (Some(mark), false) = (mark, issue) {
            found.push(source.violation(line, 17, format!("`{mark}` without an issue number")));
        }
    }
    found
}

/// Rule 18: a constant at the top of a module with a number above 1 has a comment above it.
pub(crate) fn constants(source: &Source) -> Vec<Violation> {
    let (tokens, mut found) = (&source.tokens, Vec::new());
    if !source.is_crate_code() {
        return found;
    }
    let mut depth = 0_usize;
    for at in 0..tokens.len() {
        depth += usize::from(tokens[at].is("{"));
        depth = depth.saturating_sub(usize::from(tokens[at].is("}")));
        let line = tokens[at].line;
        if depth > 0 || !tokens[at].is("const") || source.is_test_line(line) {
            continue;
        }
        let Some([name, colon, of_type, equals]) = tokens.get(at + 1..at + 5) else {
            continue;
        };
        let integer = colon.is(":") && INTEGERS.contains(&&*of_type.text) && equals.is("=");
        let value = tokens[at..].iter().take_while(|token| !token.is(";"));
        if integer && value.skip(5).any(is_above_one) && !has_comment(source, at) {
            let message = format!(
                "constant `{}` does not say why it has this value",
                name.text
            );
            found.push(source.violation(line, 18, message));
        }
    }
    found
}

fn is_above_one(token: &Token) -> bool {
    let text = token.text.replace('_', "");
    let digits = ["0x", "0o", "0b"]
        .iter()
        .find_map(|radix| text.strip_prefix(radix));
    let value = digits
        .unwrap_or(&text)
        .split(['u', 'i'])
        .next()
        .unwrap_or_default();
    token.kind == Kind::Number && !["", "1"].contains(&value.trim_start_matches('0'))
}

/// Whether a comment stands between the item before `at` and the constant itself.
fn has_comment(source: &Source, at: usize) -> bool {
    let before = source.tokens[..at]
        .iter()
        .rposition(|token| token.is(";") || token.is("}"));
    let from = before.map_or(0, |end| source.tokens[end].line);
    let line = source.tokens[at].line;
    let mut comments = source
        .comments
        .iter()
        .filter(|comment| !comment.text.starts_with("//!"));
    comments.any(|comment| comment.line > from && comment.line < line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const NONE: [&str; 0] = [];

    #[test]
    fn open_marks_self_test() {
        for mark in OPEN_MARKS {
            let text =
                format!("// {mark}(#12): later\nlet s = \"{mark}\";\n/* a\n{mark}: now */\n");
            let found = [format!(
                "src/a.rs:4: rule 17: `{mark}` without an issue number"
            )];
            assert_eq!(planted(open_marks, "src/a.rs", &text), found);
            assert_eq!(planted(open_marks, "README.md", &text), NONE);
            let found = [format!(
                "Cargo.toml:1: rule 17: `{mark}` without an issue number"
            )];
            assert_eq!(
                planted(open_marks, "Cargo.toml", &format!("# {mark} #x\n")),
                found
            );
        }
    }

    #[test]
    fn constants_self_test() {
        let clean = "//! A.\nuse a::b;\n/// Why.\n#[allow(x)]\n\
                     pub(crate) const A: usize = 64 << 10;\n\
                     const B: u64 = 1;\nconst B2: u64 = 0_u64 + 1usize + 0x01;\n\
                     const C: &str = \"7\";\n\
                     impl D { const E: u8 = 7; }\nconst fn f() {}\n\
                     #[cfg(test)]\nmod tests { const G: u8 = 7; }\n";
        assert_eq!(planted(constants, "src/a.rs", clean), NONE);
        let bad = "//! A.\nconst A: usize = 64 << 10;\n// Why.\nconst B: u8 = 2;\n\
                   pub const C: u64 = 1 << 0x14; // after\n";
        let found = [(2, "A"), (5, "C")].map(|(line, name)| {
            format!(
                "src/a.rs:{line}: rule 18: constant `{name}` does not say why it has this value"
            )
        });
        assert_eq!(planted(constants, "src/a.rs", bad), found);
        assert_eq!(planted(constants, "tests/a.rs", bad), NONE);
    }
}
