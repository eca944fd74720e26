//! Writes that another node kept for a home, as they come in here.
//!
//! **Owns**: reading them, the answer to each.
//! **Does not own**: doing them in order (node), whether one was done before (the core).

use std::time::Duration;

use domicile_core::{EarlierTries, Purpose};
use domicile_proto::record::RecordBody;
use domicile_proto::v1::{self, forward_response, forward_result};
use domicile_proto::{Keyspace, PartitionId, Reason};

use super::door::{error_message, read_request_id, receipt_message};
use super::forward::take_seen;
use super::messages::partition_of_bytes;
use crate::driver::PreparedWrite;
use crate::error::Error;
use crate::node::{NodeCore, one_partition};

/// Writes in one message: as many as a sender ever puts in one, four times. Doubled, a peer can
/// make this node hold twice as much.
const WRITES_MAX: usize = 1024;

/// How long they may take if the sender does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);

/// Does writes of one partition that were kept elsewhere.
pub(super) async fn answer(
    node: &NodeCore,
    message: v1::ForwardBuffered,
    timeout: Option<Duration>,
) -> Result<forward_response::Response, Error> {
    let partition = partition_of_bytes(&message.partition)?;
    let keyspace = node.topology.keyspace(partition.keyspace);
    let keyspace = keyspace.ok_or_else(|| {
        let message = format!("no keyspace {}", partition.keyspace);
        Error::new(Reason::KeyspaceNotFound, message)
    })?;
    let actual = message.writes.len();
    if actual > WRITES_MAX {
        let text = format!("{actual} writes in a message, limit {WRITES_MAX}");
        return Err(Error::new(Reason::InvalidArgument, text));
    }
    node.check_residency(&keyspace)?;
    let timeout = timeout.unwrap_or(TIMEOUT_DEFAULT);
    let deadline = node.clock.now().plus(timeout);
    let (mut writes, mut unreadable) = (Vec::with_capacity(actual), None);
    for message in message.writes {
        match read(message, &keyspace, partition) {
            Ok(read) => writes.push(PreparedWrite { deadline, ..read }),
            Err(error) => {
                unreadable = Some(error);
                break;
            }
        }
    }
    let asked = writes.len();
    let mut results = node.write_in_order(partition, writes, timeout).await;
    let all_done = results.len() == asked && results.iter().all(Result::is_ok);
    results.extend(unreadable.filter(|_| all_done).map(Err));
    let results = results.into_iter().map(|result| v1::ForwardResult {
        result: Some(match result {
            Ok(receipt) => {
                let receipt = receipt_message(&receipt, &keyspace.regions);
                forward_result::Result::Receipt(receipt)
            }
            Err(error) => forward_result::Result::Error(error_message(&error)),
        }),
    });
    let results = results.collect();
    let results = v1::ForwardResults { results };
    Ok(forward_response::Response::Results(results))
}

fn read(
    message: v1::BufferedForward,
    keyspace: &Keyspace,
    partition: PartitionId,
) -> Result<PreparedWrite, Error> {
    let (body, operations) = RecordBody::from_untrusted(message.body)?;
    let actual = one_partition(keyspace, operations.iter().map(|each| each.key()))?;
    if actual != partition {
        let text = format!("a write of {actual} among those of {partition}");
        return Err(Error::new(Reason::InvalidBatch, text));
    }
    Ok(PreparedWrite {
        purpose: Purpose::Request,
        request_id: read_request_id(&message.request_id)?,
        operations,
        body,
        preconditions: Vec::new(),
        level: None,
        deadline: domicile_core::Moment::START,
        earlier_tries: EarlierTries::NotInLogUpto(take_seen(message.searched_upto)?),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use domicile_proto::{Name, Operation, RegionId};
    use prost::Message;

    use super::*;
    use crate::fuzz_tests::attack;

    fn keyspace() -> Keyspace {
        let region = RegionId::new(1).unwrap();
        Keyspace::new(Name::new("users").unwrap(), vec![region], region)
    }

    fn message(key: &'static str) -> v1::BufferedForward {
        let put = Operation::Put {
            key: Bytes::from_static(key.as_bytes()),
            value: Bytes::from_static(b"value"),
            expiry: None,
        };
        v1::BufferedForward {
            body: RecordBody::encode(&[put]).unwrap().bytes().clone(),
            request_id: Bytes::from_static(&[1; 16]),
            searched_upto: Some(v1::SeenMark {
                epoch_counter: 3,
                epoch_node: 9,
                seq: 77,
            }),
        }
    }

    #[test]
    fn a_write_of_another_partition_is_refused() {
        let keyspace = keyspace();
        let partition = keyspace.partition_of(b"a");
        let read = |key| read(message(key), &keyspace, partition);
        let Ok(PreparedWrite { earlier_tries, .. }) = read("a") else {
            panic!("it was refused");
        };
        let EarlierTries::NotInLogUpto(Some(upto)) = earlier_tries else {
            panic!("what was searched is lost");
        };
        assert_eq!((upto.epoch.counter, upto.seq.get()), (3, 77));
        let mut keys = ["b", "c", "d", "e", "f", "g"].into_iter();
        let other = keys.find(|key| keyspace.partition_of(key.as_bytes()) != partition);
        let refused = read(other.unwrap()).map(|_| ()).unwrap_err();
        assert_eq!(refused.reason(), Reason::InvalidBatch);
    }

    #[test]
    fn fuzz_writes_kept_elsewhere() {
        let keyspace = keyspace();
        let partition = keyspace.partition_of(b"a");
        attack(&[message("a").encode_to_vec()], &|bytes| {
            if let Ok(message) = v1::BufferedForward::decode(bytes) {
                let _ = read(message, &keyspace, partition);
            }
        });
    }
}
