//! How long a caller still waits, from the `grpc-timeout` header.
//!
//! **Owns**: reading the header, and the part of the time that the way back takes.
//! **Does not own**: giving up (tonic drops a handler at the header's time, the node before it).

use std::time::Duration;

use tonic::metadata::MetadataMap;

/// Longest part of a caller's patience that is kept for the way back: more than half of the
/// longest round trip on earth. Doubled, a write with a deadline of a second loses a quarter.
const WAY_BACK_MAX: Duration = Duration::from_millis(250);

/// The time that the node may take so that its answer still meets a waiting caller.
///
/// tonic answers CANCELLED at the header's own time: later than this, a write that is durable at
/// home would look as if nobody knew of it.
pub(crate) fn of(metadata: &MetadataMap) -> Option<Duration> {
    let timeout = parse(metadata.get("grpc-timeout")?.as_bytes())?;
    Some(timeout - (timeout / 8).min(WAY_BACK_MAX))
}

/// At most eight digits and a unit, as the gRPC protocol has it; anything else is no deadline.
fn parse(header: &[u8]) -> Option<Duration> {
    let (unit, digits) = header.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = digits.iter().map(|digit| u64::from(digit - b'0'));
    let number = digits.fold(0, |number, digit| number * 10 + digit);
    match unit {
        b'H' => Some(Duration::from_secs(number * 3600)),
        b'M' => Some(Duration::from_secs(number * 60)),
        b'S' => Some(Duration::from_secs(number)),
        b'm' => Some(Duration::from_millis(number)),
        b'u' => Some(Duration::from_micros(number)),
        b'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_no_deadline() {
        let read = |text: &str| parse(text.as_bytes());
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("3M"), Some(Duration::from_secs(180)));
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("10000000u"), Some(Duration::from_secs(10)));
        assert_eq!(read("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "10", "123456789S", "-1S", "1.5S", "1s", "٣S"] {
            assert_eq!(read(bad), None, "{bad:?} was read");
        }
    }

    #[test]
    fn the_node_answers_before_the_caller_hangs_up() {
        let after = |header: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", header.parse().unwrap());
            of(&metadata)
        };
        assert_eq!(after("800m"), Some(Duration::from_millis(700)));
        assert_eq!(after("10S"), Some(Duration::from_millis(9_750)));
        assert_eq!(of(&MetadataMap::new()), None);
    }
}
