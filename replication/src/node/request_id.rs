//! Request ids for calls that bring none.
//!
//! **Owns**: the choice of UUID v7.
//! **Does not own**: what an id is (proto).

use domicile_proto::RequestId;

/// A new id, unique without coordination and ordered by time.
pub(super) fn new_request_id() -> RequestId {
    RequestId::new(uuid::Uuid::now_v7().as_u128()).expect("a v7 UUID has its version bits set")
}
