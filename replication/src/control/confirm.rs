//! Confirming leadership, one round for all who ask at the same time.
//!
//! **Owns**: which round a caller belongs to: one that begins after the call.
//! **Does not own**: the round itself (openraft's `ensure_linearizable`).
//!
//! ```text
//! calls   a  b          c d                 e
//! rounds  |--- a ---|   |
//!                   |--- b, c, d ... no: b alone waits for a's end, c and d join b's next ---|
//! ```
//! What openraft 0.9.25 does in a round (`handle_check_is_leader_request`): it notes the larger of
//! what is committed and the first entry of its term, sends an empty AppendEntries with its vote to
//! all other voters of the members in effect, and counts every answer but a higher vote, for one
//! heartbeat interval. Then it waits until the noted entry is applied here.
//!
//! So a confirmation says: at some moment after the call began, a majority of each set of voters
//! had promised itself to nobody above this leader and term. No later leader had been elected by
//! then, and whatever had been committed anywhere before the call is applied here. It says nothing
//! about the time after: the voters that answered refuse other candidates for a lease from then on,
//! but by clocks, and one that restarts counts from its start. A lease that is granted on it must
//! be waited out by whoever comes next, by rules of its own.

use std::sync::Arc;
use std::time::Duration;

use domicile_storage::control_log::Term;
use tokio::sync::{mpsc, oneshot};

use super::core::Core;
use super::error::ControlError;

/// Most callers that wait for the next round: far more than one node's leases ask at once. Above it
/// callers are told to come again.
const WAITING_MAX: usize = 4096;

/// A confirmed leadership: this node led in `term` at a moment after it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// In which term; with this node's id it names the leadership.
    pub term: Term,
}

type Caller = oneshot::Sender<Result<Confirmed, Refused>>;

/// An error that all callers of a round can be told.
#[derive(Debug, Clone)]
enum Refused {
    NotLeader,
    Unavailable(Arc<str>),
    Stopped(Arc<str>),
}

/// Where callers wait.
#[derive(Debug, Clone)]
pub(super) struct Rounds(mpsc::Sender<Caller>);

impl Rounds {
    /// The place to wait, and the task that runs the rounds.
    pub(super) fn new(core: Arc<Core>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self(sender), run(core, receiver))
    }

    /// Waits for a round that begins now or later.
    pub(super) async fn join(
        &self,
        core: &Core,
        within: Duration,
    ) -> Result<Confirmed, ControlError> {
        let (caller, answer) = oneshot::channel();
        self.0.try_send(caller).map_err(|_| {
            ControlError::unavailable(format!("{WAITING_MAX} callers wait for a confirmation"))
        })?;
        let answer = tokio::time::timeout(within, answer).await.map_err(|_| {
            let waited = within.as_millis();
            ControlError::unavailable(format!("no quorum has confirmed within {waited} ms"))
        })?;
        match answer {
            Ok(Ok(confirmed)) => Ok(confirmed),
            Ok(Err(Refused::NotLeader)) => Err(core.not_leader()),
            Ok(Err(Refused::Unavailable(problem))) => Err(ControlError::unavailable(&*problem)),
            Ok(Err(Refused::Stopped(cause))) => Err(ControlError::Stopped {
                cause: cause.to_string(),
            }),
            Err(_) => Err(ControlError::Stopped {
                cause: "shut down".to_owned(),
            }),
        }
    }
}

async fn run(core: Arc<Core>, mut waiting: mpsc::Receiver<Caller>) {
    while let Some(first) = waiting.recv().await {
        let mut callers = vec![first];
        // Everyone who is here called before the round begins.
        while let Ok(caller) = waiting.try_recv() {
            callers.push(caller);
        }
        let outcome = round(&core).await;
        for caller in callers {
            // Who does not wait any more needs no answer.
            let _ = caller.send(outcome.clone());
        }
    }
}

async fn round(core: &Core) -> Result<Confirmed, Refused> {
    let before = core.view().await.map_err(refused)?;
    if !before.leads {
        return Err(Refused::NotLeader);
    }
    let checked = core.raft.0.ensure_linearizable();
    let checked = tokio::time::timeout(core.timings.lease, checked).await;
    let checked = checked.map_err(|_| Refused::Unavailable("not applied in time".into()))?;
    checked.map_err(|error| refused(core.check_error(error)))?;
    let after = core.view().await.map_err(refused)?;
    if !after.leads || after.vote != before.vote {
        return Err(Refused::NotLeader);
    }
    let term = Term::new(before.vote.leader_id.term);
    Ok(Confirmed { term })
}

fn refused(error: ControlError) -> Refused {
    match error {
        ControlError::NotLeader { .. } => Refused::NotLeader,
        ControlError::Stopped { cause } => Refused::Stopped(cause.into()),
        other => Refused::Unavailable(other.to_string().into()),
    }
}
