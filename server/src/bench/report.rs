//! The result of a run: what is printed first and last, and the files that are kept.
//!
//! **Owns**: the header, the versioned form of result.json, the names of the files.
//! **Does not own**: the drawing (`chart`), the page (`page`), the histograms' form (`hgrm`).

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::checks::{Check, checks_table, outcome};
use super::disk_ceiling::measure_disk;
use super::hgrm::hgrm;
use super::options::BenchOptions;
use super::page::page;
use super::recorder::{Latencies, Summary};
use crate::rig::{Console, ExitOutcome, KEY_BYTES, Machine, MeasuredRtt, Table, load_average};

/// The form of result.json. A reader that knows the number knows every field; a changed meaning or
/// a removed field gets the next one.
const FORM: &str = "domicile.bench/1";

/// How long the disk is probed for the header.
const PROBE: Duration = Duration::from_millis(800);

/// Rest before a sync, about a round trip of the regions that are measured: disks and virtual
/// machines need time to wake. A single client of a remote level meets such a disk every time.
const PROBE_REST: Duration = Duration::from_millis(80);

/// What a figure is worth without: where and with what it was measured.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Header {
    /// The version of this program, and its revision if the build knew it.
    pub revision: String,
    /// The machine.
    pub machine: Machine,
    /// Processes that wanted to run on average in the minute before: others' load, if above 0.
    pub load_average: f64,
    /// One write and its `fdatasync`, as measured just before.
    pub fsync: Summary,
    /// The same after [`PROBE_REST`].
    pub fsync_rested: Summary,
    /// Round trips as measured; empty without regions.
    pub rtts: Vec<MeasuredRtt>,
    /// The seed of the run.
    pub seed: u64,
    /// Milliseconds since 1970 when it began.
    pub started_at_ms: u64,
}

impl Header {
    /// Measures the disk in `dir`, and reads the rest.
    ///
    /// # Errors
    /// The disk cannot be written.
    pub(super) fn measure(dir: &Path, options: &BenchOptions) -> anyhow::Result<Self> {
        let write_bytes = KEY_BYTES + options.value_bytes;
        let probe = |rest| measure_disk(dir, 1, write_bytes as u64, PROBE, rest);
        let ((disk, _), (rested, _)) = (probe(Duration::ZERO)?, probe(PROBE_REST)?);
        let version = env!("CARGO_PKG_VERSION");
        let revision = match option_env!("DOMICILE_REVISION") {
            Some(revision) => format!("{version} ({revision})"),
            None => version.to_owned(),
        };
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            revision,
            machine: Machine::read(),
            load_average: load_average(),
            fsync: disk.commit,
            fsync_rested: rested.commit,
            rtts: Vec::new(),
            seed: options.seed,
            started_at_ms: since_1970.map_or(0, |time| time.as_millis() as u64),
        })
    }

    /// A few lines.
    #[must_use]
    pub(super) fn text(&self, bench: &str) -> String {
        let Self {
            revision,
            machine,
            load_average,
            fsync,
            fsync_rested,
            rtts,
            seed,
            ..
        } = self;
        let mut text = format!(
            "domicile bench {bench}, version {revision}, seed {seed}\n{}\n\
             load average {load_average:.2} before the start, \
             fsync p50 {:.2} ms, p99 {:.2} ms, after {} ms of rest p50 {:.2} ms as measured",
            machine.summary(),
            fsync.p50_ms,
            fsync.p99_ms,
            PROBE_REST.as_millis(),
            fsync_rested.p50_ms
        );
        if !rtts.is_empty() {
            let mut table = Table::new(&["link", "RTT asked", "min", "p50 as measured, ms"]);
            for rtt in rtts {
                table.row([
                    format!("{} -> {}", rtt.from, rtt.to),
                    format!("{:.1}", rtt.nominal_ms),
                    format!("{:.2}", rtt.min_ms),
                    format!("{:.2}", rtt.p50_ms),
                ]);
            }
            text += &format!("\n\n{table}");
        }
        text
    }
}

/// All that a run found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    form: &'static str,
    /// Which bench.
    pub bench: &'static str,
    /// Where and with what.
    pub header: Header,
    /// What was asked for.
    pub settings: Value,
    /// The figures, as each bench has them.
    pub rows: Vec<Value>,
    /// The promises.
    pub checks: Vec<Check>,
    passed: bool,
    #[serde(skip)]
    tables: Vec<(String, Table)>,
    #[serde(skip)]
    curves: Vec<(String, Latencies)>,
    #[serde(skip)]
    notes: Vec<String>,
}

