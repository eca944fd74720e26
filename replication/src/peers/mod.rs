//! Connections between nodes: the links this node dials, the service it answers on, forwarding.

mod door;
mod forward;
mod kept;
mod link;
mod links;
mod listener;
mod messages;

pub(crate) use forward::ANSWER_LOST;
pub(crate) use link::{PeerLink, lazy_client};
pub(crate) use links::Links;
pub(crate) use listener::PeerListener;
pub(crate) use messages::{
    HomeLog, cell_of_row, digest_message, mark_message, partition_of_bytes, read_digest,
    read_epoch, read_forked, read_mark,
};
