//! Durable puts into an embedded node, by 1 and by 64 writers at once.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use domicile::{KeyspaceHandle, Node};

async fn write(users: KeyspaceHandle, writer: u64, writes: u64) {
    for index in 0..writes {
        let key = format!("{:016}", (writer * 7919 + index * 104_729) % 100_000);
        users
            .put(key, vec![b'v'; 128])
            .into_future()
            .await
            .expect("acknowledged");
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("embedded put");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5));
    group.throughput(Throughput::Elements(1));
    for writers in [1_u64, 64] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let data = directory.path().join("data");
        let node = runtime
            .block_on(Node::builder(data).keyspace("users", |_| {}).open())
            .expect("a new directory opens");
        let users = node.keyspace("users").expect("the keyspace exists");
        group.bench_function(format!("{writers} writers"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|writes| {
                let users = users.clone();
                async move {
                    let share = writes.div_ceil(writers);
                    let began = Instant::now();
                    let tasks = (0..writers)
                        .map(|writer| tokio::spawn(write(users.clone(), writer, share)));
                    for task in tasks.collect::<Vec<_>>() {
                        task.await.expect("no panic");
                    }
                    began
                        .elapsed()
                        .mul_f64(writes as f64 / (share * writers) as f64)
                }
            });
        });
        runtime.block_on(node.close()).expect("closes");
    }
    group.finish();
}