impl Report {
    /// A report without figures yet.
    #[must_use]
    pub(super) fn new(options: &BenchOptions, header: Header) -> Self {
        let settings = serde_json::json!({
            "regions": options.regions,
            "rtt": options.rtt,
            "rate_per_s": options.rate_per_s,
            "clients": options.clients,
            "outstanding": options.outstanding,
            "transport": format!("{:?}", options.transport).to_lowercase(),
            "keys": options.keys,
            "key_bytes": KEY_BYTES,
            "value_bytes": options.value_bytes,
            "duration_s": options.duration.as_secs_f64(),
            "warmup_s": options.warmup.as_secs_f64(),
            "rounds": options.rounds,
        });
        Self {
            form: FORM,
            bench: options.bench.word(),
            header,
            settings,
            rows: Vec::new(),
            checks: Vec::new(),
            passed: false,
            tables: Vec::new(),
            curves: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row to result.json.
    pub(super) fn row(&mut self, row: &impl Serialize) {
        let row = serde_json::to_value(row).expect("rows are plain figures and texts");
        self.rows.push(row);
    }

    /// Adds a table to what is printed and to the page.
    pub(super) fn table(&mut self, title: impl Into<String>, table: Table) {
        self.tables.push((title.into(), table));
    }

    /// Adds a curve: a file of its own and a line in the drawing.
    pub(super) fn curve(&mut self, label: impl Into<String>, latencies: &Latencies) {
        self.curves.push((label.into(), latencies.clone()));
    }

    /// Adds a remark below the tables.
    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Prints the report, keeps its files if there is a place for them, and says how it ended.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn finish(
        mut self,
        out: Option<&Path>,
        console: &Console,
    ) -> anyhow::Result<ExitOutcome> {
        let outcome = outcome(&self.checks);
        self.passed = outcome == ExitOutcome::Pass;
        console.tell(&format!("{}\n", self.header.text(self.bench)));
        for (title, table) in &self.tables {
            console.tell(&format!("{title}\n{table}\n"));
        }
        for note in &self.notes {
            console.tell(note);
        }
        if !self.checks.is_empty() {
            let verdict = if self.passed { "PASS" } else { "FAIL" };
            console.tell(&format!("\n{}\n\n{verdict}", checks_table(&self.checks)));
        }
        if let Some(out) = out {
            self.keep(out)
                .with_context(|| format!("cannot keep the results in {}", out.display()))?;
            console.talk(&format!("results are in {}", out.display()));
        }
        Ok(outcome)
    }

    fn keep(&self, out: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(out)?;
        let json = serde_json::to_string_pretty(self)?;
        fs::write(out.join("result.json"), json + "\n")?;
        for (label, latencies) in self.curves.iter().filter(|(_, times)| times.count() > 0) {
            let name = format!("{}.hgrm", file_name(label));
            fs::write(out.join(name), hgrm(latencies))?;
        }
        let curves: Vec<_> = self
            .curves
            .iter()
            .map(|(label, latencies)| (label.as_str(), latencies))
            .collect();
        let header = self.header.text(self.bench);
        let checks = checks_table(&self.checks);
        let title = format!("domicile bench {}", self.bench);
        let html = page(&title, &header, &curves, &self.tables, &checks, &self.notes);
        fs::write(out.join("report.html"), html)?;
        Ok(())
    }
}

/// A label as the name of a file.
fn file_name(label: &str) -> String {
    let mut name = String::new();
    for symbol in label.chars() {
        match symbol {
            'a'..='z' | '0'..='9' | '.' => name.push(symbol),
            'A'..='Z' => name.push(symbol.to_ascii_lowercase()),
            _ if name.ends_with('-') || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.trim_end_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::checks::{Bound, Kind};
    use super::super::options::Bench;
    use super::*;

    #[test]
    fn labels_become_names_of_files() {
        let name = file_name("ceiling: tonic + group commit, 64 clients");
        assert_eq!(name, "ceiling-tonic-group-commit-64-clients");
        assert_eq!(file_name("../..//x"), "..-..-x");
    }

    #[test]
    fn the_files_are_kept_and_a_failed_check_fails() {
        let dir = tempfile::tempdir().unwrap();
        let options = BenchOptions::new(Bench::Acks);
        let header = Header::measure(dir.path(), &options).unwrap();
        let mut report = Report::new(&options, header);
        let mut times = Latencies::new();
        times.record(Duration::from_millis(5));
        report.curve("async, 64 clients", &times);
        let bound = Bound::AtMost(1.0);
        let check = Check::new(Kind::Speed, "a < b & c", 5.0, bound, "ms");
        report.checks.push(check);
        let out = dir.path().join("out");
        let outcome = report.finish(Some(&out), &Console::new()).unwrap();
        assert_eq!(outcome, ExitOutcome::Fail);
        let json = fs::read_to_string(out.join("result.json")).unwrap();
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["form"], FORM);
        assert_eq!(json["checks"][0]["verdict"], "fail");
        assert_eq!(json["passed"], false);
        assert!(out.join("async-64-clients.hgrm").exists());
        let html = fs::read_to_string(out.join("report.html")).unwrap();
        assert!(html.contains("<svg") && html.contains("a &lt; b &amp; c"));
    }
}
