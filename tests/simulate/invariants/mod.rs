//! What must always hold, one file each; the numbers are those of the list of invariants.
//!
//! ```text
//! at every step   I2 honest_level  I3 one_writer, handing_on  I4 fence_in_time
//!                 I5 log_matching  I6 monotone  I14 bounded  I16 fail_stop
//!                 I18 policy
//! in the end      I1 ack_truth  I7 state_is_fold  I8 tail_kept  I11 reads  I12 once
//! last            I15 liveness
//! ```

pub(crate) mod ack_truth;
pub(crate) mod bounded;
pub(crate) mod fail_stop;
pub(crate) mod fence_in_time;
pub(crate) mod handing_on;
pub(crate) mod honest_level;
pub(crate) mod lineage;
pub(crate) mod liveness;
pub(crate) mod log_matching;
pub(crate) mod monotone;
pub(crate) mod once;
pub(crate) mod one_writer;
pub(crate) mod policy;
pub(crate) mod reads;
pub(crate) mod state_is_fold;
pub(crate) mod tail_kept;

pub(crate) use honest_level::acked;
