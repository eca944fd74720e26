//! The log of a serving node, on standard error.
//!
//! **Owns**: its format and colours.
//! **Does not own**: what is logged, and from which level on (configuration).

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{LogFormat, LogOptions};

/// Sends the log to standard error from now on.
///
/// # Errors
/// Someone else has set up a log in this process.
pub(crate) fn start(options: &LogOptions) -> anyhow::Result<()> {
    let filter: Targets = options.filter.parse()?;
    let colourless = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let layer = fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && !colourless);
    let layer = match options.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}
