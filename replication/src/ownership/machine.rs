//! The map as what the control plane's log is the history of.
//!
//! **Owns**: applying commands that come as bytes; showing each new map whole.
//! **Does not own**: what commands do (core), their bytes (`wire`).

use std::sync::Arc;

use domicile_core::control::ControlMap;
use tokio::sync::watch;

use super::wire::{decode_commands, decode_map, encode_map, encode_results};
use crate::control::Machine;

/// The map of one node.
#[derive(Debug)]
pub(crate) struct MapMachine {
    map: ControlMap,
    shown: watch::Sender<Arc<ControlMap>>,
}

impl MapMachine {
    /// An empty map, and where each one that follows is shown.
    pub(crate) fn new() -> (Self, watch::Receiver<Arc<ControlMap>>) {
        let map = ControlMap::default();
        let (shown, maps) = watch::channel(Arc::new(map.clone()));
        (Self { map, shown }, maps)
    }

    fn show(&self) {
        self.shown.send_replace(Arc::new(self.map.clone()));
    }
}

impl Machine for MapMachine {
    fn apply(&mut self, command: &[u8]) -> Vec<u8> {
        let commands = match decode_commands(command) {
            Ok(commands) => commands,
            Err(error) => {
                tracing::error!(%error, "a command that this node does not understand");
                return encode_results(vec![error.to_string()]);
            }
        };
        let version = self.map.version();
        let refused = commands.iter().map(|command| {
            let applied = self.map.apply(command);
            applied.map_or_else(|refused| refused.to_string(), |()| String::new())
        });
        let results = encode_results(refused.collect());
        if self.map.version() != version {
            self.show();
        }
        results
    }

    fn snapshot(&self) -> Vec<u8> {
        encode_map(&self.map)
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.map = decode_map(bytes).map_err(|error| error.to_string())?;
        self.show();
        Ok(())
    }
}
