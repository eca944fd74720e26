//! The one type of a watermark.
//!
//! **Owns**: the rule that a watermark only grows.
//! **Does not own**: what each mark means (the ruler in the crate's docs).

use std::fmt;

use domicile_proto::Seq;

/// "Everything up to and including this place": only grows.
///
/// A mark that has to start again (a copy came back with less) is a new mark, which makes the
/// exception visible where it is made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark(Seq);

impl Mark {
    /// A mark that starts at `upto`.
    pub(crate) fn at(upto: Seq) -> Self {
        Self(upto)
    }

    /// Raises it to `upto`; returns whether that is further than it was.
    pub(crate) fn raise(&mut self, upto: Seq) -> bool {
        let grows = upto > self.0;
        if grows {
            self.0 = upto;
        }
        grows
    }

    /// The last place it covers.
    pub(crate) fn upto(self) -> Seq {
        self.0
    }

    /// Whether it covers `seq`.
    pub(crate) fn covers(self, seq: Seq) -> bool {
        self.0 >= seq
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_never_goes_back() {
        let mut mark = Mark::at(Seq::new(3));
        assert!(!mark.raise(Seq::new(2)) && !mark.raise(Seq::new(3)));
        assert!(mark.raise(Seq::new(9)));
        assert!(mark.covers(Seq::new(9)) && !mark.covers(Seq::new(10)));
    }
}
