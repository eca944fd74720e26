//! Runs `scenarios/*.txt`: commands in, effects out, compared with what the file says.
//!
//! A line `> command` is given to a partition; the lines after it are what came out. Lines that
//! start with `#` and empty lines are prose. `UPDATE_SCENARIOS=1 cargo test -p domicile-core`
//! writes the files anew: read the difference before it is believed.

#![expect(
    clippy::unwrap_used,
    reason = "a scenario that cannot be read fails its test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use domicile_core::{
    Awaited, EarlierTries, Effect, Expected, Input, KeyChange, LeaseNeed, Moment, Outcome,
    Partition, PartitionConfig, Precondition, Purpose, Receipt, Recovered, Refusal,
    RememberedRequest, Ticket, Urgency, Window, Write, handed_to,
};
use domicile_proto::record::RecordBody;
use domicile_proto::{
    AckLevel, Bucket, ChainHash, Epoch, Hlc, KeyspaceId, NodeId, OnTimeout, PartitionId, Position,
    RecordHead, RecordKind, RegionId, RequestId, RpoLimit, SegmentBuilder, Seq, Version,
};

const NODE: u64 = 10;

/// One command: words, and `name=value` options.
struct Command<'line> {
    words: Vec<&'line str>,
    options: BTreeMap<&'line str, &'line str>,
}

impl<'line> Command<'line> {
    fn parse(line: &'line str) -> Self {
        let (mut words, mut options) = (vec![], BTreeMap::new());
        for part in line.split_whitespace() {
            match part.split_once('=') {
                Some((name, value)) => assert!(options.insert(name, value).is_none(), "{line}"),
                None => words.push(part),
            }
        }
        Self { words, options }
    }

    fn word(&self, index: usize) -> &'line str {
        self.words
            .get(index)
            .copied()
            .unwrap_or_else(|| panic!("word {index} missing"))
    }

    fn number(&self, index: usize) -> u64 {
        self.word(index).parse().unwrap()
    }

    fn option<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        let text = self.options.get(name)?;
        Some(
            text.parse()
                .unwrap_or_else(|_| panic!("{name}={text} cannot be read")),
        )
    }

    fn duration(&self, name: &str) -> Option<Duration> {
        self.options.get(name).map(|text| duration(text))
    }
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap());
    let number = number.parse().unwrap();
    match unit {
        "us" => Duration::from_micros(number),
        "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => panic!("unit of {text}"),
    }
}

fn epoch(counter: u64) -> Epoch {
    Epoch {
        counter,
        node: NodeId::new(NODE).unwrap(),
    }
}

fn verb(kind: RecordKind) -> &'static str {
    match kind {
        RecordKind::Expiry => "expiry",
        _ => "append",
    }
}

fn shown(urgency: Urgency) -> &'static str {
    match urgency {
        Urgency::Now => "",
        Urgency::Soon => " soon",
    }
}

fn version(seq: u64) -> Version {
    Version {
        generation: 0,
        epoch: epoch(1),
        seq: Seq::new(seq),
    }
}

/// Letters as digits of base 36, so that an id can be called `pay-7`.
fn request_id(text: &str) -> RequestId {
    let digits = text
        .bytes()
        .fold(0_u128, |id, byte| id << 8 | u128::from(byte));
    RequestId::new(digits).unwrap()
}

/// The world around one partition.
struct World {
    now: Moment,
    partition: Option<Partition>,
    regions: Vec<String>,
    requests: Vec<RememberedRequest>,
    fingerprints: BTreeMap<RequestId, u64>,
    /// Chain hash by last record: what a copy's segments follow.
    chains: BTreeMap<u64, ChainHash>,
    chain_given: ChainHash,
}

impl World {
    fn new() -> Self {
        Self {
            now: Moment::from_micros(1_000_000),
            partition: None,
            regions: vec![],
            requests: vec![],
            fingerprints: BTreeMap::new(),
            chains: BTreeMap::from([(0, ChainHash::START)]),
            chain_given: ChainHash::START,
        }
    }

    fn region(&self, name: &str) -> RegionId {
        let index = self.regions.iter().position(|each| each == name);
        RegionId::new(index.map_or(99, |index| index as u16 + 1)).unwrap()
    }

    fn partition(&self) -> &Partition {
        self.partition
            .as_ref()
            .expect("a scenario opens its partition first")
    }

