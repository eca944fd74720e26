//! One call from its deadline to its answer: attempts, back-off, what an error means.
//!
//! **Owns**: when a call is sent again, and when a write's end is unknown rather than failed.
//! **Does not own**: the channels (`connection`), the reasons (proto).

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use domicile_proto::v1::admin_client::AdminClient;
use domicile_proto::v1::kv_client::KvClient;
use domicile_proto::{ErrorKind, RequestId, v1};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::connection::Client;
use crate::error::{ClientError, Origin};
use crate::options::{MESSAGE_BYTES_MAX, Retry};

/// First pause between attempts; doubled, a restarted connection is used that much later.
pub(crate) const PAUSE_FIRST: Duration = Duration::from_millis(10);

/// Longest pause: a takeover takes seconds, asking once a second adds little to it.
pub(crate) const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A message that one method of one service answers.
pub(crate) trait Method: Clone + Send + 'static {
    type Answer: Send;

    /// The id that makes a write safe to repeat; `None` for what changes nothing.
    fn write_id(&self) -> Option<Option<RequestId>> {
        None
    }

    fn send(
        request: Request<Self>,
        channel: Channel,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

/// The limits of a client of the data services.
pub(crate) fn kv(channel: Channel) -> KvClient<Channel> {
    KvClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

pub(crate) fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

macro_rules! methods {
    ($($door:ident.$method:ident($request:ty) -> $answer:ty $(, $write:ident)?;)+) => {
        $(impl Method for $request {
            type Answer = $answer;

            $(fn write_id(&self) -> Option<Option<RequestId>> {
                Some($write(self.options.as_ref()))
            })?

            async fn send(
                request: Request<Self>,
                channel: Channel,
            ) -> Result<Response<Self::Answer>, Status> {
                $door(channel).$method(request).await
            }
        })+
    };
}

methods! {
    kv.get(v1::GetRequest) -> v1::GetResponse;
    kv.put(v1::PutRequest) -> v1::WriteResponse, id_of;
    kv.delete(v1::DeleteRequest) -> v1::WriteResponse, id_of;
    kv.compare_and_set(v1::CompareAndSetRequest) -> v1::WriteResponse, id_of;
    kv.batch(v1::BatchRequest) -> v1::WriteResponse, id_of;
    kv.scan(v1::ScanRequest) -> v1::ScanResponse;
    kv.outcome(v1::OutcomeRequest) -> v1::OutcomeResponse;
    admin.status(v1::StatusRequest) -> v1::StatusResponse;
    admin.list_orphans(v1::ListOrphansRequest) -> v1::ListOrphansResponse;
    admin.list_buffered(v1::ListBufferedRequest) -> v1::ListBufferedResponse;
    admin.show_buffered(v1::ShowBufferedRequest) -> v1::ShowBufferedResponse;
    admin.discard_buffered(v1::DiscardBufferedRequest) -> v1::DiscardBufferedResponse;
    admin.list_keyspaces(v1::ListKeyspacesRequest) -> v1::ListKeyspacesResponse;
    admin.plan_failover(v1::PlanFailoverRequest) -> v1::PlanFailoverResponse;
    admin.create_keyspace(v1::CreateKeyspaceRequest) -> v1::CreateKeyspaceResponse;
    admin.alter_keyspace(v1::AlterKeyspaceRequest) -> v1::AlterKeyspaceResponse;
    admin.add_region(v1::AddRegionRequest) -> v1::AddRegionResponse;
    admin.remove_region(v1::RemoveRegionRequest) -> v1::RemoveRegionResponse;
    admin.give_up_homes(v1::GiveUpHomesRequest) -> v1::GiveUpHomesResponse;
    admin.switch_over(v1::SwitchOverRequest) -> v1::SwitchOverResponse;
    admin.list_home_changes(v1::ListHomeChangesRequest) -> v1::ListHomeChangesResponse;
}

fn id_of(options: Option<&v1::WriteOptions>) -> Option<RequestId> {
    let bytes = <[u8; 16]>::try_from(&options?.request_id[..]).ok()?;
    RequestId::new(u128::from_be_bytes(bytes)).ok()
}

/// Sends `message` until it is answered, refused for good, or `timeout` is over.
pub(crate) async fn call<M: Method>(
    client: &Client,
    message: M,
    timeout: Option<Duration>,
) -> Result<M::Answer, ClientError> {
    let timeout = timeout.unwrap_or(client.options().timeout);
    let deadline = Instant::now() + timeout;
    let write = message.write_id();
    let (mut left, mut pause, mut maybe_done) = (timeout, PAUSE_FIRST, false);
    loop {
        let (place, channel) = client.current();
        let mut request = Request::new(message.clone());
        request.set_timeout(left);
        let error = match M::send(request, channel).await {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => ClientError::from_status(status).at(client.address(place)),
        };
        maybe_done |= error.origin() == Origin::Transport;
        let wait = jittered(error.retry_after().unwrap_or(pause).min(PAUSE_MAX));
        left = deadline.saturating_duration_since(Instant::now() + wait);
        let repeat = error.is_repeated() && client.options().retry == Retry::UntilDeadline;
        if !repeat || left.is_zero() {
            return Err(conclude(error, write, maybe_done));
        }
        client.turn_from(place);
        tokio::time::sleep(wait).await;
        pause = pause.saturating_mul(2).min(PAUSE_MAX);
    }
}

/// The last error as the caller should see it: a write that some attempt may have handed to a
/// server has not failed, unless a server said what became of it.
fn conclude(error: ClientError, write: Option<Option<RequestId>>, maybe_done: bool) -> ClientError {
    let tells_the_end = error.origin() == Origin::Server
        && !matches!(error.kind(), ErrorKind::NoHome | ErrorKind::Unavailable);
    match write {
        Some(id) if maybe_done && !tells_the_end => ClientError::indeterminate(id, &error),
        _ => error,
    }
}

/// Between half and all of `pause`, so that callers that failed together come back apart.
pub(crate) fn jittered(pause: Duration) -> Duration {
    let dice = RandomState::new().hash_one(0_u8) >> 40;
    let half = pause / 2;
    half + half.mul_f64(dice as f64 / (1_u64 << 24) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use domicile_proto::Reason;

    fn unavailable() -> ClientError {
        ClientError::from_status(Status::unavailable("reset"))
    }

    fn refused(reason: Reason) -> ClientError {
        ClientError::from_result(v1::WriteError {
            reason: reason.as_str().to_owned(),
            ..v1::WriteError::default()
        })
    }

    #[test]
    fn a_write_that_may_have_been_done_has_not_failed() {
        let id = RequestId::new(7).ok();
        let kind = |error, write, maybe_done| conclude(error, write, maybe_done).kind();
        assert_eq!(
            kind(unavailable(), Some(id), true),
            ErrorKind::Indeterminate
        );
        assert_eq!(kind(unavailable(), None, true), ErrorKind::Unavailable);
        assert_eq!(kind(unavailable(), Some(id), false), ErrorKind::Unavailable);
        let draining = refused(Reason::Draining);
        assert_eq!(kind(draining, Some(id), true), ErrorKind::Indeterminate);
        let conflict = refused(Reason::VersionMismatch);
        assert_eq!(kind(conflict, Some(id), true), ErrorKind::Conflict);
    }

    #[test]
    fn what_is_repeated_is_what_the_interface_says() {
        let repeated = [
            Reason::NoHome,
            Reason::Recovering,
            Reason::Draining,
            Reason::WrongHome,
            Reason::StaleEpoch,
        ];
        for reason in repeated {
            assert!(refused(reason).is_repeated(), "{reason} is not repeated");
        }
        let given_back = [
            Reason::Overloaded,
            Reason::RpoExceeded,
            Reason::Indeterminate,
            Reason::VersionMismatch,
            Reason::InvalidKey,
            Reason::DeadlineExceeded,
        ];
        for reason in given_back {
            assert!(!refused(reason).is_repeated(), "{reason} is repeated");
        }
    }

    #[test]
    fn pauses_keep_within_half_and_all() {
        let pause = Duration::from_millis(100);
        for _ in 0..1_000 {
            let chosen = jittered(pause);
            assert!(chosen >= pause / 2 && chosen <= pause, "{chosen:?}");
        }
    }
}
