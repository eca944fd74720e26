//! The key that was probably meant.
//!
//! **Owns**: the distance between words and how near is near enough.
//! **Does not own**: which keys there are (serde tells them in its message).

/// The word nearest to `word`, if one is near enough to be a slip of the fingers.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let near_max = (word.chars().count() / 3).max(2);
    let measured = known.map(|each| (distance(word, each), each));
    let (edits, best) = measured.min_by_key(|(edits, _)| *edits)?;
    (edits <= near_max).then_some(best)
}

/// Edits that turn one word into the other: insert, remove, replace (Levenshtein, 1965).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (above, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (place, each) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *each);
            diagonal = row[place + 1];
            row[place + 1] = replaced.min(row[place] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = || ["region", "data", "listen_client", "listen_peer"].into_iter();
        assert_eq!(nearest("regoin", known()), Some("region"));
        assert_eq!(nearest("listen_clients", known()), Some("listen_client"));
        assert_eq!(nearest("listenpeer", known()), Some("listen_peer"));
        assert_eq!(nearest("colour", known()), None);
        assert_eq!(
            (
                distance("kitten", "sitting"),
                distance("", "ab"),
                distance("a", "a")
            ),
            (3, 2, 0)
        );
    }
}