    fn id(&self) -> PartitionId {
        PartitionId {
            keyspace: KeyspaceId::new(1),
            region: RegionId::new(1).unwrap(),
            bucket: Bucket::new(0),
        }
    }

    fn run(&mut self, line: &str) -> String {
        let command = Command::parse(line);
        let mut output = String::new();
        match command.word(0) {
            "home" | "copy" => self.open(&command, &mut output),
            "restart" => self.restart(&command, &mut output),
            "at" => self.now = Moment::from_micros(1_000_000).plus(duration(command.word(1))),
            "gate" => match self.partition().read_gate(self.now) {
                Ok(upto) => writeln!(output, "reads up to {upto}").unwrap(),
                Err(refusal) => self.show_refusal("gate", &refusal, &mut output),
            },
            "timeout" => match self.partition().next_timeout() {
                Some(due) => writeln!(output, "in {:?}", due.since(self.now)).unwrap(),
                None => output.push_str("never\n"),
            },
            "outcome" => match self.partition().outcome(request_id(command.word(1))) {
                Outcome::Known(receipt) => self.show_receipt("known", &receipt, &mut output),
                Outcome::Pending(receipt) => self.show_receipt("pending", &receipt, &mut output),
                Outcome::Unknown => output.push_str("unknown\n"),
            },
            "status" => self.show_status(&mut output),
            _ => {
                let input = self.input(&command);
                self.step(input, &mut output);
            }
        }
        output
    }

    fn input(&mut self, command: &Command<'_>) -> Input {
        let counter = || command.option("epoch").unwrap_or(1);
        match command.word(0) {
            "write" => Input::Write(self.write(command)),
            "durable" => Input::Durable {
                upto: Seq::new(command.number(1)),
            },
            "attach" => Input::CopyAttached {
                region: self.region(command.word(1)),
                received_upto: Seq::new(command.number(2)),
                durable_upto: Seq::new(command.number(3)),
                epoch: match command.options.get("epoch") {
                    Some(&"none") => None,
                    Some(counter) => Some(epoch(counter.parse().unwrap())),
                    None => (command.number(2) > 0).then(|| epoch(1)),
                },
                chain: ChainHash::from_bits(command.option("chain").unwrap_or(0)),
                log_start: Seq::new(command.option("start").unwrap_or(1)),
                own_chain: match command.options.get("own") {
                    Some(&"none") => None,
                    _ => Some(ChainHash::from_bits(command.option("own").unwrap_or(0))),
                },
            },
            "detach" => Input::CopyDetached {
                region: self.region(command.word(1)),
            },
            "ack" => Input::Ack {
                region: self.region(command.word(1)),
                epoch: epoch(counter()),
                received_upto: Seq::new(command.number(2)),
                durable_upto: Seq::new(command.number(3)),
            },
            "segment" => self.segment(command),
            "watermark" => Input::Watermark {
                epoch: epoch(counter()),
                visible_upto: Seq::new(command.number(1)),
            },
            "installed" => {
                let seq = command.number(1);
                let chain = ChainHash::from_bits(command.option("chain").unwrap_or(0));
                self.chains.insert(seq, chain);
                Input::Installed {
                    epoch: epoch(counter()),
                    seq: Seq::new(seq),
                    chain,
                    reigns: Vec::new(),
                }
            }
            "promise" => Input::Promised {
                epoch: epoch(command.number(1)),
            },
            "lease" => Input::Lease {
                until: Moment::from_micros(1_000_000).plus(duration(command.word(1))),
            },
            "hand_on" => Input::HandOn {
                to: NodeId::new(command.number(1)).unwrap(),
                revision: 1,
            },
            "degrade_recorded" => Input::DegradeRecorded,
            "tick" => Input::Tick,
            "poison" => Input::Poisoned,
            word => panic!("unknown command {word}"),
        }
    }

