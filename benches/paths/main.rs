//! The pieces of a write's path, one by one: codec, core, journal, cells, and all of it embedded.
//!
//! `cargo bench --bench paths`

mod codec;
mod core_step;
mod disk;
mod embedded;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    pieces,
    codec::bench,
    core_step::bench,
    disk::bench,
    embedded::bench
);
criterion_main!(pieces);
