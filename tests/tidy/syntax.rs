//! Just enough grammar for the rules: functions, their parameters, and paths.
//!
//! **Owns** finding these in a list of tokens.
//! **Does not own** any judgement about them: the rules do.

use crate::lexer::{Kind, Token};

/// One function with a name.
pub(crate) struct Function<'a> {
    pub(crate) name: &'a str,
    pub(crate) line: usize,
    pub(crate) line_end: usize,
    /// `pub` without a restriction such as `pub(crate)`.
    pub(crate) public: bool,
    /// Name and type, tokens of the type joined without spaces; `self` is left out.
    pub(crate) parameters: Vec<(String, String)>,
}

/// One path as written or imported: `use std::{fs, io}` gives `std::fs` and `std::io`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) parts: Vec<String>,
    pub(crate) line: usize,
}

impl NamedPath {
    pub(crate) fn root(&self) -> &str {
        &self.parts[0]
    }
}

/// The index of the bracket that closes the one at `open`, or of the last token.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len() - 1
}

/// The index after the item that starts at `at`, and its last line: up to its `;` or its body.
pub(crate) fn item_end(tokens: &[Token], mut at: usize) -> (usize, usize) {
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return (at + 1, tokens[at].line),
            "{" => {
                let close = closing(tokens, at);
                return (close + 1, tokens[close].line);
            }
            "(" | "[" => at = closing(tokens, at) + 1,
            ")" | "]" | "}" => break,
            _ => at += 1,
        }
    }
    (
        at,
        tokens
            .get(at.saturating_sub(1))
            .map_or(1, |token| token.line),
    )
}

/// The index after the item that starts at `at`, where an import may hold braces before its `;`.
pub(crate) fn statement_end(tokens: &[Token], at: usize) -> usize {
    let (end, _) = item_end(tokens, at);
    let closes_import = tokens[at..end].iter().any(|token| token.is("use"))
        && tokens.get(end).is_some_and(|token| token.is(";"));
    if closes_import {
        end + 1
    } else {
        end.max(at + 1)
    }
}

/// Every named function, nested ones too; function pointers have no name.
pub(crate) fn functions(tokens: &[Token]) -> Vec<Function<'_>> {
    let starts = tokens.windows(2).enumerate();
    let named = starts.filter(|(_, pair)| pair[0].is("fn") && pair[1].kind == Kind::Word);
    named
        .map(|(at, pair)| Function {
            name: &pair[1].text,
            line: pair[0].line,
            line_end: item_end(tokens, at).1,
            public: is_public(&tokens[..at]),
            parameters: parameters(tokens, at + 2),
        })
        .collect()
}

fn is_public(before: &[Token]) -> bool {
    let qualifier = |token: &&Token| {
        token.kind == Kind::Literal
            || ["async", "const", "unsafe", "extern"].contains(&&*token.text)
    };
    before
        .iter()
        .rev()
        .find(|token| !qualifier(token))
        .is_some_and(|token| token.is("pub"))
}

fn parameters(tokens: &[Token], after_name: usize) -> Vec<(String, String)> {
    let mut angle = 0_i32;
    let open = (after_name..tokens.len()).find(|at| {
        angle += i32::from(tokens[*at].is("<")) - i32::from(tokens[*at].is(">"));
        angle == 0 && tokens[*at].is("(")
    });
    let Some(open) = open else { return Vec::new() };
    let mut depth = 0_i32;
    let list = tokens
        .get(open + 1..closing(tokens, open))
        .unwrap_or_default();
    let each = list.split(|token| {
        depth += i32::from(["(", "[", "{", "<"].contains(&&*token.text));
        depth -= i32::from([")", "]", "}", ">"].contains(&&*token.text));
        depth == 0 && token.is(",")
    });
    each.filter_map(|parameter| {
        let colon = parameter.iter().position(|token| token.is(":"))?;
        let name = parameter[..colon].last()?.text.clone();
        let of_type = parameter[colon + 1..]
            .iter()
            .map(|token| token.text.as_str())
            .collect();
        Some((name, of_type))
    })
    .collect()
}