    fn open(&mut self, command: &Command<'_>, output: &mut String) {
        let regions = command.options.get("regions").unwrap_or(&"eu,us,ap");
        self.regions = regions.split(',').map(str::to_owned).collect();
        let home_region = self.region("eu");
        let own = if command.word(0) == "home" {
            "eu"
        } else {
            "us"
        };
        let default = Window::default();
        let config = PartitionConfig {
            partition: self.id(),
            regions: self.regions.iter().map(|name| self.region(name)).collect(),
            own_region: self.region(own),
            home_region,
            ack: command.option("ack").unwrap_or(AckLevel::Async),
            on_timeout: match command.options.get("on_timeout") {
                None | Some(&"fail") => OnTimeout::Fail,
                Some(&"degrade") => OnTimeout::Degrade,
                Some(&"block") => OnTimeout::Block,
                Some(other) => panic!("on_timeout {other}"),
            },
            ack_timeout: command
                .duration("ack_timeout")
                .unwrap_or(Duration::from_secs(5)),
            max_rpo: RpoLimit {
                writes: command.option("max_writes"),
                bytes: command.option("max_bytes"),
                age: command.duration("max_age"),
            },
            window: Window {
                records_max: command.option("records_max").unwrap_or(default.records_max),
                bytes_max: command.option("bytes_max").unwrap_or(default.bytes_max),
            },
            lease: match command.options.get("lease") {
                None => LeaseNeed::Nothing,
                Some(&"reads") => LeaseNeed::Reads,
                Some(&"everything") => LeaseNeed::Everything,
                Some(other) => panic!("lease {other}"),
            },
            degrades_on_record: command.options.contains_key("degrades_on_record"),
            reign: None,
        };
        self.open_with(config, command, output);
    }

    fn open_with(&mut self, config: PartitionConfig, command: &Command<'_>, output: &mut String) {
        let last_seq = Seq::new(command.option("last").unwrap_or(0));
        let requests = self
            .requests
            .iter()
            .filter(|request| request.seq <= last_seq);
        let recovered = Recovered {
            epoch: Some(epoch(command.option("epoch").unwrap_or(1))),
            promised: command.option("promised").map(epoch),
            epoch_history: command.option("history").map_or(vec![], |old_first: u64| {
                vec![(epoch(1), Seq::FIRST), (epoch(2), Seq::new(old_first))]
            }),
            last_seq,
            chain: ChainHash::START,
            visible_upto: Seq::new(command.option("visible").unwrap_or(0)),
            bytes: 100 * last_seq.get(),
            degraded_since: command.option("degraded_since").map(Seq::new),
            requests: requests.copied().collect(),
            handed_to: command
                .option("handed_to")
                .map(|to| NodeId::new(to).unwrap()),
        };
        let opened = if config.own_region == config.home_region {
            Partition::home(config, recovered, self.now)
        } else {
            Partition::copy(config, recovered, self.now)
        };
        match opened {
            Ok(partition) => {
                self.partition = Some(partition);
                self.step(Input::Tick, output);
            }
            Err(error) => writeln!(output, "refused: {error}").unwrap(),
        }
    }

    /// The same partition again, with what was durable.
    fn restart(&mut self, command: &Command<'_>, output: &mut String) {
        let config = self.partition().config().clone();
        self.open_with(config, command, output);
    }

    fn write(&mut self, command: &Command<'_>) -> Write {
        let ticket = command.word(1).trim_start_matches('t').parse().unwrap();
        let id = request_id(command.options.get("id").unwrap_or(&command.word(1)));
        let fingerprint = command.option("content").unwrap_or(7);
        self.fingerprints.entry(id).or_insert(fingerprint);
        let bytes_of = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let changes = [("key", KeyChange::Put), ("delete", KeyChange::Delete)];
        let keys = changes.into_iter().filter_map(|(name, change)| {
            let default =
                (name == "key" && !command.options.contains_key("delete")).then_some(&"k");
            Some((bytes_of(command.options.get(name).or(default)?), change))
        });
        let conditions = ["if_absent", "if_present", "if_version"]
            .into_iter()
            .filter_map(|name| {
                let (key, seq) = match command.options.get(name)?.split_once(':') {
                    Some((key, seq)) => (key, seq.parse().unwrap()),
                    None => (command.options[name], 0),
                };
                let expected = match name {
                    "if_absent" => Expected::Absent,
                    "if_present" => Expected::Present,
                    _ => Expected::Version(version(seq)),
                };
                let observed = command.option("observed").map(version);
                Some(Precondition {
                    key: bytes_of(key),
                    expected,
                    observed,
                })
            });
        Write {
            ticket: Ticket::new(ticket),
            purpose: match command.options.contains_key("expiry") {
                true => Purpose::Expiry,
                false => Purpose::Request,
            },
            request_id: id,
            fingerprint,
            bytes: command.option("bytes").unwrap_or(100),
            keys: keys.collect(),
            preconditions: conditions.collect(),
            level: command.option("level"),
            hlc: Hlc::at_ms(self.now.micros() / 1_000),
            deadline: self.now.plus(
                command
                    .duration("deadline")
                    .unwrap_or(Duration::from_secs(60)),
            ),
            earlier_tries: match command.options.get("searched") {
                None => EarlierTries::Remembered,
                Some(&"none") => EarlierTries::NotInLogUpto(None),
                Some(upto) => {
                    let (counter, seq) = upto.split_once(':').unwrap();
                    let epoch = epoch(counter.parse().unwrap());
                    let seq = Seq::new(seq.parse().unwrap());
                    EarlierTries::NotInLogUpto(Some(Position { epoch, seq }))
                }
            },
        }
    }

