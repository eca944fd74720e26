//! The parts of `bench failover`, one after the other, and their common report.
//!
//! **Owns**: the order, the header.
//! **Does not own**: what each part measures.

use super::options::FailoverPart;
use super::{idle, steady, switchover, takeover};
use crate::bench::acks::scratch_of;
use crate::bench::options::BenchOptions;
use crate::bench::report::{Header, Report};
use crate::rig::{Console, ExitOutcome, Stop};

/// Measures what a change of homes costs.
///
/// # Errors
/// Servers that do not start or answer, a change that never ends, or an interrupt.
pub(in crate::bench) fn run(
    options: &BenchOptions,
    console: &Console,
    stop: &Stop,
) -> anyhow::Result<ExitOutcome> {
    let scratch = scratch_of(options, console)?;
    let header = Header::measure(scratch.path(), options)?;
    let mut report = Report::new(options, header);
    report.settings["failover"] = options.failover.words();
    for part in FailoverPart::ALL {
        if !options.failover.parts.contains(&part) {
            continue;
        }
        let measure = match part {
            FailoverPart::Takeover => takeover::run,
            FailoverPart::Switchover => switchover::run,
            FailoverPart::Steady => steady::run,
            FailoverPart::Idle => idle::run,
        };
        measure(options, &scratch, &mut report, console, stop)?;
    }
    report.note(
        "All regions and clients share this machine's disk and processors: what they do at the \
         same time competes, which it would not at a distance.",
    );
    report.finish(options.out.as_deref(), console)
}
