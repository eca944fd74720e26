//! The world of one run: three machines, their callers, and time.
//!
//! **Owns**: taking events from the queue to whom they concern, machines that stop and start.
//! **Does not own**: what they do then (`node`, `clients`).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use domicile_proto::PartitionId;
use domicile_storage::MemoryDisk;
use domicile_storage::engine::MemoryEngine;

use crate::chance::Chance;
use crate::clients::Client;
use crate::clocks::Clocks;
use crate::faults::{self, Fault};
use crate::network::REGIONS;
use crate::node::{Host, Opened, Process};
use crate::packets::{Body, Place};
use crate::plan::{Mode, Plan, node_id, region};
use crate::plane::Raft;
use crate::queue::{Event, Wake};
use crate::scene::{Scene, Tracing, Violation};
use crate::verdict;

/// Events at one moment: far more than a machine that was stopped for long finds waiting.
const EVENTS_NOW_MAX: u64 = 100_000;

/// A machine.
pub(crate) enum Machine {
    Off(Box<Host>),
    On(Box<Process>),
    /// While it changes.
    Nowhere,
}

/// A machine that will die in the middle of a change of its disk.
#[derive(Debug, Clone, Copy)]
struct Doom {
    at_operation: u64,
    is_power: bool,
}

pub(crate) struct World {
    pub(crate) machines: Vec<Machine>,
    dooms: [Option<Doom>; REGIONS],
    paused_until_us: [u64; REGIONS],
    /// A failing sync or write is planned there.
    is_faulty: [bool; REGIONS],
    pub(crate) clients: Vec<Client>,
    pub(crate) scene: Scene,
    is_calm: bool,
    /// Events so far at this very moment.
    events_now: u64,
}

/// What a run came to.
pub(crate) struct Run {
    pub(crate) violation: Option<Violation>,
    pub(crate) hash: u64,
    pub(crate) lines: Vec<String>,
    pub(crate) calls: usize,
    pub(crate) takeovers: usize,
    pub(crate) cuts: usize,
}

/// Runs a seed.
pub(crate) fn run(seed: u64, mode: Mode, tracing: Tracing) -> Run {
    let mut chance = Chance::new(seed);
    let plan = Arc::new(Plan::new(&mut chance, mode));
    let mut world = World::new(plan, chance, tracing);
    let outcome = catch_unwind(AssertUnwindSafe(|| world.run()));
    if let Err(panic) = outcome {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        world.scene.fail("assertion", text.unwrap_or_default());
    }
    let scene = &mut world.scene;
    Run {
        violation: scene.broken.clone(),
        hash: scene.hash,
        lines: std::mem::take(&mut scene.lines).into(),
        calls: scene.truth.calls.len(),
        takeovers: scene.truth.takeovers.len(),
        cuts: scene
            .truth
            .logs
            .values()
            .filter(|log| !log.cut.is_empty())
            .count(),
    }
}

impl World {
    fn new(plan: Arc<Plan>, chance: Chance, tracing: Tracing) -> Self {
        let mut scene = Scene::new(Arc::clone(&plan), chance, tracing);
        scene.note(|| format!("{plan:#?}"));
        let machines = (0..REGIONS).map(|index| Machine::Off(Box::new(host(index, &mut scene))));
        let machines = machines.collect();
        for index in 0..REGIONS {
            scene.after(0, Event::Start(index));
        }
        let clients = (0..plan.clients).map(|index| Client::new(index, &mut scene));
        let clients = clients.collect();
        scene.after(1_500_000, Event::Fault(Fault::Next));
        scene
            .queue
            .push(plan.trouble_end_us, Event::Fault(Fault::Calm));
        Self {
            machines,
            dooms: [None; REGIONS],
            paused_until_us: [0; REGIONS],
            is_faulty: [false; REGIONS],
            clients,
            scene,
            is_calm: false,
            events_now: 0,
        }
    }

    fn run(&mut self) {
        let (clients_end_us, end_us) = (self.scene.plan.clients_end_us, self.scene.plan.end_us);
        self.run_until(clients_end_us);
        if self.scene.broken.is_none() {
            verdict::set_agenda(self);
        }
        self.run_until(end_us);
        if self.scene.broken.is_none() {
            verdict::judge(self);
        }
    }