    /// `segment 3..5`: follows what was given before it; `fork=1`: follows something else.
    fn segment(&mut self, command: &Command<'_>) -> Input {
        let (first, last) = command.word(1).split_once("..").unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        let counter = command.option("epoch").unwrap_or(1);
        let mut partition = self.id();
        partition.bucket = Bucket::new(command.option("bucket").unwrap_or(0));
        let mut builder = SegmentBuilder::new(partition, epoch(counter), Seq::new(first));
        for seq in first..=last {
            let head = RecordHead {
                kind: RecordKind::Write,
                level: AckLevel::Async,
                hlc: Hlc::at_ms(seq),
                generation: 0,
                request_id: RequestId::new(seq.into()).unwrap(),
            };
            builder.push(&head, &RecordBody::mark());
        }
        let forked = ChainHash::from_bits(command.option("fork").unwrap_or(0));
        let known = self
            .chains
            .get(&(first - 1))
            .copied()
            .unwrap_or(ChainHash::START);
        let previous = if forked == ChainHash::START {
            known
        } else {
            forked
        };
        let visible_upto = Seq::new(command.option("visible").unwrap_or(0));
        let config = self.partition().config();
        let (level, copies) = (
            command.option("level").unwrap_or(config.ack),
            config.copies(),
        );
        let segment = builder.finish(previous, visible_upto);
        self.chain_given = segment.chain();
        let reign = command.option("reign").unwrap_or(counter);
        Input::Received {
            header: *segment.header(),
            chain: segment.chain(),
            reign: epoch(reign),
            awaited: Awaited::of(&[level], false, copies),
        }
    }

    fn step(&mut self, input: Input, output: &mut String) {
        let given = match &input {
            Input::Received { header, .. } => Some(header.last_seq().get()),
            _ => None,
        };
        let mut effects = vec![];
        let partition = self
            .partition
            .as_mut()
            .expect("a scenario opens its partition first");
        partition.step(self.now, input, &mut effects);
        for effect in &effects {
            if let (Effect::Store { .. }, Some(last)) = (effect, given) {
                self.chains.insert(last, self.chain_given);
            }
            self.show(effect, output);
        }
    }

    fn show(&mut self, effect: &Effect, output: &mut String) {
        match effect {
            Effect::Append {
                ticket,
                seq,
                head,
                visible_upto,
            } => {
                self.remember(*seq, head);
                let level = head.level;
                writeln!(
                    output,
                    "{} {ticket:?} at {seq} {level} visible={visible_upto}",
                    verb(head.kind)
                )
                .unwrap();
            }
            Effect::AppendMark {
                seq,
                head,
                visible_upto,
            } => {
                let to = handed_to(head).map_or(String::new(), |it| format!(" to={}", it.to));
                let kind = head.kind;
                writeln!(output, "mark {kind:?} at {seq} visible={visible_upto}{to}").unwrap();
            }
            Effect::Reply {
                ticket,
                result: Ok(receipt),
            } => {
                self.show_receipt(&format!("reply {ticket:?} ok"), receipt, output);
            }
            Effect::Reply {
                ticket,
                result: Err(refusal),
            } => {
                self.show_refusal(&format!("reply {ticket:?}"), refusal, output);
            }
            Effect::Store { urgency } => writeln!(output, "store{}", shown(*urgency)).unwrap(),
            Effect::Reject { cause } => {
                let cause = self.named(&cause.to_string());
                // The values of hashes belong to the format's golden file.
                let cause = cause.split(": segment follows").next().unwrap().to_owned();
                writeln!(output, "reject {cause}").unwrap();
            }
            Effect::Ship { upto, urgency } => {
                writeln!(output, "ship {upto}{}", shown(*urgency)).unwrap();
            }
            Effect::Visible { upto } => writeln!(output, "visible {upto}").unwrap(),
            Effect::SendAck {
                received_upto,
                durable_upto,
                urgency,
            } => {
                writeln!(
                    output,
                    "ack received={received_upto} durable={durable_upto}{}",
                    shown(*urgency)
                )
                .unwrap();
            }
            Effect::Event(event) => {
                let event = self.named(&format!("{event:?}"));
                writeln!(output, "event {event}").unwrap();
            }
        }
    }

