//! Journal commits of 1, 64 and 256 records, each one write and one fdatasync; folding into cells.

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use domicile_proto::{Record, Seq};
use domicile_storage::{EngineChoice, OsDisk, Store, StoreOptions};

use crate::codec::{body, epoch, head, partition};

const PARTITIONS: u64 = 8;

struct Bench {
    store: Arc<Store>,
    next: Vec<u64>,
    number: u64,
}

impl Bench {
    fn open(directory: &std::path::Path) -> Self {
        let options = StoreOptions {
            engine: EngineChoice::Memory,
            ..StoreOptions::default()
        };
        let opened = Store::open(Arc::new(OsDisk::new()), directory, options);
        let (store, _) = opened.expect("a new directory opens");
        Self {
            store,
            next: vec![1; PARTITIONS as usize],
            number: 0,
        }
    }

    fn submit(&mut self) -> (u16, Seq) {
        self.number += 1;
        let bucket = self.number % PARTITIONS;
        let next = &mut self.next[bucket as usize];
        let seq = Seq::new(*next);
        *next += 1;
        let record = Record {
            head: head(self.number),
            body: body(self.number),
        };
        let bucket = bucket as u16;
        let submitted =
            self.store
                .submit_record(partition(bucket), epoch(), seq, Seq::NONE, record);
        submitted.expect("the queue has room");
        (bucket, seq)
    }

    fn commit(&mut self, records: u64) {
        for _ in 0..records {
            self.submit();
        }
        let committed = self.store.commit_once().expect("the disk works");
        for commit in committed {
            self.store.cells(commit.partition).advance(commit.last_seq);
        }
        if self.store.needs_flush() {
            self.store.flush_once().expect("the memory engine works");
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut group = criterion.benchmark_group("journal commit");
    for records in [1, 64, 256] {
        let mut bench = Bench::open(&directory.path().join(records.to_string()));
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("{records} records"), |bencher| {
            bencher.iter(|| bench.commit(records));
        });
        bench.store.close().expect("closes");
    }
    group.finish();
    cells(criterion, directory.path());
}

fn cells(criterion: &mut Criterion, directory: &std::path::Path) {
    let mut group = criterion.benchmark_group("cells");
    group.throughput(Throughput::Elements(1));
    let mut bench = Bench::open(&directory.join("cells"));
    group.bench_function("submit and apply", |bencher| {
        bencher.iter(|| {
            let (bucket, seq) = bench.submit();
            bench.store.cells(partition(bucket)).advance(seq);
            if bench.number.is_multiple_of(1024) {
                bench.store.commit_once().expect("the disk works");
                if bench.store.needs_flush() {
                    bench.store.flush_once().expect("the memory engine works");
                }
            }
        });
    });
    group.finish();
    bench.store.close().expect("closes");
}