    fn run_until(&mut self, end_us: u64) {
        while self.scene.broken.is_none()
            && let Some((at_us, event)) = self.scene.queue.pop(end_us)
        {
            let is_same = self.scene.now_us == at_us;
            self.events_now = if is_same { self.events_now + 1 } else { 0 };
            if self.events_now > EVENTS_NOW_MAX {
                let problem = format!("time stands still at {at_us} us: {event:?}");
                return self.scene.fail("I15 liveness", problem);
            }
            self.scene.now_us = at_us;
            self.scene.mix(at_us);
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Start(node) => self.start(node),
            Event::Client { client, wake } => self.clients[client].wake(wake, &mut self.scene),
            Event::Retry { client, wake } => self.clients[client].retry(wake, &mut self.scene),
            Event::Fault(fault) => self.befall(fault),
            Event::Wake { node, .. } => {
                if let Some(event) = self.pause(node, event) {
                    self.wake(event);
                }
            }
            Event::Arrive(packet) => match packet.to {
                Place::Node(node) => {
                    let event = self.pause(node, Event::Arrive(packet));
                    let Some(Event::Arrive(packet)) = event else {
                        return;
                    };
                    if let Machine::On(process) = &mut self.machines[node] {
                        process.arrive(*packet, &mut self.scene);
                        self.finish(node);
                    } else if let Body::Stream { conn, .. } = packet.body {
                        // Nobody is there: whoever sent it hears so.
                        let frame = crate::packets::Frame::Reset;
                        let body = Body::Stream { conn, frame };
                        self.scene.send(packet.to, packet.from, body);
                    }
                }
                Place::Client(client) => {
                    if let Body::Answer { call, answer } = packet.body {
                        self.clients[client].hear(call, answer, &mut self.scene);
                    }
                }
            },
        }
    }

    /// What comes to a process that is stopped comes once it goes on.
    fn pause(&mut self, node: usize, event: Event) -> Option<Event> {
        let until_us = self.paused_until_us[node];
        if self.scene.now_us >= until_us {
            return Some(event);
        }
        self.scene.queue.push(until_us, event);
        None
    }

    fn wake(&mut self, event: Event) {
        let Event::Wake {
            node,
            process: number,
            what,
        } = event
        else {
            return;
        };
        let Machine::On(process) = &mut self.machines[node] else {
            return;
        };
        if process.number != number {
            return;
        }
        if matches!(what, Wake::Restart) {
            return self.stop(node, false);
        }
        process.wake(what, &mut self.scene);
        self.finish(node);
    }

    /// What an event at a machine leaves to be done.
    fn finish(&mut self, node: usize) {
        let Machine::On(process) = &mut self.machines[node] else {
            return;
        };
        let doom = self.dooms[node];
        let is_dead = |process: &Process| {
            doom.is_some_and(|doom| process.host.disk.operations() >= doom.at_operation)
        };
        let died = is_dead(process);
        process.finish(died, &mut self.scene);
        if let (true, Some(doom)) = (died, doom) {
            self.stop(node, doom.is_power);
        }
    }

    fn start(&mut self, node: usize) {
        let Machine::Off(host) = std::mem::replace(&mut self.machines[node], Machine::Nowhere)
        else {
            panic!("n{node} is started twice");
        };
        match Process::open(*host, &mut self.scene) {
            Opened::Up(process) => {
                self.scene.note(|| format!("n{node} is up"));
                self.machines[node] = Machine::On(process);
                self.finish(node);
            }
            Opened::Down(host, why) => {
                self.scene.note(|| format!("n{node} does not open: {why}"));
                self.machines[node] = Machine::Off(host);
                if self.dooms[node].is_none() && !self.is_faulty[node] {
                    self.scene
                        .fail("I16 fail-stop", format!("n{node} does not open: {why}"));
                }
                let is_power = self.dooms[node].is_some_and(|doom| doom.is_power);
                self.stop(node, is_power);
            }
        }
    }

    /// A process ends, and is started again later.
    fn stop(&mut self, node: usize, is_power: bool) {
        let mut may_lose_engine = false;
        let mut host = match std::mem::replace(&mut self.machines[node], Machine::Nowhere) {
            Machine::On(process) => {
                let process = *process;
                may_lose_engine = !process.needs_engine(&mut self.scene);
                process.host
            }
            Machine::Off(host) => *host,
            Machine::Nowhere => panic!("n{node} is nowhere"),
        };
        self.scene
            .note(|| format!("n{node} stops, power {is_power}"));
        (self.dooms[node], self.is_faulty[node]) = (None, false);
        self.paused_until_us[node] = 0;
        let seed = self.scene.chance.next();
        host.disk = match is_power {
            true => host.disk.power_loss(seed),
            false => host.disk.crash(),
        };
        let is_engine_lost = is_power && self.scene.chance.percent(50) && may_lose_engine;
        host.engine = match is_engine_lost {
            true => Arc::new(MemoryEngine::new()),
            false => Arc::new(host.engine.image()),
        };
        self.machines[node] = Machine::Off(Box::new(host));
        let off_us = match self.is_calm {
            true => 100_000,
            false => faults::off(&mut self.scene).as_micros() as u64,
        };
        self.scene.after(off_us, Event::Start(node));
    }

    fn disk(&self, node: usize) -> MemoryDisk {
        match &self.machines[node] {
            Machine::On(process) => process.host.disk.clone(),
            Machine::Off(host) => host.disk.clone(),
            Machine::Nowhere => panic!("n{node} is nowhere"),
        }
    }

    fn is_on(&self, node: usize) -> bool {
        matches!(self.machines[node], Machine::On(_))
    }

