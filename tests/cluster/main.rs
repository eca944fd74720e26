//! Several regions in one process over real sockets and our own WAN: what each ack level means,
//! who answers what, and what a peer that misbehaves achieves.

#![allow(
    clippy::unwrap_used,
    reason = "what cannot go on fails where it stands"
)]

mod altering;
mod backup;
mod bench_failover;
mod bootstrap;
mod buffering;
mod damage;
mod degrading;
mod expiry;
mod hostile;
mod incidents;
mod levels;
mod membership;
mod orphans;
mod processes;
mod reads;
mod regions;
mod restarts;
mod retention;
mod rig;
mod scene;
mod switchover;
mod takeover;
mod watch;
mod watch_doors;
mod watch_ends;
mod writes;
