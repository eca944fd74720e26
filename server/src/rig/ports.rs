//! Free ports of loopback.
//!
//! **Owns**: finding them.
//! **Does not own**: keeping them free until their user listens; nothing can.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// `count` different addresses that nobody listens on.
///
/// # Errors
/// There is no free port.
pub fn free_addresses(count: usize) -> io::Result<Vec<SocketAddr>> {
    // All held at once, else the same port comes twice.
    let listeners: io::Result<Vec<_>> = (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect();
    listeners?.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_differ() {
        let mut addresses = free_addresses(8).unwrap();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 8);
    }
}
