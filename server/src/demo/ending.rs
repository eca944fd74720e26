//! The end of the demo: the table, and what it says in plain words.
//!
//! **Owns**: table, words and the verdict.
//! **Does not own**: the figures.

use std::time::Duration;

use super::recovery::LevelLoss;
use crate::bench::{
    Bound, Check, Distances, Kind, Latencies, checks_table, loss_cells, ms, outcome,
};
use crate::rig::{Console, ExitOutcome, Table, thousands};

/// What the demo found out about a level.
#[derive(Debug)]
pub(super) struct LevelFigures {
    pub(super) level: &'static str,
    pub(super) latencies: Latencies,
    pub(super) loss: LevelLoss,
}

impl LevelFigures {
    fn p50(&self) -> Duration {
        self.latencies.quantile(0.5)
    }
}

/// Prints the end; fails if a figure cannot be (against `distances`, in an undisturbed run) or a
/// promise about data is broken.
pub(super) fn conclude(
    figures: &[LevelFigures],
    distances: Option<&Distances>,
    lost_region: &str,
    console: &Console,
) -> ExitOutcome {
    let table = costs(figures);
    let accounts = accounts(figures);
    let checks: Vec<_> = figures
        .iter()
        .flat_map(|each| checks_of(each, distances))
        .collect();
    console.tell(&format!(
        "\nWhat an acknowledgement costs, and what it was worth when {lost_region} was lost\n\
         {table}\n\n\
         How long {lost_region} was missed, and what it still had alone when it was back\n\
         {accounts}\n"
    ));
    for each in figures {
        console.tell(&words(each, lost_region));
    }
    if distances.is_none() {
        console.tell("The second terminal has had its part in these figures.\n");
    }
    let outcome = outcome(&checks);
    if outcome == ExitOutcome::Fail {
        console.tell(&format!("{}\n\nFAIL", checks_table(&checks)));
    }
    outcome
}

/// What an acknowledgement costs, and the client's own list of what was lost.
fn costs(figures: &[LevelFigures]) -> Table {
    let headings = [
        "ack level",
        "p50 ms",
        "p99 ms",
        "acked writes",
        "lost: writes",
        "ms",
        "bytes",
    ];
    let mut table = Table::new(&headings);
    for each in figures {
        let latency = each.latencies.summary();
        let lost = loss_cells(Some(&each.loss.client.lost));
        table.row([
            each.level.to_owned(),
            format!("{:.2}", latency.p50_ms),
            format!("{:.2}", latency.p99_ms),
            thousands(each.loss.acked),
            lost[0].clone(),
            lost[2].clone(),
            lost[1].clone(),
        ]);
    }
    table
}

/// RTO, and the nodes' report against the client's list.
fn accounts(figures: &[LevelFigures]) -> Table {
    let headings = [
        "ack level",
        "RTO ms",
        "detect",
        "fence",
        "promote",
        "orphans",
        "RPO reported",
        "client: lost",
        "never told",
    ];
    let mut table = Table::new(&headings);
    for each in figures {
        let loss = &each.loss;
        let rto_ms = format!("{:.0}", ms(loss.rto));
        let [detect, fence, promote] = loss.parts_ms.map(|part| part.to_string());
        table.row([
            each.level.to_owned(),
            if loss.is_written {
                rto_ms
            } else {
                format!("{rto_ms} (reads)")
            },
            detect,
            fence,
            promote,
            thousands(loss.orphans),
            thousands(loss.actual),
            thousands(loss.client.lost.writes),
            thousands(loss.never_told()),
        ]);
    }
    table
}

fn checks_of(figures: &LevelFigures, distances: Option<&Distances>) -> Vec<Check> {
    let LevelFigures {
        level,
        latencies,
        loss,
    } = figures;
    let p50_ms = latencies.p50_ms();
    let physics = distances.and_then(|distances| distances.physics(level, level, p50_ms));
    let mut checks: Vec<_> = physics.into_iter().collect();
    let mut none = |what: String, number: u64| {
        let bound = Bound::AtMost(0.0);
        checks.push(Check::new(Kind::Safety, what, number as f64, bound, ""));
    };
    let lost = loss.client.lost.writes;
    if *level != "async" {
        none(format!("{level}: acked writes lost"), lost);
    }
    none(
        format!("{level}: acked writes lost and not among the orphans, or the reverse"),
        loss.unaccounted,
    );
    none(
        format!("{level}: reported RPO beyond what the client was told or waits for"),
        loss.actual.abs_diff(lost + loss.never_told()),
    );
    none(
        format!("{level}: keys with a wrong value"),
        loss.client.wrong_keys,
    );
    checks
}

fn words(figures: &LevelFigures, lost_region: &str) -> String {
    let (level, p50_ms) = (figures.level, ms(figures.p50()));
    let lost = &figures.loss.client.lost;
    let cost = match level {
        "async" => "is acknowledged once it is durable at home",
        "semi-sync" => "waits until one other region has received it",
        _ => "waits until one other region has it on disk",
    };
    let worth = if lost.is_none() {
        format!("and none was lost with {lost_region}")
    } else {
        let (writes, age_ms) = (thousands(lost.writes), lost.age_ms());
        format!(
            "and with {lost_region} the {writes} writes acknowledged in its last {age_ms:.0} ms \
             were lost"
        )
    };
    format!("{level:>9}: a write {cost}: {p50_ms:.1} ms; {worth}.")
}
