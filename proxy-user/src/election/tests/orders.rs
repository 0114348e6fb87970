//! Every order in which the events of one failover can arrive, near together and far apart, in both commit modes. The
//! model checks each step; here it is asked that the fence falls, that it falls before anything else, and that it ends.

use std::time::Duration;

use super::{
    script::rules,
    walk::{Step, World},
};
use crate::{
    config::Commit,
    election::{Rules, Way},
};

/// A is the fifth node of [`Step`]'s round of four, so that its number is that of its epoch: A = 4, B = 5.
pub(crate) const A: u8 = 4;
pub(crate) const B: u8 = 5;
pub(crate) const EPOCH: u8 = 6;
pub(crate) const MASTER: u8 = 0;
pub(crate) const REPLICA: u8 = 4;
pub(crate) const OWN_ID: u8 = 7;

pub(crate) const CHOSEN: Step = Step::Sign(0, 2, EPOCH, B, A);
pub(crate) const ABORTED: Step = Step::Sign(0, 7, EPOCH, B, A);
pub(crate) const TURNED: Step = Step::Node(1, MASTER, OWN_ID);

/// Sentinel 0 leads, and may be lost; 0 and 1 make the majority; the old master gives its role up at some time.
pub(crate) fn failover() -> Vec<Step> {
    vec![
        CHOSEN,
        ABORTED,
        TURNED,
        Step::View(0, B, EPOCH, false),
        Step::View(1, B, EPOCH, false),
        Step::Node(0, REPLICA, OWN_ID),
        Step::SentinelLost(0),
    ]
}

/// Three Sentinels and three nodes say who is master at that epoch: A or B.
pub(crate) fn healthy(master: u8, epoch: u8) -> Vec<Step> {
    let node = |node| Step::Node(node, if node == master % 4 { MASTER } else { REPLICA }, OWN_ID);
    let view = |sentinel| Step::View(sentinel, master, epoch, false);
    (0..3).map(node).chain((0..3).map(view)).collect()
}

/// Three Sentinels that name A at epoch 5, and A that says so.
fn before(rules: &Rules) -> World {
    let mut world = World::new(rules);
    for step in [Step::Sentinels(0b111), Step::Nodes(0b111)].iter().chain(&healthy(A, EPOCH - 1)) {
        world.step(step).expect("a start");
    }
    assert_eq!(world.election.verdict().way, Way::Open);
    world
}

/// Whether the fence has to hold back what is meant for A.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Expected {
    /// For so long after the word, or the role.
    word: Option<Duration>,
    role: Option<Duration>,
    heard: bool,
    turned: bool,
}

impl Expected {
    pub(crate) fn see(&mut self, step: &Step) {
        match step {
            step if *step == CHOSEN => (self.word, self.heard) = (Some(Duration::from_secs(1)), true),
            step if *step == ABORTED => self.word = None,
            step if *step == TURNED => self.turned = true,
            Step::Wait(ms) => {
                let left = |left: Duration| left.checked_sub(Duration::from_millis((*ms).into()));
                (self.word, self.role) = (self.word.and_then(left), self.role.and_then(left));
            }
            _ => {}
        }
        // From the moment on at which both are known, the sign not being too long ago.
        if self.heard && self.turned && (*step == CHOSEN || *step == TURNED && self.word.is_some()) {
            self.role = Some(Duration::from_secs(5));
        }
    }

    pub(crate) fn closed(self) -> bool {
        [self.word, self.role].into_iter().flatten().any(|left| left > Duration::ZERO)
    }
}

fn check(world: &World, order: &[&Step], apart: u16) -> Result<World, String> {
    let mut world = world.clone();
    let mut expected = Expected::default();
    for step in order {
        for step in [*step, &Step::Wait(apart)] {
            world.step(step)?;
            expected.see(step);
            let verdict = world.election.verdict();
            if verdict.way == Way::Closed {
                // What comes next is a decision of its own: with its leader lost, the majority may be A's again.
                expected = Expected::default();
            }
            let to_the_old = verdict.master.as_ref().is_some_and(|master| master.epoch < u64::from(EPOCH));
            if expected.closed() && to_the_old && verdict.way != Way::Paused {
                return Err(format!("the old master is {:?} behind the fence", verdict.way));
            }
        }
    }
    Ok(world)
}

pub(crate) fn permutations(steps: &[Step], taken: &mut Vec<usize>, each: &mut dyn FnMut(&[&Step])) {
    if taken.len() == steps.len() {
        let order: Vec<&Step> = taken.iter().map(|index| &steps[*index]).collect();
        return each(&order);
    }
    for index in (0..steps.len()).filter(|index| !taken.contains(index)).collect::<Vec<_>>() {
        taken.push(index);
        permutations(steps, taken, each);
        taken.pop();
    }
}

fn every_order(commit: Commit, apart: u16) {
    let world = before(&Rules { commit, ..rules(true) });
    let mut orders = 0;
    permutations(&failover(), &mut Vec::new(), &mut |order| {
        orders += 1;
        let end = check(&world, order, apart).and_then(|world| match orders % 16 {
            0 => world.heals(A),
            8 => world.heals(B),
            _ => Ok(()),
        });
        if let Err(broken) = end {
            panic!("{broken}, {apart} ms apart, in the order {order:#?}");
        }
    });
    assert_eq!(orders, 5040);
}

#[test]
fn every_order_of_a_failover_close_together() {
    every_order(Commit::Majority, 20);
}

#[test]
fn every_order_of_a_failover_far_apart() {
    every_order(Commit::Majority, 1300);
}

#[test]
fn every_order_of_an_early_failover_close_together() {
    every_order(Commit::Early, 20);
}

#[test]
fn every_order_of_an_early_failover_far_apart() {
    every_order(Commit::Early, 1300);
}
