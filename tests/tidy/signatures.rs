//! Rule 13: a public function takes the newtype where there is one, not the integer inside it.
//!
//! **Owns** the words that have a newtype, and the parameters that go by them.
//! **Does not own** other conventions for names, which reviews keep.

use crate::source::{Source, Violation};
use crate::syntax;

/// The last word of a parameter's name, and the newtype it stands for.
const NEWTYPES: [(&str, &str); 7] = [
    ("seq", "Seq"),
    ("epoch", "Epoch"),
    ("region", "RegionId"),
    ("node", "NodeId"),
    ("partition", "PartitionId"),
    ("hlc", "Hlc"),
    ("position", "Position"),
];

/// Words that may follow the noun in a name without changing what it is: `seq_max`, `node_id`.
const TRAILING_WORDS: [&str; 5] = ["id", "min", "max", "first", "last"];

/// Integers inside the newtypes; a `usize` is a place in memory.
const INTEGERS: [&str; 3] = ["u16", "u32", "u64"];

/// Rule 13: no bare integer crosses a public function, but in the newtype's own file.
pub(crate) fn newtypes(source: &Source) -> Vec<Violation> {
    let mut found = Vec::new();
    if !source.is_crate_code() {
        return found;
    }
    let functions = syntax::functions(&source.tokens).into_iter();
    for function in functions.filter(|each| each.public && !source.is_test_line(each.line)) {
        for (name, of_type) in &function.parameters {
            let Some(newtype) = newtype_of(name) else {
                continue;
            };
            if INTEGERS.contains(&of_type.as_str()) && !defines(source, newtype) {
                let message = format!(
                    "`{}` takes `{name}: {of_type}`, where `{newtype}` exists",
                    function.name
                );
                found.push(source.violation(function.line, 13, message));
            }
        }
    }
    found
}

fn newtype_of(parameter: &str) -> Option<&'static str> {
    let mut words = parameter.rsplit('_');
    let noun = words.find(|word| !TRAILING_WORDS.contains(word))?;
    NEWTYPES
        .iter()
        .find(|(word, _)| *word == noun)
        .map(|(_, newtype)| *newtype)
}

fn defines(source: &Source, newtype: &str) -> bool {
    source
        .tokens
        .windows(2)
        .any(|pair| pair[0].is("struct") && pair[1].is(newtype))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::planted;

    const NONE: [&str; 0] = [];

    #[test]
    fn newtypes_self_test() {
        let clean = "pub fn a(seq: Seq, node_count: u64, seq_bytes: u32) {}\nfn b(seq: u64) {}\n\
                     pub(crate) fn c(seq: u64) {}\n#[cfg(test)]\npub fn d(seq: u64) {}\n";
        assert_eq!(planted(newtypes, "storage/src/a.rs", clean), NONE);
        let bad = "impl A {\n    pub async fn a(&self, key: u64, next_seq: u64) {}\n}\n\
                   pub const fn b(node_id: u16) {}\n";
        let found = [
            "storage/src/a.rs:2: rule 13: `a` takes `next_seq: u64`, where `Seq` exists",
            "storage/src/a.rs:4: rule 13: `b` takes `node_id: u16`, where `NodeId` exists",
        ];
        assert_eq!(planted(newtypes, "storage/src/a.rs", bad), found);
        assert_eq!(planted(newtypes, "storage/tests/a.rs", bad), NONE);
        let own = "pub struct Seq(u64);\nimpl Seq { pub fn new(seq: u64) {} }\n";
        assert_eq!(planted(newtypes, "proto/src/seq.rs", own), NONE);
    }
}
