//! I11: a read is as fresh as was asked, and what it saw was really there.
//!
//! **Owns**: linearizable reads at homes, sessions, values.
//! **Does not own**: whether a caller got an answer at all (`liveness`).

use domicile_proto::{Epoch, Seq};

use super::{ack_truth, lineage};
use crate::clients::{Freshness, Kind, Seen};
use crate::scene::Scene;
use crate::truth::{Called, Outcome, TakenOver};

pub(crate) fn check(scene: &mut Scene) {
    let mut problem = None;
    for read in &scene.truth.calls {
        if let (Outcome::SessionLost, Kind::Read(Freshness::Session(epoch, seq))) =
            (&read.outcome, &read.op.kind)
        {
            problem = problem.or(falsely_lost((*epoch, *seq), read, scene));
            continue;
        }
        let (Outcome::Read(seen), Kind::Read(freshness)) = (&read.outcome, &read.op.kind) else {
            continue;
        };
        let found = value(read, seen, scene).or_else(|| match freshness {
            Freshness::Home => newest(read, seen, scene),
            Freshness::Session(epoch, seq) => session((*epoch, *seq), read, seen, scene),
            Freshness::Local => None,
        });
        problem = problem.or(found);
    }
    if let Some(problem) = problem {
        scene.fail("I11 reads", problem);
    }
}

/// Whether a record is in every log that came after it.
fn is_kept(scene: &Scene, read: &Called, at: (Epoch, Seq)) -> bool {
    lineage::lost_at(&scene.truth, read.op.partition, at).is_none()
}

/// Whether the home of a reign did not have a record that its level allows to lose there. A later
/// home may have it again: one that follows a home which never wrote.
fn is_rightly_lost(scene: &Scene, other: &Called, at: (Epoch, Seq), reign: Epoch) -> bool {
    let partition = other.op.partition;
    let Some(lost) = lineage::lost_in(&scene.truth, partition, at, reign) else {
        return false;
    };
    let acked = scene.truth.acked.iter();
    let mut acked = acked
        .filter(|it| it.partition == partition && (it.epoch(), it.seq()) == at)
        .peekable();
    acked.peek().is_some() && acked.all(|it| ack_truth::forbidden(it, lost, scene).is_none())
}

/// It was written so, was the newest at its place, and where no loss is allowed it was not lost.
fn value(read: &Called, seen: &Seen, scene: &Scene) -> Option<String> {
    let (partition, truth) = (read.op.partition, &scene.truth);
    if let Some(version) = seen.version {
        let at = (version.epoch, version.seq);
        let written = truth.records.get(&(partition, at.0, at.1));
        let is_so = written.is_some_and(|it| it.key == read.op.key && it.value == seen.value);
        if !is_so {
            return Some(format!("{read:?} saw what was not written: {written:?}"));
        }
        let lost = lineage::lost_at(truth, partition, at);
        let lost = lost.filter(|lost| !lineage::is_lost_by_word(truth, partition, at, lost.to));
        let mut logs = truth.logs.iter().filter(|((_, id), _)| *id == partition);
        let is_excused = logs.any(|(_, log)| log.has_lost(at.0, at.1));
        let is_strict = |lost: &TakenOver| lineage::is_revoked(truth, partition, (at.0, lost.to));
        if lost.is_some_and(is_strict) && !is_excused {
            return Some(format!("{read:?} saw what was lost at {lost:?}"));
        }
    }
    let epoch = seen.epoch.filter(|_| seen.is_home)?;
    let reigns = lineage::of_home(truth, partition, epoch)?;
    let fold = lineage::fold(truth, partition, &reigns, seen.applied_upto);
    let expected = fold.get(&read.op.key).map(|(version, _)| *version);
    let differs = expected != seen.version;
    differs.then(|| format!("{read:?} saw {:?} where {expected:?} was", seen.version))
}

/// What was acknowledged, or read at the home, before it began is seen.
fn newest(read: &Called, seen: &Seen, scene: &Scene) -> Option<String> {
    let epoch = seen.epoch?;
    for other in &scene.truth.calls {
        if other.op.partition != read.op.partition || other.ended_us >= read.began_us {
            continue;
        }
        let (before, upto) = match &other.outcome {
            Outcome::Wrote(receipt) => {
                let at = (receipt.position.epoch, receipt.position.seq);
                if !is_kept(scene, other, at) || is_rightly_lost(scene, other, at, epoch) {
                    continue;
                }
                at
            }
            Outcome::Read(seen) if other.op.kind == Kind::Read(Freshness::Home) => {
                match seen.epoch {
                    Some(epoch) => (epoch, Seq::NONE),
                    None => continue,
                }
            }
            _ => continue,
        };
        let is_by_word = scene
            .truth
            .takeovers
            .iter()
            .any(|it| it.partition == read.op.partition && it.is_unfenced && it.to > epoch);
        if (epoch < before || seen.applied_upto < upto) && !is_by_word {
            return Some(format!("{read:?} is older than {other:?}"));
        }
    }
    None
}

/// The session's own record was there, or it was said to be lost.
fn session(
    (epoch, seq): (Epoch, Seq),
    read: &Called,
    seen: &Seen,
    scene: &Scene,
) -> Option<String> {
    if seen.applied_upto < seq {
        return Some(format!("{read:?} does not reach {epoch} {seq}"));
    }
    let log = scene.truth.logs.get(&(seen.node, read.op.partition))?;
    let had = log.had(epoch, seq) || log.base >= seq || seen.is_home && seen.epoch == Some(epoch);
    (!had).then(|| format!("{read:?} of a node that never had {epoch} {seq}"))
}

/// What was said to be lost was not there in some later reign.
fn falsely_lost(at: (Epoch, Seq), read: &Called, scene: &Scene) -> Option<String> {
    let partition = read.op.partition;
    let mut later = scene.truth.takeovers.iter();
    let is_lost = later.any(|it| it.partition == partition && it.to > at.0 && !it.has(at.0, at.1));
    (!is_lost).then(|| format!("{read:?} was told of a loss, and every home had it"))
}
