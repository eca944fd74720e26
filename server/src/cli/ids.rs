//! Ids as they come over the wire.
//!
//! **Owns**: reading them; `None` for what is none.
//! **Does not own**: what is shown in the place of one (each verb).

use domicile_proto::{PartitionId, RequestId};

pub(super) fn partition(bytes: &[u8]) -> Option<PartitionId> {
    let bytes = <[u8; PartitionId::BYTES]>::try_from(bytes).ok()?;
    PartitionId::from_bytes(bytes).ok()
}

pub(super) fn request_id(bytes: &[u8]) -> Option<RequestId> {
    let bytes = <[u8; 16]>::try_from(bytes).ok()?;
    RequestId::new(u128::from_be_bytes(bytes)).ok()
}
