//! Writes as calls: each client has one at a time.
//!
//! **Owns**: the calls of a load and their errors' reasons.
//! **Does not own**: when they begin (`pace`) and what is made of the answers (`load`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use domicile_proto::Seq;
use domicile_proto::v1::PutRequest;
use domicile_proto::v1::kv_client::KvClient;
use futures::stream::{FuturesUnordered, StreamExt};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::load::{Answer, Running, client};
use crate::rig::Random;

/// The pause of a client whose call failed, so that a dead node is not asked in a busy loop.
/// Doubled, half as many errors are counted.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn run(
    running: &Rc<Running<'_>>,
    channels: &[Channel],
    clients: usize,
) -> anyhow::Result<()> {
    let random = Random::new(running.plan.seed);
    let mut all: FuturesUnordered<_> = (0..clients)
        .map(|number| {
            let client = client(&channels[number % channels.len()]);
            one_client(running, client, random.fork(number as u64))
        })
        .collect();
    while all.next().await.is_some() {}
    Ok(())
}

async fn one_client(running: &Rc<Running<'_>>, mut client: KvClient<Channel>, mut random: Random) {
    while let Some(since) = running.pacer.turn().await {
        if running.is_over(Instant::now()) {
            return;
        }
        let (issued, value) = Running::issue(running.plan, &mut random, since);
        let request = PutRequest {
            keyspace: running.plan.keyspace.clone(),
            key: running.plan.keys.key(issued.key),
            value,
            options: None,
            ..PutRequest::default()
        };
        match client.put(request).await {
            Ok(response) => {
                let position = response.into_inner().position;
                let seq = position.map_or(0, |position| position.seq);
                let seq = Seq::new(seq);
                running.answered(issued, Answer::Acked { seq });
            }
            Err(status) => {
                let reason = reason_of(&status);
                running.answered(issued, Answer::Failed { reason });
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// The stable reason of an error, or its code if it has none: then no node has spoken.
pub(super) fn reason_of(status: &Status) -> String {
    match status.get_details_error_info() {
        Some(info) => info.reason,
        // What the transport makes of a connection that breaks, by the moment it does.
        None => match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
                "CONNECTION".to_owned()
            }
            code => format!("{code:?}"),
        },
    }
}
