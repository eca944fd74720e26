//! One file as the rules see it: path, text, tokens, comments, and which lines are test code.
//!
//! **Owns** the split between test code and the rest, and the shape of a violation.
//! **Does not own** how a text is cut into tokens: `lexer`. Which files exist: `tree`.

use std::fmt;
use std::ops::RangeInclusive;

use crate::lexer::{self, Comment, Token};
use crate::syntax;

/// A file of the project. Tokens and comments are empty unless it is Rust.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    pub(crate) comments: Vec<Comment>,
    test_lines: Vec<RangeInclusive<usize>>,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Source {
        let (path, text) = (path.to_string(), text.to_string());
        let (tokens, comments) = if path.ends_with(".rs") {
            lexer::lex(&text)
        } else {
            (Vec::new(), Vec::new())
        };
        let whole = is_test_path(&path);
        let test_lines = if whole {
            vec![1..=usize::MAX]
        } else {
            test_blocks(&tokens)
        };
        Source {
            path,
            text,
            tokens,
            comments,
            test_lines,
        }
    }

    pub(crate) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether this is the code of a crate: not a test file, a build script or a document.
    pub(crate) fn is_crate_code(&self) -> bool {
        let in_src = self.path.starts_with("src/") || self.path.contains("/src/");
        self.is_rust() && in_src && !self.is_test_file()
    }

    pub(crate) fn file_name(&self) -> &str {
        self.path
            .rsplit('/')
            .next()
            .expect("a split yields at least one part")
    }

    /// Whether all of the file is test code, by its path or by `#![cfg(test)]`.
    pub(crate) fn is_test_file(&self) -> bool {
        self.is_test_line(usize::MAX)
    }

    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|lines| lines.contains(&line))
    }

    /// The `//!` lines of the file, joined by spaces so that a phrase may wrap.
    pub(crate) fn inner_docs(&self) -> String {
        let docs = self
            .comments
            .iter()
            .filter_map(|c| c.text.strip_prefix("//!"));
        docs.map(str::trim).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn violation(&self, line: usize, rule: u8, message: impl Into<String>) -> Violation {
        Violation {
            path: self.path.clone(),
            line,
            rule,
            message: message.into(),
        }
    }
}

/// One breach of one rule at one place.
#[derive(Debug)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: u8,
    message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation {
            path,
            line,
            rule,
            message,
        } = self;
        write!(f, "{path}:{line}: rule {rule}: {message}")
    }
}

fn is_test_path(path: &str) -> bool {
    let (dirs, file) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    stem == "tests"
        || stem.ends_with("_tests")
        || dirs
            .split('/')
            .any(|dir| ["tests", "benches", "examples"].contains(&dir))
}

/// The lines of every item behind `#[cfg(test)]`; all lines behind `#![cfg(test)]`.
fn test_blocks(tokens: &[Token]) -> Vec<RangeInclusive<usize>> {
    let mut blocks = Vec::new();
    for start in 0..tokens.len() {
        let inner = tokens.get(start + 1).is_some_and(|t| t.is("!"));
        let open = start + 1 + usize::from(inner);
        let is_cfg = tokens[start].is("#")
            && tokens.get(open).is_some_and(|t| t.is("["))
            && tokens.get(open + 1).is_some_and(|t| t.is("cfg"));
        if !is_cfg {
            continue;
        }
        let close = syntax::closing(tokens, open);
        let attribute = &tokens[open..=close];
        let names = |word: &str| attribute.iter().any(|t| t.is(word));
        if names("test") && !names("not") && !names("any") {
            let line_end = if inner {
                usize::MAX
            } else {
                syntax::item_end(tokens, close + 1).1
            };
            blocks.push(tokens[start].line..=line_end);
        }
    }
    blocks
}

/// What `rule` finds in a text planted at `path`, as it would be printed.
pub(crate) fn planted(rule: fn(&Source) -> Vec<Violation>, path: &str, text: &str) -> Vec<String> {
    rule(&Source::new(path, text))
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// What `rule` finds in a planted tree of paths and texts, as it would be printed.
pub(crate) fn planted_tree(
    rule: fn(&[Source]) -> Vec<Violation>,
    files: &[(&str, &str)],
) -> Vec<String> {
    let files: Vec<Source> = files
        .iter()
        .map(|(path, text)| Source::new(path, text))
        .collect();
    rule(&files).iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_lines(path: &str, text: &str) -> Vec<usize> {
        let source = Source::new(path, text);
        (1..=text.lines().count())
            .filter(|line| !source.is_test_line(*line))
            .collect()
    }

    #[test]
    fn a_test_block_ends_at_its_brace() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { \"}\"; }\n}\nfn c() {}\n";
        assert_eq!(code_lines("src/a.rs", text), [1, 6]);
        assert_eq!(
            code_lines("src/a.rs", "#[cfg(test)]\nmod tests;\nfn c() {}\n"),
            [3]
        );
        assert_eq!(
            code_lines("src/a.rs", "#[cfg(all(test, unix))]\nuse a::b;\nfn c() {}"),
            [3]
        );
        assert_eq!(
            code_lines("src/a.rs", "#[cfg(not(test))]\nuse a::b;\n"),
            [1, 2]
        );
        assert_eq!(code_lines("src/a.rs", "#![cfg(test)]\nfn c() {}\n"), []);
    }

    #[test]
    fn a_test_file_is_known_by_its_path() {
        for path in [
            "tests/a.rs",
            "src/x/tests.rs",
            "src/x_tests.rs",
            "benches/b.rs",
        ] {
            assert_eq!(code_lines(path, "fn a() {}\n"), [], "{path}");
        }
        assert_eq!(code_lines("src/contests.rs", "fn a() {}\n"), [1]);
        assert!(!Source::new("src/a.rs", "#[cfg(test)]\nmod tests;\n").is_test_file());
    }
}
