//! Giving up records of an orphan file, by an operator's word.
//!
//! **Owns**: that only open ones are given up, in runs, each told once that is durable.
//! **Does not own**: asking the operator whether that is meant (the command line).

use std::sync::Arc;

use domicile_proto::{Reason, Seq};
use domicile_storage::{Orphan, OrphanScan, OrphanState, StoreError};

use super::call::{OrphanDiscard, OrphanShown, OrphanStream, tell};
use super::show::{Answers, WINDOW_BYTES, WINDOW_RECORDS};
use crate::clock::Clock;
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

impl NodeCore {
    pub(crate) async fn discard_orphans(
        self: &Arc<Self>,
        call: OrphanDiscard,
    ) -> Result<OrphanStream<OrphanShown>, Error> {
        let turn = self.orphan_tally.turn()?;
        let scan = self.open_orphans(call.file).await?;
        let (first, last) = (scan.file().first_seq(), scan.file().last_seq);
        let (from, upto) = (call.first.unwrap_or(first), call.last.unwrap_or(last));
        if from < first || upto > last || from > upto {
            let message = format!("records {from} to {upto}, the file has {first} to {last}");
            return Err(Error::new(Reason::InvalidArgument, message).with("field", "first_seq"));
        }
        let (answers, stream) = OrphanStream::new();
        let node = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = discard(&node, scan, (from, upto), &answers).await {
                // Who has gone away needs no reason.
                tell(&node, &answers, Err(error)).await;
            }
            drop(turn);
        });
        Ok(stream)
    }
}

async fn discard(
    node: &Arc<NodeCore>,
    mut scan: OrphanScan,
    wanted: (Seq, Seq),
    answers: &Answers<OrphanShown>,
) -> Result<(), Error> {
    let id = scan.file().id();
    loop {
        if *node.closed.borrow() {
            return Err(Error::new(Reason::Draining, "the node is closing"));
        }
        let (rest, run) = blocking(move || read_run(scan, wanted)).await?;
        scan = rest;
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(());
        };
        let (first, last) = (first.position.seq, last.position.seq);
        let store = Arc::clone(&node.store);
        let decided = blocking(move || {
            let (state, now_ms) = (OrphanState::Discarded, Clock::wall_ms());
            store.decide_orphans(id, first, last, state, now_ms)
        });
        let decided = decided.await;
        node.orphan_tally.changed();
        decided?;
        for orphan in run {
            let orphan = Orphan {
                state: OrphanState::Discarded,
                ..orphan
            };
            let superseded = None;
            if !tell(node, answers, Ok(OrphanShown { orphan, superseded })).await {
                return Ok(());
            }
        }
    }
}

/// The next open records without one between them that is not; none at the end.
fn read_run(
    mut scan: OrphanScan,
    (first, last): (Seq, Seq),
) -> Result<(OrphanScan, Vec<Orphan>), StoreError> {
    let (mut run, mut bytes) = (Vec::<Orphan>::new(), 0);
    while run.len() < WINDOW_RECORDS && bytes < WINDOW_BYTES {
        let Some(orphan) = scan.next().transpose()? else {
            break;
        };
        let seq: Seq = orphan.position.seq;
        let is_wanted = seq >= first && seq <= last && orphan.state == OrphanState::Open;
        if is_wanted {
            bytes += orphan.record.body.bytes().len();
            run.push(orphan);
        } else if !run.is_empty() {
            break;
        }
    }
    Ok((scan, run))
}
