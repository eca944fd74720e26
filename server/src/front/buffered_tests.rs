//! Writes that wait for a home, as a client and an operator meet them at the door.
//!
//! **Owns**: a served node whose home region is not there, calls over HTTP/2.
//! **Does not own**: sending what is kept (the workspace's cluster tests).

use std::time::Duration;

use domicile_proto::v1::admin_client::AdminClient;
use domicile_proto::v1::kv_client::KvClient;
use domicile_proto::{BufferLimit, Failover, Keyspace, Name, v1};
use domicile_replication::{Detail, NodeOptions, RegionSpec};
use tonic::{Code, Request};
use tonic_types::StatusExt;

use super::door_tests::{PATIENCE, Served, serve};

/// What a caller waits: the home is looked for for half of it.
const TIMEOUT: Duration = Duration::from_millis(800);

fn options(dir: &tempfile::TempDir) -> NodeOptions {
    let mut options = NodeOptions::single(dir.path());
    let own = options.regions[0].id;
    // A port that nobody listens at.
    let far = RegionSpec::new(
        Name::new("far").unwrap(),
        Some("http://127.0.0.1:9".to_owned()),
    );
    let far_id = far.id;
    options.regions.push(far);
    options.listen = Some("127.0.0.1:0".parse().unwrap());
    let name = Name::new("users").unwrap();
    options.keyspaces.push(Keyspace {
        failover: Failover::Buffer(BufferLimit::default()),
        ..Keyspace::new(name, vec![own, far_id], far_id)
    });
    options
}

async fn served() -> Served {
    let dir = tempfile::tempdir().unwrap();
    let options = options(&dir);
    serve(dir, options).await
}

fn put(key: &str, options: v1::WriteOptions) -> Request<v1::PutRequest> {
    let mut request = Request::new(v1::PutRequest {
        keyspace: "users".to_owned(),
        key: key.to_owned().into(),
        value: "secret".into(),
        options: Some(options),
        ttl_ms: Some(5000),
        ..v1::PutRequest::default()
    });
    request.set_timeout(TIMEOUT);
    request
}

fn named(id: u8) -> v1::WriteOptions {
    v1::WriteOptions {
        request_id: vec![id; 16].into(),
        ..v1::WriteOptions::default()
    }
}

#[tokio::test]
async fn a_write_that_is_kept_is_told_apart_from_one_that_is_done() {
    let served = served().await;
    let mut kv = KvClient::new(served.channel.clone());
    let told = kv.put(put("a/1", named(1))).await.unwrap().into_inner();
    let accepted = told.accepted.clone().expect("it is kept");
    assert_eq!((told.position, told.version.as_str()), (None, ""));
    assert_eq!(told.request_id, vec![1; 16]);
    assert_eq!((accepted.number, accepted.region.as_str()), (1, "local"));
    let refused = v1::WriteOptions {
        applied_only: true,
        ..named(2)
    };
    let refused = kv.put(put("a/2", refused)).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let info = refused.get_details_error_info().unwrap();
    assert!(info.metadata["not_kept"].contains("to be applied or refused"));
    let ask = |id: u8| v1::OutcomeRequest {
        keyspace: "users".to_owned(),
        key: "a/1".into(),
        request_id: vec![id; 16].into(),
    };
    let outcome = kv.outcome(ask(1)).await.unwrap().into_inner();
    assert_eq!(outcome.receipt.unwrap().accepted, Some(accepted));
    let unknown = kv.outcome(ask(3)).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unavailable, "its home is not there");
    let stream = tokio_stream::iter([v1::WriteRequest {
        tag: 7,
        keyspace: "users".to_owned(),
        operations: vec![v1::Operation {
            key: "a/1".into(),
            ..v1::Operation::default()
        }],
        options: Some(named(4)),
    }]);
    let mut results = kv.write(stream).await.unwrap().into_inner();
    let told = tokio::time::timeout(PATIENCE, results.message()).await;
    let told = told.unwrap().unwrap().unwrap();
    let Some(v1::write_result::Result::Receipt(receipt)) = told.result else {
        panic!("{told:?}");
    };
    assert_eq!((told.tag, receipt.accepted.unwrap().number), (7, 2));
    served.close().await;
}

