//! The control plane in memory: one map, agreed on by a majority, and whoever leads it.

mod lead;
mod raft;

pub(crate) use lead::{Lead, Pending};
pub(crate) use raft::{Append, Appended, Raft, RaftTimes, Vote, Voted};
