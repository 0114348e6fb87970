//! Every order of the events of one failover through the real loop, some near together, some far apart. Asked of the
//! gates, not of the verdict: what a connection may do is what counts.

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::*;
use crate::election::tests::orders::{ABORTED, B, CHOSEN, Expected, TURNED, failover, permutations};

/// Between two events: at once, within the fence, and behind the second for which a word is believed.
const APART: [u16; 4] = [0, 5, 20, 1300];
/// One end in so many is looked at: each is seconds of ticks.
const SAMPLE: u32 = 6;
/// No fence and no credit lasts longer.
const LONGEST_FENCE: u64 = 5_000;
/// Nor is anybody in a hurry for longer, a tick of the conductor included.
const LONGEST_HURRY: u64 = 5_250;

/// What a switch to B needs, told from what was said and nothing else.
#[derive(Debug, Clone, Copy, Default)]
struct Grounds {
    named: [bool; 2],
    says_master: bool,
    promised: bool,
}

impl Grounds {
    fn see(&mut self, step: &Step) {
        match step {
            Step::View(from, B, EPOCH, _) => self.named[usize::from(*from)] = true,
            Step::SentinelLost(from) => self.named[usize::from(*from)] = false,
            step if *step == CHOSEN => self.promised = true,
            step if *step == ABORTED => self.promised = false,
            step if *step == TURNED => self.says_master = true,
            _ => {}
        }
    }

    fn suffice(self, commit: Commit) -> bool {
        self.says_master && (self.named == [true; 2] || commit == Commit::Early && self.promised)
    }
}

struct Run {
    bench: Bench,
    commit: Commit,
    /// A client of A from before the failover; whether it was to end since.
    old: Client,
    ended: bool,
    expected: Expected,
    grounds: Grounds,
    first: Verdict,
    last: Verdict,
}

impl Run {
    async fn new(commit: Commit) -> Self {
        let bench = Bench::healthy(commit).await;
        let (old, first) = (bench.connect().expect("open"), bench.verdict());
        let (expected, grounds, last) = (Expected::default(), Grounds::default(), first.clone());
        Self { bench, commit, old, ended: false, expected, grounds, first, last }
    }

    async fn step(&mut self, step: &Step) {
        self.bench.say(step).await;
        self.expected.see(step);
        self.grounds.see(step);
        if !matches!(step, Step::Wait(_)) {
            // Until all was quiet.
            self.expected.see(&Step::Wait(1));
        }
        let verdict = self.bench.verdict();
        if verdict.way == Way::Closed {
            // What comes next is a decision of its own: with its leader lost, the majority may be A's again.
            self.expected = Expected::default();
        }
        self.check_old(&verdict);
        self.check_new(&verdict);
        self.last = verdict;
    }

    fn is_fenced(&self, verdict: &Verdict) -> bool {
        self.expected.closed() && verdict.master.as_ref().is_some_and(|master| master.epoch < u64::from(EPOCH))
    }

    /// Once its master is none any more it is never let through again, also not when that is followed anew.
    fn check_old(&mut self, verdict: &Verdict) {
        self.ended |= verdict.master != self.first.master;
        let due = match verdict.way {
            _ if self.ended => Passage::Shut,
            Way::Paused => Passage::Paused,
            Way::Open | Way::Established => Passage::Free,
            Way::Closed => Passage::Shut,
        };
        let passage = self.old.passage();
        assert_eq!(passage, due, "the old client while {verdict:?}");
        assert!(passage != Passage::Free || !self.is_fenced(verdict), "an open gate behind the fence");
    }

    fn check_new(&self, verdict: &Verdict) {
        let new = self.bench.connect();
        assert_eq!(new.is_some(), verdict.way == Way::Open, "what is offered while {verdict:?}");
        let leads_to_b = |it: &Verdict| it.master.as_ref().is_some_and(|master| master.addr == node("B"));
        if leads_to_b(verdict) && !leads_to_b(&self.last) {
            assert!(self.grounds.suffice(self.commit), "released on {:?}", self.grounds);
        }
        if let Some(new) = new {
            assert_eq!(Some(new.node), verdict.master.as_ref().map(|master| master.addr));
            assert_eq!((new.passage(), self.is_fenced(verdict)), (Passage::Free, false));
        }
    }

    /// Nobody says anything more: whatever there was ends by time.
    async fn calm_down(&self) {
        self.bench.wait(LONGEST_FENCE).await;
        assert_ne!(self.bench.way(), Way::Paused);
        self.bench.wait(LONGEST_HURRY - LONGEST_FENCE).await;
        assert!(!self.bench.in_a_hurry());
    }

    /// From wherever it stands: once all agree and the node agrees too, clients get through to it.
    async fn heal(&self, name: &str, number: u8) {
        self.bench.say_all(&healthy(number, EPOCH + 1)).await;
        self.bench.wait(LONGEST_FENCE).await;
        let client = self.bench.connect().expect("an open group");
        assert_eq!((client.node, client.passage()), (node(name), Passage::Free));
    }
}

/// What comes behind the last event.
#[derive(Debug, Clone, Copy)]
enum End {
    Unseen,
    Calm,
    Healed(&'static str, u8),
}

fn any_end(random: &mut StdRng) -> End {
    if !random.random_ratio(1, SAMPLE) {
        return End::Unseen;
    }
    [End::Calm, End::Healed("A", A), End::Healed("B", B)][random.random_range(0..3)]
}

async fn run(commit: Commit, steps: &[(Step, u16)], end: End) {
    let mut run = Run::new(commit).await;
    for (step, apart) in steps {
        run.step(step).await;
        run.step(&Step::Wait(*apart)).await;
    }
    match end {
        End::Unseen => {}
        End::Calm => run.calm_down().await,
        End::Healed(name, number) => run.heal(name, number).await,
    }
    run.bench.end().await;
}

/// Tells which run it was that failed.
struct Witness<'a>(&'a [(Step, u16)], End);

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in the order, each with the milliseconds behind it, {:#?}, then {:?}", self.0, self.1);
        }
    }
}

fn every_order(commit: Commit, seed: u64) {
    let (mut random, mut orders) = (StdRng::seed_from_u64(seed), 0);
    permutations(&failover(), &mut Vec::new(), &mut |order| {
        let apart = |step: &&Step| ((*step).clone(), APART[random.random_range(0..APART.len())]);
        let steps: Vec<_> = order.iter().map(apart).collect();
        let witness = Witness(&steps, any_end(&mut random));
        virtually(run(commit, witness.0, witness.1));
        orders += 1;
    });
    assert_eq!(orders, 5040);
}

#[test]
fn every_order_of_a_failover() {
    every_order(Commit::Majority, 1);
}

#[test]
fn every_order_of_an_early_failover() {
    every_order(Commit::Early, 2);
}
