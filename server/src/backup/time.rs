//! A moment as people and programs write it.
//!
//! **Owns**: RFC 3339 and milliseconds since 1970, both ways.
//! **Does not own**: clocks.

use std::str::FromStr;

use prost_types::Timestamp;

/// Reads ms since 1970, or RFC 3339 as in `2026-11-24T15:00:00Z`.
///
/// # Errors
/// What was expected.
pub(crate) fn parse_time(text: &str) -> Result<u64, String> {
    if let Ok(at_ms) = text.parse() {
        return Ok(at_ms);
    }
    let expected = || format!("{text:?}: ms since 1970 or RFC 3339 as in 2026-11-24T15:00:00Z");
    // Without a zone it would be anybody's.
    let has_zone = text.ends_with(['Z', 'z']) || text.rfind(['+', '-']).is_some_and(|at| at > 9);
    let time = Timestamp::from_str(text).ok().filter(|_| has_zone);
    let time = time.ok_or_else(expected)?;
    let seconds = u64::try_from(time.seconds).map_err(|_| expected())?;
    let nanos = u64::try_from(time.nanos).map_err(|_| expected())?;
    Ok(seconds.saturating_mul(1000) + nanos / 1_000_000)
}

/// The moment in RFC 3339; nothing for the beginning of time.
pub(crate) fn show_time(at_ms: u64) -> String {
    let nanos = i32::try_from(at_ms % 1000 * 1_000_000).unwrap_or_default();
    let seconds = i64::try_from(at_ms / 1000).unwrap_or(i64::MAX);
    Timestamp { seconds, nanos }.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_comes_back() {
        for at_ms in [0, 1, 999, 1000, 1_795_534_675_123, 1_795_534_675_000] {
            let shown = show_time(at_ms);
            assert_eq!(parse_time(&shown).unwrap(), at_ms, "{shown}");
            assert_eq!(parse_time(&at_ms.to_string()).unwrap(), at_ms);
        }
        assert_eq!(
            parse_time("2026-11-24T15:00:00Z").unwrap(),
            1_795_532_400_000
        );
        let east = parse_time("2026-11-24T16:00:00+01:00").unwrap();
        assert_eq!(east, 1_795_532_400_000);
        for refused in ["", "yesterday", "-5", "2026-11-24", "2026-11-24T15:00:00"] {
            let error = parse_time(refused).unwrap_err();
            assert!(error.contains("RFC 3339"), "{refused}: {error}");
        }
    }
}
