//! What a command says: tables to standard output, talk and progress to standard error.
//!
//! **Owns**: the two streams, whether someone watches.
//! **Does not own**: what is said.

use std::io::{self, IsTerminal, Write};

/// Where a command speaks.
#[derive(Clone, Copy, Debug)]
pub struct Console {
    watched: bool,
}

impl Console {
    /// The console of this process.
    #[must_use]
    pub fn new() -> Self {
        let watched = io::stderr().is_terminal();
        Self { watched }
    }

    /// A result: to standard output. A reader that is gone ends the talk, not the run.
    pub fn tell(&self, text: &str) {
        let _ = writeln!(io::stdout().lock(), "{text}");
    }

    /// What is going on: to standard error.
    pub fn talk(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// A line that the next one replaces: to standard error, if that is a terminal.
    pub fn progress(&self, text: &str) {
        if self.watched {
            let mut stream = io::stderr().lock();
            let _ = write!(stream, "\r\x1b[2K{text}").and_then(|()| stream.flush());
        }
    }

    /// Ends the lines of progress.
    pub fn progress_ended(&self) {
        self.progress("");
    }
}

impl Default for Console {
    fn default() -> Self {
        Self::new()
    }
}