/// Every path of the file: imports spelled out, and each `a::b` in the code.
pub(crate) fn paths(tokens: &[Token]) -> Vec<NamedPath> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let next_is = |text: &str| tokens.get(at + 1).is_some_and(|next| next.is(text));
        let of_extern = at > 0 && tokens[at - 1].is("extern");
        // `use<'a>` in a return type captures lifetimes; it imports nothing.
        let imports = tokens[at].is("use") && !next_is("<");
        if imports || (tokens[at].is("crate") && of_extern) {
            at = use_tree(tokens, at + 1, &[], &mut found);
        } else if tokens[at].kind == Kind::Word && next_is("::") {
            at = plain_path(tokens, at, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one branch of an import; returns the index of the token that ends it.
fn use_tree(tokens: &[Token], start: usize, above: &[String], out: &mut Vec<NamedPath>) -> usize {
    let (mut parts, mut at) = (above.to_vec(), start);
    while at < tokens.len() {
        let token = &tokens[at];
        match token.text.as_str() {
            "," | "}" | ";" => break,
            "as" => at += 2,
            "{" => {
                while at < tokens.len() && !tokens[at].is("}") && !tokens[at].is(";") {
                    at = use_tree(tokens, at + 1, &parts, out);
                }
                return at + 1;
            }
            "::" => at += 1,
            _ => {
                parts.push(token.text.clone());
                at += 1;
            }
        }
    }
    if parts.len() > above.len() {
        out.push(NamedPath {
            parts,
            line: tokens[at.min(tokens.len()) - 1].line,
        });
    }
    at
}

fn plain_path(tokens: &[Token], start: usize, out: &mut Vec<NamedPath>) -> usize {
    let (mut parts, mut at) = (vec![tokens[start].text.clone()], start + 1);
    while at + 1 < tokens.len() && tokens[at].is("::") && tokens[at + 1].kind == Kind::Word {
        parts.push(tokens[at + 1].text.clone());
        at += 2;
    }
    // After `>::` this is the tail of a qualified path, whose head was read before.
    let tail = start > 1 && tokens[start - 1].is("::") && tokens[start - 2].is(">");
    if !tail {
        out.push(NamedPath {
            parts,
            line: tokens[start].line,
        });
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::lex;

    fn joined(text: &str) -> Vec<String> {
        paths(&lex(text).0)
            .into_iter()
            .map(|path| path.parts.join("::"))
            .collect()
    }

    #[test]
    fn imports_are_spelled_out() {
        let text = "use std::{fs, io::{self as i, Read}}; pub(crate) use a::*; use b;";
        assert_eq!(
            joined(text),
            ["std::fs", "std::io::self", "std::io::Read", "a::*", "b"]
        );
        assert_eq!(joined("use {a::b, c}; extern crate d;"), ["a::b", "c", "d"]);
    }

    #[test]
    fn paths_in_code_are_found() {
        assert_eq!(
            joined("fn f() { ::a::b::<T>(); c.d(e::F { g: 1 }) }"),
            ["a::b", "e::F"]
        );
        assert_eq!(joined("<a::B as c::D>::toml::e()"), ["a::B", "c::D"]);
    }

    #[test]
    fn functions_have_ends_and_parameters() {
        let text = "pub async fn a<F: Fn(u8) -> u8>(&self, mut x: [u8; 2], y: M<A, B>)\n{\n}\n\
                    pub(crate) fn b();\ntype P = fn(u8);";
        let (tokens, _) = lex(text);
        let found = functions(&tokens);
        let shape: Vec<_> = found
            .iter()
            .map(|f| (f.name, f.line, f.line_end, f.public))
            .collect();
        assert_eq!(shape, [("a", 1, 3, true), ("b", 4, 4, false)]);
        let names: Vec<_> = found[0]
            .parameters
            .iter()
            .map(|(n, t)| format!("{n}:{t}"))
            .collect();
        assert_eq!(names, ["x:[u8;2]", "y:M<A,B>"]);
    }
}
