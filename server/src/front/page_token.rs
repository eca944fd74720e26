//! The token that says where the next page of a scan goes on.
//!
//! **Owns**: its bytes: a version, a digest of the scan it belongs to, the last key of the page.
//! **Does not own**: the scan (`kv`).

use bytes::{BufMut, Bytes, BytesMut};
use domicile_proto::hash::hash64;
use domicile_proto::limits::check_key;
use domicile_proto::{Reason, v1};
use domicile_replication::Error;

/// The first byte; a token of another version is refused, since a scan lives for minutes.
const FORMAT: u8 = 1;

/// Bytes before the key: the version and the digest.
const HEAD_BYTES: usize = 9;

/// What a page's end turns into.
pub(crate) fn encode(scan: &v1::ScanRequest, last_key: &[u8]) -> Bytes {
    let mut token = BytesMut::with_capacity(HEAD_BYTES + last_key.len());
    token.put_u8(FORMAT);
    token.put_u64_le(digest(scan));
    token.put_slice(last_key);
    token.freeze()
}

/// The key after which the scan goes on; `None` for a first page.
///
/// # Errors
/// A token that this node did not give for this scan.
pub(crate) fn decode(scan: &v1::ScanRequest) -> Result<Option<Bytes>, Error> {
    let token = &scan.page_token;
    if token.is_empty() {
        return Ok(None);
    }
    let refuse = |why: &str| {
        let message = format!("invalid page token: {why}");
        Err(Error::new(Reason::InvalidArgument, message).with("field", "page_token"))
    };
    let Some((head, key)) = token.split_at_checked(HEAD_BYTES) else {
        return refuse(&format!(
            "{} bytes, at least {HEAD_BYTES} expected",
            token.len()
        ));
    };
    if head[0] != FORMAT {
        return refuse(&format!("version {}, expected {FORMAT}", head[0]));
    }
    if head[1..] != digest(scan).to_le_bytes() {
        return refuse("it belongs to a scan of another range");
    }
    if check_key(key).is_err() {
        return refuse(&format!("its key has {} bytes", key.len()));
    }
    Ok(Some(token.slice(HEAD_BYTES..)))
}

/// Tells scans apart; limit and consistency may change between pages.
fn digest(scan: &v1::ScanRequest) -> u64 {
    let mut bytes = Vec::with_capacity(64);
    let range = [
        scan.keyspace.as_bytes(),
        &scan.from,
        &scan.upto,
        &scan.prefix,
    ];
    for part in range {
        bytes.put_u64_le(part.len() as u64);
        bytes.put_slice(part);
    }
    bytes.push(u8::from(scan.reverse));
    hash64(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan() -> v1::ScanRequest {
        v1::ScanRequest {
            keyspace: "users".to_owned(),
            from: "a".into(),
            prefix: "al".into(),
            ..v1::ScanRequest::default()
        }
    }

    #[test]
    fn a_token_goes_on_in_its_own_scan_only() {
        let token = encode(&scan(), b"alice/7");
        let goes_on = |change: fn(&mut v1::ScanRequest)| {
            let mut scan = v1::ScanRequest {
                page_token: token.clone(),
                ..scan()
            };
            change(&mut scan);
            decode(&scan)
        };
        assert_eq!(goes_on(|_| ()).unwrap().unwrap(), "alice/7");
        assert_eq!(goes_on(|scan| scan.limit = 7).unwrap().unwrap(), "alice/7");
        let others: [fn(&mut v1::ScanRequest); 5] = [
            |scan| scan.reverse = true,
            |scan| scan.keyspace.push('2'),
            |scan| scan.prefix = "a".into(),
            |scan| scan.from = Bytes::new(),
            |scan| std::mem::swap(&mut scan.from, &mut scan.upto),
        ];
        for change in others {
            assert!(
                goes_on(change)
                    .unwrap_err()
                    .to_string()
                    .contains("another range")
            );
        }
    }

    #[test]
    fn bytes_that_are_no_token_are_refused() {
        let good = encode(&scan(), b"k");
        let long = encode(&scan(), &[b'k'; 1025]);
        let mut old = good.to_vec();
        old[0] = 9;
        for bad in [&good[..9], &good[..5], &b"x"[..], &old, &long] {
            let page_token = Bytes::copy_from_slice(bad);
            let refused = decode(&v1::ScanRequest {
                page_token,
                ..scan()
            });
            assert!(refused.is_err(), "{bad:?} was accepted");
        }
        assert_eq!(decode(&scan()).unwrap(), None);
    }

    /// A token that is taken is one that is given.
    #[test]
    fn fuzz_tokens() {
        let valid = [&b"k"[..], b"alice/7"].map(|key| encode(&scan(), key).to_vec());
        crate::fuzz_tests::attack(&valid, &|bytes| {
            let page_token = Bytes::copy_from_slice(bytes);
            let scan = v1::ScanRequest {
                page_token,
                ..scan()
            };
            if let Ok(Some(key)) = decode(&scan) {
                assert_eq!(encode(&scan, &key), bytes);
            }
        });
    }
}
