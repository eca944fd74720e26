//! A small lexer: cuts Rust text into tokens and comments, so that rules never read inside strings.
//!
//! **Owns** what is a word, a number, a literal, a mark or a comment, and on which line it starts.
//! **Does not own** what the tokens mean: `syntax`.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An identifier or a keyword.
    Word,
    /// A numeric literal, with its suffix.
    Number,
    /// A string, a character or a lifetime; its text is left out.
    Literal,
    /// Punctuation: one character, or `::`, `->`, `=>`.
    Mark,
}

/// One token and the line it starts on, counted from 1.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Token {
    /// Whether this is the word or mark `text`.
    pub(crate) fn is(&self, text: &str) -> bool {
        self.text == text
    }
}

/// One line of a comment, with its slashes.
#[derive(Debug)]
pub(crate) struct Comment {
    pub(crate) text: String,
    pub(crate) line: usize,
}

/// Cuts `text` up. Text that is not Rust gives odd tokens, never a panic.
pub(crate) fn lex(text: &str) -> (Vec<Token>, Vec<Comment>) {
    let mut lexer = Lexer {
        chars: text.chars().collect(),
        at: 0,
        line: 1,
        tokens: Vec::new(),
        comments: Vec::new(),
    };
    while lexer.at < lexer.chars.len() {
        lexer.next();
    }
    (lexer.tokens, lexer.comments)
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
    comments: Vec<Comment>,
}

impl Lexer {
    fn next(&mut self) {
        let (c, line, start) = (self.chars[self.at], self.line, self.at);
        if c.is_whitespace() {
            self.advance(1);
        } else if self.sees("//") {
            let end = (start..self.chars.len()).find(|at| self.chars[*at] == '\n');
            self.at = end.unwrap_or(self.chars.len());
            let text = self.chars[start..self.at].iter().collect();
            self.comments.push(Comment { text, line });
        } else if self.sees("/*") {
            self.block_comment();
        } else if let Some((prefix, hashes)) = self.raw_string() {
            let end: String = std::iter::once('"')
                .chain((0..hashes).map(|_| '#'))
                .collect();
            self.advance(prefix);
            self.literal(line, &end, 1);
        } else if c == '"' || self.sees("b\"") || self.sees("c\"") {
            self.advance(if c == '"' { 1 } else { 2 });
            self.literal(line, "\"", 2);
        } else if c == '\'' || self.sees("b'") {
            self.advance(if c == '\'' { 1 } else { 2 });
            self.character_or_lifetime(line);
        } else if c.is_alphabetic() || c == '_' {
            self.run(Kind::Word, |c, _| c.is_alphanumeric() || c == '_');
        } else if c.is_ascii_digit() {
            self.run(Kind::Number, |c, next| {
                c.is_alphanumeric() || c == '_' || (c == '.' && next.is_ascii_digit())
            });
        } else {
            let pair = ["::", "->", "=>"].iter().any(|pair| self.sees(pair));
            self.advance(if pair { 2 } else { 1 });
            self.push(Kind::Mark, start, line);
        }
    }

    fn peek(&self, ahead: usize) -> char {
        self.chars.get(self.at + ahead).copied().unwrap_or('\0')
    }

    fn sees(&self, text: &str) -> bool {
        text.chars()
            .enumerate()
            .all(|(ahead, c)| self.peek(ahead) == c)
    }

    fn advance(&mut self, count: usize) {
        let end = (self.at + count).min(self.chars.len());
        self.line += self.chars[self.at..end]
            .iter()
            .filter(|c| **c == '\n')
            .count();
        self.at = end;
    }

    fn push(&mut self, kind: Kind, start: usize, line: usize) {
        let text = self.chars[start..self.at].iter().collect();
        self.tokens.push(Token { kind, text, line });
    }

    fn run(&mut self, kind: Kind, part: fn(char, char) -> bool) {
        let start = self.at;
        while self.at < self.chars.len() && part(self.peek(0), self.peek(1)) {
            self.at += 1;
        }
        self.push(kind, start, self.line);
    }

    /// Block comments nest; each line of one becomes a comment of its own.
    fn block_comment(&mut self) {
        let (start, line, mut depth) = (self.at, self.line, 0_usize);
        while self.at < self.chars.len() {
            let step = if self.sees("/*") {
                depth += 1;
                2
            } else if self.sees("*/") {
                depth -= 1;
                2
            } else {
                1
            };
            self.advance(step);
            if depth == 0 {
                break;
            }
        }
        let text: String = self.chars[start..self.at].iter().collect();
        let lines = text.lines().enumerate();
        self.comments.extend(lines.map(|(nth, text)| Comment {
            text: text.to_string(),
            line: line + nth,
        }));
    }

    /// The length of the opening of a raw string here, and how many hashes close it.
    fn raw_string(&self) -> Option<(usize, usize)> {
        let letters = ["br", "cr", "r"]
            .into_iter()
            .find(|letters| self.sees(letters))?
            .len();
        let rest = self.chars[self.at + letters..].iter();
        let hashes = rest.take_while(|c| **c == '#').count();
        (self.peek(letters + hashes) == '"').then_some((letters + hashes + 1, hashes))
    }

    /// Skips to after `end`; a backslash takes `escape_len` characters: 2, or 1 if it escapes none.
    fn literal(&mut self, line: usize, end: &str, escape_len: usize) {
        while self.at < self.chars.len() && !self.sees(end) {
            self.advance(if self.peek(0) == '\\' { escape_len } else { 1 });
        }
        self.advance(end.len());
        self.tokens.push(Token {
            kind: Kind::Literal,
            text: String::new(),
            line,
        });
    }

    /// `'a'` and `'\n'` are characters; `'a` and `'static` are lifetimes.
    fn character_or_lifetime(&mut self, line: usize) {
        if self.peek(0) == '\\' || self.peek(1) == '\'' {
            return self.literal(line, "'", 2);
        }
        self.run(Kind::Literal, |c, _| c.is_alphanumeric() || c == '_');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let (tokens, _) = lex(text);
        let words = tokens.into_iter().filter(|token| token.kind == Kind::Word);
        words.map(|token| token.text).collect()
    }

    #[test]
    fn strings_of_every_form_are_left_out() {
        assert_eq!(words(r#"a "x \" y" b"z" b"#), ["a", "b"]);
        assert_eq!(
            words("a r\"x\\\" b r##\"y \"# z\"## c br#\"w\"# d"),
            ["a", "b", "c", "d"]
        );
        assert_eq!(words(r"a 'x' '\'' b'y' '\u{1F600}' b"), ["a", "b"]);
        assert_eq!(
            words(r#"fn f<'a>(x: &'a str) { '"'; y }"#),
            ["fn", "f", "x", "str", "y"]
        );
    }

    #[test]
    fn comments_are_set_apart_and_lines_are_counted() {
        let (tokens, comments) = lex("a // one\n/* two /* three */\nfour */ \"\n\" b");
        let lines: Vec<_> = tokens.iter().map(|t| (t.text.as_str(), t.line)).collect();
        assert_eq!(lines, [("a", 1), ("", 3), ("b", 4)]);
        let found: Vec<_> = comments.iter().map(|c| (c.text.as_str(), c.line)).collect();
        assert_eq!(
            found,
            [("// one", 1), ("/* two /* three */", 2), ("four */", 3)]
        );
    }

    #[test]
    fn broken_text_does_not_panic() {
        for text in [
            "\"open", "r#\"open", "/* open", "'", "b'", "'\\", "1.", "r#",
        ] {
            lex(text);
        }
    }
}