    fn remember(&mut self, seq: Seq, head: &RecordHead) {
        if head.kind == RecordKind::Expiry {
            return;
        }
        self.requests.push(RememberedRequest {
            request_id: head.request_id,
            seq,
            fingerprint: self.fingerprints[&head.request_id],
            hlc: head.hlc,
            level: head.level,
        });
    }

    fn named(&self, text: &str) -> String {
        let named = text
            .replace("r0063", "nowhere")
            .replace("@n000000000000000a", "");
        self.regions
            .iter()
            .enumerate()
            .fold(named, |text, (index, name)| {
                text.replace(&format!("r{:04x}", index + 1), name)
            })
    }

    fn show_refusal(&self, prefix: &str, refusal: &Refusal, output: &mut String) {
        let text = self.named(&refusal.to_string());
        writeln!(output, "{prefix} {}: {text}", refusal.reason()).unwrap();
    }

    fn show_receipt(&self, prefix: &str, receipt: &Receipt, output: &mut String) {
        let Receipt {
            position,
            version,
            asked,
            achieved,
            durable_in,
            ..
        } = receipt;
        assert_eq!((version.epoch, version.seq), (position.epoch, position.seq));
        let names: Vec<&str> = durable_in
            .iter()
            .map(|index| &*self.regions[index])
            .collect();
        let position = self.named(&position.to_string());
        let (level, regions) = (achieved.level(), names.join(","));
        write!(
            output,
            "{prefix} at {position} asked={asked} got={level} durable={regions}"
        )
        .unwrap();
        output.push_str(if receipt.degraded { " degraded" } else { "" });
        output.push_str(if receipt.duplicate {
            " duplicate\n"
        } else {
            "\n"
        });
    }

    fn show_status(&self, output: &mut String) {
        let status = self.partition().status(self.now);
        writeln!(
            output,
            "{:?} appended={} durable={} visible={} level={} in_flight={}/{}B waiters={}",
            status.role,
            status.appended_upto,
            status.durable_upto,
            status.visible_upto,
            status.effective_level,
            status.in_flight_records,
            status.in_flight_bytes,
            status.waiters,
        )
        .unwrap();
        for copy in status.copies {
            let rpo = copy.potential;
            let line = format!(
                "{} {:?} received={} durable={} rpo={} writes {} bytes {:?}",
                copy.region,
                copy.standing,
                copy.received_upto,
                copy.durable_upto,
                rpo.writes,
                rpo.bytes,
                rpo.age,
            );
            writeln!(output, "{}", self.named(&line)).unwrap();
        }
        if let Some(range) = status.degraded {
            writeln!(output, "degraded from {} to {:?}", range.began, range.ended).unwrap();
        }
    }
}

/// The scenario with what comes out now in place of what it says.
fn replay(text: &str) -> String {
    let (mut world, mut replayed) = (World::new(), String::new());
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(replayed, "{line}").unwrap();
            replayed.push_str(&world.run(command));
        } else if line.is_empty() || line.starts_with('#') {
            writeln!(replayed, "{line}").unwrap();
        }
    }
    replayed
}

#[test]
fn every_scenario_comes_out_as_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let update = std::env::var_os("UPDATE_SCENARIOS").is_some();
    let mut paths: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(
        paths.len() >= 20,
        "{} scenarios in {}",
        paths.len(),
        dir.display()
    );
    let mut different = vec![];
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let replayed = replay(&text);
        if update {
            std::fs::write(&path, &replayed).unwrap();
        } else if text != replayed {
            different.push(format!(
                "{}\n--- expected\n{text}--- now\n{replayed}",
                path.display()
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}
