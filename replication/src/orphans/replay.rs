//! Writing the open records of an orphan file again, through their home.
//!
//! **Owns**: the order, the windows, what is decided and when, where a run ends.
//! **Does not own**: one window's records (`window`), who touched their keys (`touches`).

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use domicile_proto::{Reason, Seq};
use domicile_storage::{Orphan, OrphanScan, OrphanState, StoreError};
use futures::StreamExt;
use futures::future::join_all;

use super::call::{OrphanReplay, OrphanStream, ReplayOutcome, ReplayStep, tell};
use super::show::{Answers, WINDOW_BYTES, WINDOW_RECORDS};
use super::touches::{KeyHash, Touches};
use super::window::{Look, Replayed, Replaying};
use crate::clock::Clock;
use crate::error::Error;
use crate::node::NodeCore;
use crate::ownership::blocking;

impl NodeCore {
    pub(crate) async fn replay_orphans(
        self: &Arc<Self>,
        call: OrphanReplay,
    ) -> Result<OrphanStream<ReplayStep>, Error> {
        let turn = self.orphan_tally.turn()?;
        let scan = self.open_orphans(call.file).await?;
        let file = *scan.file();
        let keyspace = self.keyspace_of(&file)?;
        if let Some(only) = call.only
            && (only < file.first_seq() || only > file.last_seq)
        {
            let (first, last) = (file.first_seq(), file.last_seq);
            let message = format!("record {only}, the file has {first} to {last}");
            return Err(Error::new(Reason::InvalidArgument, message).with("field", "seq"));
        }
        let (answers, stream) = OrphanStream::new();
        let replaying = Replaying {
            node: Arc::clone(self),
            file,
            keyspace,
            replayed: BTreeMap::new(),
        };
        tokio::spawn(async move {
            let mut run = Run {
                replaying,
                only: call.only,
                answers,
                is_left: false,
            };
            if let Err(error) = run.go(scan).await {
                // Who has gone away needs no reason.
                tell(&run.replaying.node, &run.answers, Err(error)).await;
            }
            drop(turn);
        });
        Ok(stream)
    }
}

/// One run over a file.
struct Run {
    replaying: Replaying,
    only: Option<Seq>,
    answers: Answers<ReplayStep>,
    /// Nobody takes the answers any more.
    is_left: bool,
}

impl Run {
    async fn go(&mut self, scan: OrphanScan) -> Result<(), Error> {
        let (node, file) = (Arc::clone(&self.replaying.node), self.replaying.file);
        let (store, only) = (Arc::clone(&node.store), self.only);
        let keys = blocking(move || {
            let all = store.orphan_records(file.id())?;
            open_keys(all, only)
        });
        let mut touches = Touches::new(&node.store, &file, keys.await?);
        let mut reader = Reader { scan, held: None };
        loop {
            let (rest, records) = blocking(move || reader.window()).await?;
            reader = rest;
            if records.is_empty() {
                return Ok(());
            }
            if *node.closed.borrow() {
                return Err(Error::new(Reason::Draining, "the node is closing"));
            }
            let open = self.set_aside(records).await;
            self.window(open, &mut touches).await?;
            if self.is_left {
                return Ok(());
            }
        }
    }

    /// Keeps those that are to be written; of the others, those that were replayed are noted.
    async fn set_aside(&mut self, records: Vec<Orphan>) -> Vec<Orphan> {
        let mut open = Vec::new();
        for orphan in records {
            let is_wanted = self.only.is_none_or(|only| only == orphan.position.seq);
            match orphan.state {
                OrphanState::Open if is_wanted => open.push(orphan),
                OrphanState::Open => {}
                state => {
                    if state == OrphanState::Replayed {
                        self.note(&orphan, None);
                    }
                    if self.only == Some(orphan.position.seq) {
                        let step = step_of(&orphan, ReplayOutcome::Decided(state));
                        self.tell(step).await;
                    }
                }
            }
        }
        open
    }

