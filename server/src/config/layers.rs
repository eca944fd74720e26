//! Flags over environment over file over defaults, and where each value came from.
//!
//! **Owns**: the order of precedence, the origin of each value, the effective values as text.
//! **Does not own**: the flags themselves (`cli`), the checks (`checked`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::checked::Config;
use super::error::{ConfigError, Faults};
use super::given::Given;
use super::keys::KEYS;

/// Largest file read: a thousand keyspaces take 300 KiB. Doubled, a wrong path takes twice the
/// memory before it is refused.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value came from, the strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable `DOMICILE_...`.
    Environment,
    /// The file.
    File,
    /// This program.
    Default,
}

impl Origin {
    /// One word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        }
    }
}

/// A value from the command line or the environment, for a key such as `node.region`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The key.
    pub key: &'static str,
    /// Its value, as text.
    pub value: String,
    /// Flag or environment.
    pub origin: Origin,
}

/// All layers on top of each other, not yet checked.
#[derive(Debug)]
pub struct Layers {
    given: Given,
    origins: BTreeMap<&'static str, Origin>,
    faults: Faults,
}

/// A value in force, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The key.
    pub key: String,
    /// Its value, as text.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

impl Layers {
    /// Reads the file, if there is one, and lays `overrides` on top.
    ///
    /// # Errors
    /// A file that cannot be read, is no TOML or has unknown keys.
    pub fn load(file: Option<&Path>, overrides: &[Override]) -> Result<Self, ConfigError> {
        let given = match file {
            Some(path) => Given::parse(path, &read(path)?)?,
            None => Given::default(),
        };
        Ok(Self::over(given, overrides))
    }

    fn over(given: Given, overrides: &[Override]) -> Self {
        let mut layers = Self {
            given,
            origins: BTreeMap::new(),
            faults: Faults::default(),
        };
        for key in KEYS {
            if layers.value(key.name).is_some() {
                layers.origins.insert(key.name, Origin::File);
            }
        }
        for Override { key, value, origin } in overrides {
            layers.set(key, value);
            layers.origins.insert(key, *origin);
        }
        layers
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`ConfigError::Faults`], all of them.
    pub fn check(self) -> Result<Config, ConfigError> {
        Config::check(&self.given, self.faults)
    }

    /// Every single value in force and its origin, defaults included.
    #[must_use]
    pub fn effective(&self) -> Vec<Effective> {
        let shown = KEYS
            .iter()
            .filter(|key| !key.name.contains("[]"))
            .map(|key| {
                let value = self
                    .value(key.name)
                    .unwrap_or_else(|| key.default.to_owned());
                let origin = self
                    .origins
                    .get(key.name)
                    .copied()
                    .unwrap_or(Origin::Default);
                Effective {
                    key: key.name.to_owned(),
                    value,
                    origin,
                }
            });
        shown.collect()
    }

    /// Sets one value from its text; a number that is none is a fault.
    fn set(&mut self, key: &'static str, text: &str) {
        let Given {
            cluster,
            node,
            limits,
            log,
            ..
        } = &mut self.given;
        let (words, numbers) = (text.to_owned(), text.parse::<u64>());
        let number = |field: &mut Option<u64>, faults: &mut Faults| match numbers {
            Ok(number) => *field = Some(number),
            Err(_) => faults.note(key, format_args!("{text:?} is no whole number")),
        };
        match key {
            "cluster.name" => cluster.name = Some(words),
            "cluster.homes" => cluster.homes = Some(words),
            "cluster.rtt_max_ms" => number(&mut cluster.rtt_max_ms, &mut self.faults),
            "cluster.haste" => cluster.haste = Some(words),
            "node.region" => node.region = Some(words),
            "node.witness" => match text.parse() {
                Ok(flag) => node.witness = Some(flag),
                Err(_) => self
                    .faults
                    .note(key, format_args!("{text:?}, expected true or false")),
            },
            "node.replaces" => node.replaces = Some(words),
            "node.data" => node.data = Some(words),
            "node.listen_client" => node.listen_client = Some(words),
            "node.listen_peer" => node.listen_peer = Some(words),
            "node.listen_http" => node.listen_http = Some(words),
            "node.engine" => node.engine = Some(words),
            "log.filter" => log.filter = Some(words),
            "log.format" => log.format = Some(words),
            "node.engine_cache_bytes" => number(&mut node.engine_cache_bytes, &mut self.faults),
            "node.overlay_bytes_max" => number(&mut node.overlay_bytes_max, &mut self.faults),
            "node.journal_file_bytes" => number(&mut node.journal_file_bytes, &mut self.faults),
            "node.journal_keep_bytes" => number(&mut node.journal_keep_bytes, &mut self.faults),
            "node.copy_keep_bytes" => number(&mut node.copy_keep_bytes, &mut self.faults),
            "node.copy_keep_ms" => number(&mut node.copy_keep_ms, &mut self.faults),
            "node.stall_max_ms" => number(&mut node.stall_max_ms, &mut self.faults),
            "node.scrub_bytes_per_s" => number(&mut node.scrub_bytes_per_s, &mut self.faults),
            "node.scrub_pause_ms" => number(&mut node.scrub_pause_ms, &mut self.faults),
            "limits.connections_max" => number(&mut limits.connections_max, &mut self.faults),
            "limits.calls_max" => number(&mut limits.calls_max, &mut self.faults),
            "limits.in_flight_bytes_max" => {
                number(&mut limits.in_flight_bytes_max, &mut self.faults);
            }
            "limits.watches_max" => number(&mut limits.watches_max, &mut self.faults),
            "limits.drain_timeout_ms" => number(&mut limits.drain_timeout_ms, &mut self.faults),
            _ => self.faults.note(key, "no such key"),
        }
    }

