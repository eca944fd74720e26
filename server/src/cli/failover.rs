//! `failover plan`, `run`, `report`, and `switchover`.
//!
//! **Owns**: the flags, what is shown, waiting until homes have moved.
//! **Does not own**: what is decided (the nodes).

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use domicile_client::{Client, v1};
use domicile_proto::ErrorKind;

use super::cell::Cell;
use super::connect::ConnectFlags;
use super::failure::Failure;
use super::ids;
use super::output::{Layout, Output, OutputFlags, say};
use crate::backup::show_time;

/// How often it is looked whether homes have moved.
const LOOK: Duration = Duration::from_millis(100);

/// `failover`
#[derive(Debug, Args)]
pub(crate) struct FailoverCommand {
    #[command(subcommand)]
    verb: FailoverVerb,
}

#[derive(Debug, Subcommand)]
enum FailoverVerb {
    /// What would become of a region's homes if it were lost now, a row a partition.
    Plan(PlanFlags),
    /// Gives the homes of a region up: whoever has most takes over. For a region that is lost; of
    /// one that is well, use `switchover`, which loses nothing.
    Run(RunFlags),
    /// What changed hands: how long it took, part by part, and what it cost.
    Report(ReportFlags),
}

#[derive(Debug, Args)]
struct PlanFlags {
    /// The region.
    #[arg(long, value_name = "NAME")]
    region: String,
    /// Only this keyspace.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct RunFlags {
    /// The region whose homes are given up.
    #[arg(long, value_name = "NAME")]
    region: String,
    /// Only this keyspace.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    /// Who is to take over, even if another copy has more; whoever has most if not given.
    #[arg(long, value_name = "NAME")]
    to: Option<String>,
    /// You have seen that the region's nodes are off and will stay off.
    #[arg(long)]
    fenced: bool,
    /// Two homes at once are accepted: what both acknowledge is not kept apart.
    #[arg(long)]
    accept_split_brain: bool,
    /// Yes, do it.
    #[arg(long)]
    yes: bool,
    /// How long to wait for the new homes, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 60_000)]
    within_ms: u64,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

#[derive(Debug, Args)]
struct ReportFlags {
    /// Only the last so many.
    #[arg(long, value_name = "NUMBER")]
    last: Option<usize>,
    #[command(flatten)]
    connect: ConnectFlags,
    #[command(flatten)]
    output: OutputFlags,
}

/// `switchover`
#[derive(Debug, Args)]
pub(crate) struct SwitchoverCommand {
    /// The region that is to be home.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Only what is homed in this region.
    #[arg(long, value_name = "NAME")]
    from: Option<String>,
    /// Only this keyspace.
    #[arg(long, value_name = "NAME")]
    keyspace: Option<String>,
    /// How long to wait for all of them, in milliseconds, at most 600,000.
    #[arg(long, value_name = "MS", default_value_t = 30_000,
          value_parser = clap::value_parser!(u32).range(1..=600_000))]
    within_ms: u32,
    #[command(flatten)]
    connect: ConnectFlags,
}

impl FailoverCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        match self.verb {
            FailoverVerb::Plan(flags) => plan(flags).await,
            FailoverVerb::Run(flags) => run(flags).await,
            FailoverVerb::Report(flags) => report(flags).await,
        }
    }
}

fn name_of(partition: &[u8]) -> String {
    let partition = ids::partition(partition);
    partition.map_or_else(|| "?".to_owned(), |partition| partition.to_string())
}

async fn plan(flags: PlanFlags) -> anyhow::Result<()> {
    let client = flags.connect.client().await?;
    let request = v1::PlanFailoverRequest {
        region: flags.region.clone(),
        keyspace: flags.keyspace.unwrap_or_default(),
    };
    let planned = client.plan_failover(request).await?;
    if planned.is_empty() {
        say(format!("{} is home of nothing", flags.region));
    }
    show_plan(planned, flags.output)
}

fn show_plan(planned: Vec<v1::PlannedFailover>, output: OutputFlags) -> anyhow::Result<()> {
    let columns = [
        "partition",
        "keyspace",
        "epoch",
        "automatic",
        "fencing",
        "successors",
        "loss_writes",
        "loss_bytes",
        "loss_ms",
        "loss_is",
        "rto_ms_max",
        "obstacle",
    ];
    let mut rows = Output::stdout(output.output, Layout::Table, &columns);
    for it in planned {
        let loss = it.loss.unwrap_or_default();
        // A copy knows how many records it lacks, and nothing else of them.
        let known = |value: u64| it.loss_exact.then_some(value);
        let loss_is = match it.loss_exact {
            true => "exact",
            false => "at least",
        };
        rows.row(vec![
            name_of(&it.partition).into(),
            it.keyspace.into(),
            it.epoch.into(),
            Cell::Flag(it.automatic),
            it.fencing.into(),
            Cell::List(it.successors),
            loss.writes.into(),
            known(loss.bytes).into(),
            known(loss.age_ms).into(),
            loss_is.to_owned().into(),
            (it.rto_ms_max > 0).then_some(it.rto_ms_max).into(),
            it.obstacle.into(),
        ])?;
    }
    Ok(rows.end()?)
}