    /// Writes the records of one window. What could be done is decided and told, also if the rest
    /// could not.
    async fn window(&mut self, open: Vec<Orphan>, touches: &mut Touches) -> Result<(), Error> {
        let replaying = &self.replaying;
        let looks = futures::stream::iter(open).map(|orphan| replaying.look(orphan));
        let looks: Vec<Result<Look, Error>> = looks.buffered(WINDOW_RECORDS).collect().await;
        let (mut over, mut go_on, mut failed) = (Vec::new(), Vec::new(), None);
        for look in looks {
            match look {
                Ok(Look::Over(orphan, outcome)) => over.push((orphan, outcome)),
                Ok(Look::GoesOn(looked)) => go_on.push(looked),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        if let Some(upto) = go_on.iter().filter_map(|it| it.follow_upto()).max() {
            touches.follow(&replaying.node, upto).await?;
        }
        let writes = go_on.into_iter().map(|it| replaying.write(it, touches));
        for written in join_all(writes).await {
            match written {
                Ok(written) => over.push(written),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        over.sort_by_key(|(orphan, _)| orphan.position.seq);
        self.decide(&over).await?;
        for (orphan, outcome) in over {
            if let ReplayOutcome::Replayed(version) | ReplayOutcome::Superseded(version) = &outcome
            {
                self.note(&orphan, Some(*version));
            }
            let step = step_of(&orphan, outcome);
            self.tell(step).await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// The first answer that is not taken is the last that is tried.
    async fn tell(&mut self, step: ReplayStep) {
        let node = &self.replaying.node;
        self.is_left = self.is_left || !tell(node, &self.answers, Ok(step)).await;
    }

    /// Decides, durably, which are replayed.
    async fn decide(&self, over: &[(Orphan, ReplayOutcome)]) -> Result<(), Error> {
        let mut ranges: Vec<(Seq, Seq)> = Vec::new();
        for (orphan, outcome) in over {
            let is_done = matches!(
                outcome,
                ReplayOutcome::Replayed(_) | ReplayOutcome::Superseded(_)
            );
            let seq = orphan.position.seq;
            match ranges.last_mut() {
                _ if !is_done => {}
                Some((_, last)) if last.next() == seq => *last = seq,
                _ => ranges.push((seq, seq)),
            }
        }
        let node = &self.replaying.node;
        let (store, id) = (Arc::clone(&node.store), self.replaying.file.id());
        let decided = blocking(move || {
            let now_ms = Clock::wall_ms();
            ranges.into_iter().try_for_each(|(first, last)| {
                store.decide_orphans(id, first, last, OrphanState::Replayed, now_ms)
            })
        });
        let decided = decided.await;
        node.orphan_tally.changed();
        decided
    }

    /// Notes that a record was replayed: its keys are as this file left them.
    fn note(&mut self, orphan: &Orphan, version: Option<domicile_proto::Version>) {
        let operations = orphan.record.body.operations().unwrap_or_default();
        for operation in &operations {
            let replayed = Replayed {
                // Not a part of the file's bytes, which would all be kept for it.
                key: Bytes::copy_from_slice(operation.key()),
                request_id: orphan.record.head.request_id,
                at: version.map(|version| domicile_proto::Position {
                    epoch: version.epoch,
                    seq: version.seq,
                }),
            };
            let hash = KeyHash::of(operation.key());
            self.replaying.replayed.insert(hash, replayed);
        }
    }
}

fn step_of(orphan: &Orphan, outcome: ReplayOutcome) -> ReplayStep {
    let operations = orphan.record.body.operations().unwrap_or_default();
    let first = operations.first().map(|operation| operation.key());
    ReplayStep {
        position: orphan.position,
        key: first
            .map(|key| Bytes::copy_from_slice(key))
            .unwrap_or_default(),
        request_id: orphan.record.head.request_id,
        outcome,
    }
}

/// The keys that may be looked for in the log.
fn open_keys(all: OrphanScan, only: Option<Seq>) -> Result<BTreeSet<KeyHash>, StoreError> {
    let mut keys = BTreeSet::new();
    for orphan in all {
        let orphan = orphan?;
        let is_wanted = only.is_none_or(|only| only == orphan.position.seq);
        if is_wanted && orphan.state == OrphanState::Open {
            keys.extend(keys_of(&orphan));
        }
    }
    Ok(keys)
}

fn keys_of(orphan: &Orphan) -> Vec<KeyHash> {
    let operations = orphan.record.body.operations().unwrap_or_default();
    let keys = operations.iter().map(|operation| operation.key());
    keys.map(|key| KeyHash::of(key)).collect()
}

/// The records of a file, window by window.
struct Reader {
    scan: OrphanScan,
    /// Read already, and of the next window.
    held: Option<Orphan>,
}

impl Reader {
    /// The next records, no key twice; none at the end.
    fn window(mut self) -> Result<(Self, Vec<Orphan>), StoreError> {
        let (mut window, mut keys, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        while window.len() < WINDOW_RECORDS && bytes < WINDOW_BYTES {
            let next = match mem::take(&mut self.held) {
                Some(held) => Some(held),
                None => self.scan.next().transpose()?,
            };
            let Some(orphan) = next else {
                break;
            };
            let own = keys_of(&orphan);
            if own.iter().any(|key| keys.contains(key)) {
                self.held = Some(orphan);
                break;
            }
            keys.extend(own);
            bytes += orphan.record.body.bytes().len();
            window.push(orphan);
        }
        Ok((self, window))
    }
}