    fn value(&self, key: &str) -> Option<String> {
        let Given {
            cluster,
            node,
            limits,
            log,
            ..
        } = &self.given;
        let number = |value: Option<u64>| value.map(|number| number.to_string());
        match key {
            "cluster.name" => cluster.name.clone(),
            "cluster.homes" => cluster.homes.clone(),
            "cluster.rtt_max_ms" => number(cluster.rtt_max_ms),
            "cluster.haste" => cluster.haste.clone(),
            "node.region" => node.region.clone(),
            "node.witness" => node.witness.map(|flag| flag.to_string()),
            "node.replaces" => node.replaces.clone(),
            "node.data" => node.data.clone(),
            "node.listen_client" => node.listen_client.clone(),
            "node.listen_peer" => node.listen_peer.clone(),
            "node.listen_http" => node.listen_http.clone(),
            "node.engine" => node.engine.clone(),
            "node.engine_cache_bytes" => number(node.engine_cache_bytes),
            "node.overlay_bytes_max" => number(node.overlay_bytes_max),
            "node.journal_file_bytes" => number(node.journal_file_bytes),
            "node.journal_keep_bytes" => number(node.journal_keep_bytes),
            "node.copy_keep_bytes" => number(node.copy_keep_bytes),
            "node.copy_keep_ms" => number(node.copy_keep_ms),
            "node.stall_max_ms" => number(node.stall_max_ms),
            "node.scrub_bytes_per_s" => number(node.scrub_bytes_per_s),
            "node.scrub_pause_ms" => number(node.scrub_pause_ms),
            "limits.connections_max" => number(limits.connections_max),
            "limits.calls_max" => number(limits.calls_max),
            "limits.in_flight_bytes_max" => number(limits.in_flight_bytes_max),
            "limits.watches_max" => number(limits.watches_max),
            "limits.drain_timeout_ms" => number(limits.drain_timeout_ms),
            "log.filter" => log.filter.clone(),
            "log.format" => log.format.clone(),
            _ => None,
        }
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let refuse = |source| ConfigError::Read {
        path: PathBuf::from(path),
        source,
    };
    let bytes = std::fs::metadata(path).map_err(refuse)?.len();
    if bytes > FILE_BYTES_MAX {
        let message = format!("{bytes} bytes, limit {FILE_BYTES_MAX}");
        return Err(refuse(std::io::Error::new(
            std::io::ErrorKind::FileTooLarge,
            message,
        )));
    }
    std::fs::read_to_string(path).map_err(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(text: &str, overrides: &[Override]) -> Layers {
        let given = Given::parse(Path::new("domicile.toml"), text).unwrap();
        Layers::over(given, overrides)
    }

    fn over(key: &'static str, value: &str, origin: Origin) -> Override {
        Override {
            key,
            value: value.to_owned(),
            origin,
        }
    }

    fn effective(layers: &Layers, key: &str) -> (String, Origin) {
        let found = layers
            .effective()
            .into_iter()
            .find(|each| each.key == key)
            .unwrap();
        (found.value, found.origin)
    }

    #[test]
    fn the_strongest_layer_wins_and_is_named() {
        let overrides = [
            over("node.data", "from-flag", Origin::Flag),
            over("node.engine", "memory", Origin::Environment),
        ];
        let text = "[node]\ndata = \"from-file\"\nengine = \"sled\"\nregion = \"eu\"\n";
        let layers = layers(text, &overrides);
        assert_eq!(
            effective(&layers, "node.data"),
            ("from-flag".into(), Origin::Flag)
        );
        assert_eq!(
            effective(&layers, "node.engine"),
            ("memory".into(), Origin::Environment)
        );
        assert_eq!(
            effective(&layers, "node.region"),
            ("eu".into(), Origin::File)
        );
        let default = effective(&layers, "node.listen_client");
        assert_eq!(default, ("127.0.0.1:7400".into(), Origin::Default));
        let config = layers.check().unwrap();
        assert_eq!(config.node.data, Path::new("from-flag"));
    }

    #[test]
    fn every_single_key_can_be_overridden() {
        for key in KEYS.iter().filter(|key| !key.name.contains("[]")) {
            let layers = layers("", &[over(key.name, key.sample(), Origin::Flag)]);
            assert_eq!(
                effective(&layers, key.name),
                (key.sample().into(), Origin::Flag),
                "{}",
                key.name
            );
        }
    }

    #[test]
    fn a_number_that_is_none_names_its_key() {
        let overrides = [over("limits.calls_max", "many", Origin::Flag)];
        let refused = layers("", &overrides).check().unwrap_err().to_string();
        assert_eq!(refused, "limits.calls_max: \"many\" is no whole number");
    }

    #[test]
    fn a_missing_file_is_named() {
        let refused = Layers::load(Some(Path::new("no/such.toml")), &[]).unwrap_err();
        assert!(
            refused.to_string().starts_with("cannot read no/such.toml"),
            "{refused}"
        );
    }
}
