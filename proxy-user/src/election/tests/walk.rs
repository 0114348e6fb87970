//! Random worlds against a model. The model keeps only what was last said, and checks after every step what
//! must always hold; it shares no code with the election. One long seeded walk, and short ones that shrink.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    model::Model,
    script::{node, rules},
};
use crate::config::Commit;
use crate::election::{
    Election, Failure, NodeReport, Observation, ReplicaLink, Role, Rules, SentinelView, Sign, SignKind,
};

const STEPS: u32 = 100_000;
pub(super) const SENTINELS: u8 = 5;
const NODES: [&str; 4] = ["A", "B", "C", "D"];

/// One thing that happens, as plain numbers: what a generator gives and proptest shrinks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Wait(u16),
    /// Wait for exactly as long as the election asks to.
    Deadline,
    Sentinels(u8),
    View(u8, u8, u8, bool),
    SentinelLost(u8),
    Nodes(u8),
    Node(u8, u8, u8),
    NodeLost(u8),
    /// From whom, of what kind, the epoch, the replica and the master.
    Sign(u8, u8, u8, u8, u8),
}

fn sentinel(number: u8) -> std::net::SocketAddr {
    std::net::SocketAddr::from(([192, 0, 2, number % SENTINELS], 26379))
}

pub(super) fn server(number: u8) -> std::net::SocketAddr {
    node(NODES[usize::from(number) % NODES.len()])
}

impl Step {
    pub(crate) fn observation(&self) -> Option<Observation> {
        Some(match *self {
            Self::Wait(_) | Self::Deadline => return None,
            Self::Sentinels(set) => {
                Observation::Sentinels((0..SENTINELS).filter(|bit| set & (1 << bit) != 0).map(sentinel).collect())
            }
            Self::View(from, master, epoch, master_down) => Observation::View(
                sentinel(from),
                SentinelView { master: server(master), epoch: epoch.into(), master_down },
            ),
            Self::SentinelLost(from) => Observation::SentinelLost(sentinel(from), Failure::Unreachable),
            Self::Nodes(set) => Observation::Nodes((0..4).filter(|bit| set & (1 << bit) != 0).map(server).collect()),
            Self::Node(from, role, id) => Observation::Node(server(from), report(role, id)),
            Self::NodeLost(from) => Observation::NodeLost(server(from), Failure::TimedOut),
            Self::Sign(from, kind, epoch, replica, master) => {
                Observation::Sign(sentinel(from), sign(kind, epoch, replica, master))
            }
        })
    }
}

fn sign(kind: u8, epoch: u8, replica: u8, master: u8) -> Sign {
    let kind = match kind % 8 {
        0 | 1 => SignKind::Stirring,
        2..=4 => SignKind::Chosen,
        5 | 6 => SignKind::Promoted,
        _ => SignKind::Aborted,
    };
    let epoch = (!epoch.is_multiple_of(8)).then_some(epoch.into());
    Sign { kind, epoch, master: server(master), replica: Some(server(replica)), channel: "" }
}

fn report(role: u8, id: u8) -> NodeReport {
    let role = match role % 8 {
        0..=3 => Role::Master,
        4 | 5 => {
            Role::Replica(ReplicaLink { master: None, stray: false, up: true, lag_seconds: None, lag_bytes: None })
        }
        6 => Role::Replica(ReplicaLink { master: None, stray: false, up: false, lag_seconds: None, lag_bytes: None }),
        _ => Role::Loading,
    };
    let id = match id % 16 {
        0..=5 => None,
        15 => Some("other".to_owned()),
        _ => Some("own".to_owned()),
    };
    NodeReport { role, id, backlog_active: Some(true) }
}

/// The election and its model, side by side.
#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) election: Election,
    pub(super) model: Model,
    pub(crate) now: Instant,
}

impl World {
    pub(crate) fn new(rules: &Rules) -> Self {
        Self { election: Election::new(rules.clone()), model: Model::new(rules), now: Instant::now() }
    }

    pub(crate) fn step(&mut self, step: &Step) -> Result<(), String> {
        let before = self.election.verdict().clone();
        let deadline = self.election.deadline();
        match step {
            Step::Wait(ms) => self.now += Duration::from_millis((*ms).into()),
            Step::Deadline => self.now = deadline.unwrap_or(self.now),
            _ => {}
        }
        let changed = match step.observation() {
            Some(observation) => {
                self.model.learn(&observation, self.now);
                self.election.observe(observation, self.now)
            }
            None => self.election.tick(self.now),
        };
        let after = self.election.verdict().clone();
        if changed != (before != after) {
            return Err("the answer does not tell whether the verdict changed".into());
        }
        if deadline.is_some_and(|at| at <= self.now) && self.election.deadline() == deadline {
            return Err("the deadline passed and still stands".into());
        }
        if self.election.deadline().is_some_and(|at| at <= self.now) {
            return Err("the deadline is not in the future".into());
        }
        self.model.check(&before, &after, self.now)?;
        if self.election.clone().tick(self.now) {
            return Err("asking twice gives another answer".into());
        }
        Ok(())
    }
}

/// What a stretch of the walk is like: good days, Sentinels or nodes failing, or anything at all.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Weather {
    Fair,
    SentinelsFail,
    NodesFail,
    Anything,
}

impl Weather {
    pub(crate) fn at(number: u32) -> Self {
        [Self::Fair, Self::SentinelsFail, Self::Fair, Self::NodesFail, Self::Anything][(number / 40 % 5) as usize]
    }