#[tokio::test]
async fn an_operator_looks_at_what_is_kept_and_gives_it_up() {
    let served = served().await;
    let mut kv = KvClient::new(served.channel.clone());
    for id in 1..=3 {
        kv.put(put(&format!("a/{id}"), named(id))).await.unwrap();
    }
    let status = served.node.status(Detail::Summary).keyspaces[0].clone();
    assert_eq!((status.buffered.waiting, status.buffered.refused), (3, 0));
    let mut admin = AdminClient::new(served.channel.clone());
    let page = v1::ListBufferedRequest {
        keyspace: "users".to_owned(),
        after: 1,
        limit: 1,
    };
    let page = admin.list_buffered(page).await.unwrap().into_inner();
    let numbers: Vec<u64> = page.writes.iter().map(|write| write.number).collect();
    assert_eq!(
        (numbers, page.more, page.damaged.as_str()),
        (vec![2], true, "")
    );
    let shown = format!("{page:?}");
    assert!(
        !shown.contains("secret") && !shown.contains("a/2"),
        "{shown}"
    );
    assert_eq!(page.writes[0].keyspace, "users");
    let show = v1::ShowBufferedRequest { number: 2 };
    let shown = admin.show_buffered(show).await.unwrap().into_inner();
    assert_eq!(shown.operations[0].value.as_deref(), Some(&b"secret"[..]));
    assert_eq!(shown.operations[0].ttl_ms, Some(5000));
    let discard = |first, last, confirmed| v1::DiscardBufferedRequest {
        first,
        last,
        refused_only: false,
        confirmed,
    };
    let unconfirmed = admin
        .discard_buffered(discard(2, 9, false))
        .await
        .unwrap_err();
    assert_eq!(unconfirmed.code(), Code::InvalidArgument);
    let none = admin
        .discard_buffered(discard(9, 2, true))
        .await
        .unwrap_err();
    assert_eq!(none.message(), "writes 9 to 2: none");
    let gone = admin.discard_buffered(discard(2, 9, true)).await.unwrap();
    assert_eq!(gone.into_inner().discarded, 2);
    let show = v1::ShowBufferedRequest { number: 2 };
    let missing = admin.show_buffered(show).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let many = v1::ListBufferedRequest {
        limit: 5001,
        ..v1::ListBufferedRequest::default()
    };
    let many = admin.list_buffered(many).await.unwrap_err();
    assert_eq!(many.message(), "page of 5001 rows, limit 5000");
    served.close().await;
}

/// A damaged buffer is never taken for an empty one: nothing is kept, and everybody is told.
#[tokio::test]
async fn a_damaged_buffer_is_out_of_service_and_the_node_is_not() {
    let base = tempfile::tempdir().unwrap();
    let options = NodeOptions {
        data: base.path().join("node"),
        ..options(&base)
    };
    let served = serve(tempfile::tempdir().unwrap(), options.clone()).await;
    let mut kv = KvClient::new(served.channel.clone());
    kv.put(put("a/1", named(1))).await.unwrap();
    drop(kv);
    served.close().await;
    let file = options.data.join("buffer").join("writes");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[30] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let served = serve(base, options).await;
    let damaged = served.node.status(Detail::Summary).buffer_damaged;
    assert!(damaged.contains("checksum mismatch"), "{damaged}");
    let mut kv = KvClient::new(served.channel.clone());
    let refused = kv.put(put("a/2", named(2))).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    drop(kv);
    let mut admin = AdminClient::new(served.channel.clone());
    let page = admin.list_buffered(v1::ListBufferedRequest::default());
    let page = page.await.unwrap().into_inner();
    assert!(page.damaged.contains("checksum mismatch"));
    drop(admin);
    served.close().await;
}