async fn run(flags: RunFlags) -> anyhow::Result<()> {
    let client = flags.connect.client().await?;
    let keyspace = flags.keyspace.clone().unwrap_or_default();
    let asked = v1::PlanFailoverRequest {
        region: flags.region.clone(),
        keyspace: keyspace.clone(),
    };
    let planned = client.plan_failover(asked.clone()).await?;
    let region = &flags.region;
    if planned.is_empty() {
        say(format!("{region} is home of nothing"));
        return Ok(());
    }
    let writes: u64 = planned
        .iter()
        .filter_map(|it| it.loss.map(|loss| loss.writes))
        .sum();
    let count = planned.len();
    if !flags.yes {
        let refused = format!(
            "{count} partitions of {region} would be given up, with the loss of {writes} writes or \
             more that the node asked knows of; `failover plan` shows them one by one. Repeat with \
             --yes to do it"
        );
        return Err(Failure::new(ErrorKind::Invalid, refused).into());
    }
    let request = v1::GiveUpHomesRequest {
        region: region.clone(),
        keyspace,
        to: flags.to.unwrap_or_default(),
        fenced: flags.fenced,
        accept_split_brain: flags.accept_split_brain,
    };
    let given_up = client.give_up_homes(request).await?;
    say(format!(
        "{} of {count} partitions given up",
        given_up.partitions
    ));
    for refused in &given_up.refused {
        let (partition, why) = (name_of(&refused.partition), &refused.why);
        say(format!("{partition}: {why}"));
    }
    let deadline = Instant::now() + Duration::from_millis(flags.within_ms);
    let mut left = planned;
    while Instant::now() < deadline {
        // Another node may have to be asked meanwhile.
        if let Ok(planned) = client.plan_failover(asked.clone()).await {
            let is_same = |it: &v1::PlannedFailover| {
                let mut old = left.iter();
                old.any(|old| (&old.partition, &old.epoch) == (&it.partition, &it.epoch))
            };
            left = planned.into_iter().filter(is_same).collect();
        }
        if left.is_empty() {
            say("all have a home");
            show_changes(&client, Some(count), flags.output).await?;
            return all_given_up(given_up.refused.len(), count);
        }
        tokio::time::sleep(LOOK).await;
    }
    let message = format!(
        "{} of {count} partitions have no new home after {} ms",
        left.len(),
        flags.within_ms
    );
    Err(Failure::new(ErrorKind::NoHome, message).into())
}

/// Tells an operator whose word came second that it did not count.
fn all_given_up(refused: usize, count: usize) -> anyhow::Result<()> {
    if refused == 0 {
        return Ok(());
    }
    let message = format!(
        "somebody else was faster with {refused} of {count} partitions: this command changed \
         nothing about them"
    );
    Err(Failure::new(ErrorKind::Conflict, message).into())
}

async fn report(flags: ReportFlags) -> anyhow::Result<()> {
    let client = flags.connect.client().await?;
    show_changes(&client, flags.last, flags.output).await
}

async fn show_changes(
    client: &Client,
    last: Option<usize>,
    output: OutputFlags,
) -> anyhow::Result<()> {
    let answer = client.home_changes().await?;
    let columns = [
        "at",
        "partition",
        "keyspace",
        "from",
        "to",
        "why",
        "rto_ms",
        "detect_ms",
        "fence_ms",
        "promote_ms",
        "route_ms",
        "estimated_writes_min",
        "estimated_writes_max",
        "actual_writes",
        "actual_bytes",
        "degraded_since",
    ];
    let mut rows = Output::stdout(output.output, Layout::Table, &columns);
    let skipped = last.map_or(0, |last| answer.changes.len().saturating_sub(last));
    for it in answer.changes.into_iter().skip(skipped) {
        let parts = [it.detect_ms, it.fence_ms, it.promote_ms];
        let known: Option<Vec<u64>> = parts.into_iter().collect();
        let rto_ms = known.map(|parts| parts.iter().sum::<u64>() + it.route_ms.unwrap_or(0));
        let why = if it.planned { "planned" } else { "lost" };
        let at = (it.at_ms > 0).then(|| show_time(it.at_ms));
        let estimated = (!it.planned).then_some(it.estimated_writes_min);
        rows.row(vec![
            at.map_or(Cell::Nothing, Cell::Text),
            name_of(&it.partition).into(),
            it.keyspace.into(),
            it.from_region.into(),
            it.to_region.into(),
            why.to_owned().into(),
            rto_ms.into(),
            it.detect_ms.into(),
            it.fence_ms.into(),
            it.promote_ms.into(),
            it.route_ms.into(),
            estimated.into(),
            it.estimated_writes_max.filter(|_| !it.planned).into(),
            it.actual_writes.into(),
            it.actual_bytes.into(),
            it.degraded_ms
                .map_or(Cell::Nothing, |at| Cell::Text(show_time(at))),
        ])?;
    }
    rows.end()?;
    if answer.forgotten > 0 {
        say(format!(
            "{} older changes are not remembered",
            answer.forgotten
        ));
    }
    Ok(())
}

impl SwitchoverCommand {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let client = self.connect.client().await?;
        let request = v1::SwitchOverRequest {
            from: self.from.unwrap_or_default(),
            to: self.to.clone(),
            keyspace: self.keyspace.unwrap_or_default(),
            within_ms: self.within_ms,
        };
        let within = Duration::from_millis(u64::from(self.within_ms) + self.connect.timeout_ms);
        let outcome = client.switch_over(request, within).await?;
        say(format!(
            "{} partitions have moved to {}",
            outcome.moved.len(),
            self.to
        ));
        for stayed in &outcome.stayed {
            say(format!("{}: {}", name_of(&stayed.partition), stayed.why));
        }
        match outcome.stayed.len() {
            0 => Ok(()),
            count => {
                let message = format!("{count} partitions have not moved");
                Err(Failure::new(ErrorKind::Unavailable, message).into())
            }
        }
    }
}