    /// In a hundred steps: Sentinels that answer, Sentinels lost, nodes that answer, nodes lost. The rest is time.
    fn shares(self) -> [u8; 4] {
        match self {
            Self::Fair => [40, 2, 45, 2],
            Self::SentinelsFail => [5, 40, 40, 2],
            Self::NodesFail => [35, 2, 12, 45],
            Self::Anything => [35, 7, 33, 10],
        }
    }
}

/// Mostly plausible: one candidate an epoch, who mostly says master while the others mostly say replica.
pub(crate) fn random_step(random: &mut StdRng, weather: Weather, epoch: u8) -> Step {
    let odd = matches!(weather, Weather::Anything) || random.random_ratio(1, 50);
    let any: u8 = random.random();
    if odd && random.random_ratio(1, 20) {
        return if any.is_multiple_of(2) { Step::Sentinels(any >> 1) } else { Step::Nodes(any >> 1 | 0b11) };
    }
    let candidate = if odd && random.random_ratio(1, 3) { any } else { epoch };
    if random.random_ratio(1, 25) {
        // Mostly of a failover from this epoch's candidate to the next one's.
        let (next, odd) = (epoch.saturating_add(1), odd && random.random_ratio(1, 2));
        return Step::Sign(
            any,
            any >> 3,
            if odd { any } else { next },
            if odd { any } else { next },
            if odd { any >> 2 } else { epoch },
        );
    }
    let near = if odd { epoch.saturating_add(any % 3).saturating_sub(1) } else { epoch };
    let [views, silent, reports, failures] = weather.shares();
    let mut roll: u8 = random.random_range(0..100);
    let mut below = |share| {
        let hit = roll < share;
        roll = roll.saturating_sub(share);
        hit
    };
    if below(views) {
        Step::View(any, candidate, near, any > 230)
    } else if below(silent) {
        Step::SentinelLost(any)
    } else if below(reports) {
        let node: u8 = random.random_range(0..4);
        let usual = if node == epoch % 4 { 0 } else { 4 };
        Step::Node(node, if odd { any } else { usual }, if odd { any >> 3 } else { 7 })
    } else if below(failures) {
        Step::NodeLost(any)
    } else if any.is_multiple_of(3) {
        Step::Deadline
    } else {
        Step::Wait(random.random_range(0..4000))
    }
}

fn walk(rules: &Rules, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut world = World::new(rules);
    let mut ways = [0_u32; 4];
    let mut epoch = 1;
    for number in 0..STEPS {
        if number % 1000 == 0 {
            world = World::new(rules);
            world.step(&Step::Sentinels(0b11111)).and_then(|()| world.step(&Step::Nodes(0b1111))).expect("a start");
            epoch = 1;
        }
        epoch += u8::from(random.random_ratio(1, 60));
        let step = random_step(&mut random, Weather::at(number), epoch);
        let outcome = world.step(&step).and_then(|()| match number % 50 {
            0 => world.heals(epoch % 4),
            _ => Ok(()),
        });
        if let Err(broken) = outcome {
            panic!("seed {seed}, step {number}, {step:?}: {broken}\n{:#?}", world.election);
        }
        ways[world.election.verdict().way as usize] += 1;
    }
    // Without Sentinels there are no signs, and no pause.
    let ways = if rules.sentinels { &ways[..] } else { &[ways[0], ways[2], ways[3]] };
    assert!(ways.iter().all(|&steps| steps > STEPS / 50), "a walk that sees too little proves too little: {ways:?}");
}

#[test]
fn a_hundred_thousand_steps_with_sentinels() {
    walk(&rules(true), 1);
}

#[test]
fn a_hundred_thousand_steps_with_an_early_commit() {
    walk(&Rules { commit: Commit::Early, ..rules(true) }, 3);
}

#[test]
fn a_hundred_thousand_steps_without_sentinels() {
    walk(&Rules { rise: 2, ..rules(false) }, 2);
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..12_000_u16).prop_map(Step::Wait),
        1 => Just(Step::Deadline),
        1 => (0..32_u8).prop_map(Step::Sentinels),
        6 => (0..5_u8, 0..3_u8, 1..4_u8, any::<bool>())
            .prop_map(|(from, master, epoch, down)| Step::View(from, master, epoch, down)),
        2 => (0..5_u8).prop_map(Step::SentinelLost),
        1 => (0..16_u8).prop_map(Step::Nodes),
        6 => (0..4_u8, 0..8_u8, 0..16_u8).prop_map(|(from, role, id)| Step::Node(from, role, id)),
        2 => (0..4_u8).prop_map(Step::NodeLost),
        4 => (0..5_u8, 0..8_u8, 0..6_u8, 0..3_u8, 0..3_u8)
            .prop_map(|(from, kind, epoch, replica, master)| Step::Sign(from, kind, epoch, replica, master)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_world_keeps_the_promises(
        sentinels: bool, early: bool, rise in 1..4_u32, steps in prop::collection::vec(any_step(), 0..150)) {
        let mut world = World::new(&Rules { rise, commit: if early { Commit::Early } else { Commit::Majority }, ..rules(sentinels) });
        let start = [Step::Sentinels(0b111), Step::Nodes(0b1111)];
        for step in start.iter().chain(&steps) {
            world.step(step).map_err(TestCaseError::fail)?;
        }
        world.heals(1).map_err(TestCaseError::fail)?;
    }
}