    fn befall(&mut self, fault: Fault) {
        // A packet that was late does not know that all is calm.
        if self.is_calm && !matches!(fault, Fault::AskAgain) {
            return;
        }
        self.scene.note(|| format!("### {fault:?}"));
        match fault {
            Fault::Next => faults::next(&mut self.scene),
            Fault::Kill(node) if self.is_on(node) => self.stop(node, false),
            Fault::Power(node) if self.is_on(node) => self.stop(node, true),
            Fault::Kill(_) | Fault::Power(_) => {}
            Fault::Doom {
                node,
                nth,
                is_power,
            } => {
                let disk = self.disk(node);
                if self.dooms[node].is_none() {
                    disk.freeze_at_operation(nth);
                    self.dooms[node] = Some(Doom {
                        at_operation: disk.operations() + nth,
                        is_power,
                    });
                }
            }
            Fault::Cut { from, to, is_cut } => self.scene.network.ways[from][to].is_cut = is_cut,
            Fault::Pause(node, us) if self.is_on(node) => {
                self.paused_until_us[node] = self.scene.now_us + us;
            }
            Fault::Pause(..) => {}
            Fault::JumpWall(node, by_ms) => match &mut self.machines[node] {
                Machine::On(process) => process.host.clocks.jump_wall(by_ms),
                Machine::Off(host) => host.clocks.jump_wall(by_ms),
                Machine::Nowhere => {}
            },
            Fault::FailSync(node, nth) => {
                self.is_faulty[node] = true;
                self.disk(node).fail_sync(nth);
            }
            Fault::FailWrite(node, nth) => {
                self.is_faulty[node] = true;
                self.disk(node).fail_write(nth);
            }
            Fault::SlowDisk(node, us) => {
                self.scene.truth.slow_disk = (node, self.scene.now_us + us);
            }
            Fault::GiveUp(partition, word) => {
                self.scene.truth.words.insert(partition);
                self.at_each(|it, scene| it.give_up(partition, word, scene));
            }
            Fault::Switch(partition, to) => {
                self.at_each(|it, scene| it.switch_over(partition, to, scene));
            }
            Fault::Alter(keyspace, alteration) => {
                self.at_each(|it, scene| it.alter(keyspace, alteration, scene));
            }
            Fault::Damage(node, partition) => {
                // A home that shows nothing has no snapshot for whoever lost everything.
                if self.all_show_something(partition) {
                    self.at(node, |it, scene| it.find_damage(partition, scene));
                }
            }
            Fault::AskAgain => self.ask_again(),
            Fault::Calm => self.calm(),
        }
    }

    fn all_show_something(&self, partition: PartitionId) -> bool {
        self.machines.iter().all(|machine| match machine {
            Machine::On(process) => process.has_applied(partition),
            Machine::Off(_) | Machine::Nowhere => false,
        })
    }

    /// Something happens at a machine that runs.
    fn at(&mut self, node: usize, what: impl Fn(&mut Process, &mut Scene)) {
        if let Machine::On(process) = &mut self.machines[node] {
            what(process, &mut self.scene);
            self.finish(node);
        }
    }

    /// An operator says something, to whoever leads the control plane.
    fn at_each(&mut self, what: impl Fn(&mut Process, &mut Scene)) {
        for node in 0..REGIONS {
            self.at(node, &what);
        }
    }

    /// A question of a leader arrives once more.
    fn ask_again(&mut self) {
        let asked = self.scene.truth.asked.len() as u64;
        let which = self.scene.chance.below(asked) as usize;
        if let Some((from, to, body)) = self.scene.truth.asked.get(which).cloned() {
            self.scene.send(Place::Node(from), Place::Node(to), body);
        }
    }

    fn calm(&mut self) {
        self.is_calm = true;
        for ways in &mut self.scene.network.ways {
            for way in ways {
                (way.is_cut, way.loss_permille) = (false, 0);
            }
        }
        self.scene.truth.slow_disk = (0, 0);
        if self.scene.network.is_wild {
            // What a wild stream has lost for good only another one brings.
            self.scene.network.is_wild = false;
            self.scene.network.break_all();
        }
        for node in 0..REGIONS {
            self.paused_until_us[node] = self.paused_until_us[node].min(self.scene.now_us);
            let is_doomed = self.dooms[node].is_some() || self.is_faulty[node];
            if is_doomed && self.is_on(node) {
                self.stop(node, false);
            }
        }
    }
}

fn host(index: usize, scene: &mut Scene) -> Host {
    let plan = Arc::clone(&scene.plan);
    let most = plan.drift_ppm_max;
    let drift = scene.chance.below(2 * most + 1) as i64 - most as i64;
    let clocks = Clocks::new(
        scene.chance.below(1 << 40),
        drift,
        scene.chance.below(4_000) as i64 - 2_000,
    );
    Host {
        index,
        id: node_id(index),
        region: region(index),
        disk: MemoryDisk::new(),
        engine: Arc::new(MemoryEngine::new()),
        clocks,
        raft: Raft::new(index, plan.raft, plan.founding()),
        map: Arc::default(),
        applied: 0,
        processes: 0,
    }
}
