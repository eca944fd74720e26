//! The configuration twice: as given, and as checked so that it cannot be wrong.
//!
//! **Owns** the keys, their defaults and reasons, the file format, the order of precedence.
//!
//! **Does not own** the flags (`cli` hands them in) nor what the values do (node and front).
//!
//! ```text
//! flags > environment > file > defaults  -> Given (+ the origin of each value) -> Config
//! ```

mod checked;
mod error;
mod given;
mod keys;
mod keyspaces;
mod layers;
mod nearest;
mod regions;
mod template;

pub use checked::{Config, LogFormat, LogOptions};
pub use error::ConfigError;
pub(crate) use given::{KeyspaceGiven, PlacementGiven};
pub use keys::{KEYS, Key};
pub(crate) use keyspaces::define;
pub use layers::{Effective, Layers, Origin, Override};
pub use regions::peer_address;
pub use template::TEMPLATE;
