//! The generated messages and services of `domicile.v1`.
//!
//! **Owns**: including the generated code and the descriptors for reflection.
//! **Does not own**: what the messages mean (the checked types of this crate do).

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

tonic::include_proto!("domicile.v1");

/// The encoded descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
