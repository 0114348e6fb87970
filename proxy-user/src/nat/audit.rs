//! Finds what a daemon left that was killed while it gave a place back (`collector`, after step 3): keys that
//! lead to a free place, places that are neither a flow's nor in a queue; and counts of connections that died with it.
//! To be run once at a take-over. Promises: takes no place that anybody else may own, with traffic going on.
//!
//! Who gives a place back, or takes one, is done within microseconds unless it was killed. So there are three looks, a
//! second or more apart: what is in no queue at the second, and has not changed from the first to the third, is lost.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    mem,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use proxy_ebpf::{
    balance::{Load, SLOTS, of_slot},
    nat::flow,
};

use super::{
    collector::{CollectError, Collector},
    flows::Flows,
    index::{Entry, Index},
    pool::{Pool, PoolError},
};

/// Between two looks: longer than any packet is in the program.
const APART: Duration = Duration::from_secs(1);

/// The three looks, each when it is due.
#[derive(Debug)]
pub struct Audit {
    look: Look,
    due: Instant,
}

#[derive(Debug)]
enum Look {
    /// And which queue is next: one at a time, since each takes some 25 ms.
    Second(Suspects, usize),
    Third(Lost),
    Done,
}

impl Audit {
    /// Takes the first look.
    pub fn begin(collector: &Collector, withheld: &HashSet<u32>, now: Instant) -> Self {
        Self { look: Look::Second(Suspects::look(collector, withheld), 0), due: now + APART }
    }

    /// Takes the next look if it is time. Returns what was put right, at the last one.
    pub fn go_on(&mut self, collector: &mut Collector, now: Instant) -> Result<Option<Found>, CollectError> {
        if now < self.due {
            return Ok(None);
        }
        match mem::replace(&mut self.look, Look::Done) {
            Look::Second(mut suspects, queue) => {
                self.look = if suspects.clear(collector, queue)? {
                    Look::Second(suspects, queue + 1)
                } else {
                    self.due = now + APART;
                    Look::Third(suspects.confirm(collector))
                };
                Ok(None)
            }
            Look::Third(lost) => lost.mend(collector).map(Some),
            Look::Done => Ok(None),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.look, Look::Done)
    }
}

/// What seems to be lost.
#[derive(Debug)]
pub struct Suspects {
    /// Free places with their states: in the queue for all we know.
    free: HashMap<u32, u32>,
    /// Keys that lead to a free place, and the state of that.
    keys: Vec<(Entry, u32)>,
}

/// What was found lost and put right.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub keys: u32,
    pub places: u32,
}

impl Suspects {
    /// The first look. Places of ports that were held by others at the start are free and in no queue: they are not to
    /// be given back, so they are told here.
    pub fn look(collector: &Collector, withheld: &HashSet<u32>) -> Self {
        let flows = collector.flows();
        let mut free = free_places(flows);
        free.retain(|place, _| !withheld.contains(place));
        Self { keys: dangling(flows, collector.index()), free }
    }

    /// The second look, at one of the queues. False: there are no more.
    pub fn clear(&mut self, collector: &mut Collector, queue: usize) -> Result<bool, CollectError> {
        let Some(pool) = collector.pools().get_mut(queue) else { return Ok(false) };
        for place in rotate(pool)? {
            self.free.remove(&place);
        }
        Ok(true)
    }

    /// When all have been looked at.
    pub fn confirm(mut self, collector: &mut Collector) -> Lost {
        // The rest of the table is for addresses that nodes have not seen yet.
        self.free.retain(|place, _| collector.pools().iter().any(|pool| pool.holds(*place)));
        Lost(self)
    }
}

/// What is lost, unless it changes still.
#[derive(Debug)]
pub struct Lost(Suspects);

impl Lost {
    /// The third look.
    pub fn mend(self, collector: &mut Collector) -> Result<Found, CollectError> {
        let mut found = Found::default();
        let Suspects { free, keys } = self.0;
        for (entry, state) in keys {
            if collector.flows().state(entry.place()) == Some(state) {
                collector.index().remove(entry);
                found.keys += 1;
            }
        }
        for (place, state) in free {
            // Of the same incarnation: nobody had it since the first look.
            if collector.flows().state(place) == Some(state) {
                collector.give(place)?;
                found.places += 1;
            }
        }
        Ok(found)
    }
}

fn free_places(flows: &Flows) -> HashMap<u32, u32> {
    let states = (0..flows.places()).filter_map(|place| Some((place, flows.state(place)?)));
    states.filter(|(_, state)| state & flow::MASK == flow::FREE).collect()
}

fn dangling(flows: &Flows, index: &Index) -> Vec<(Entry, u32)> {
    let states = index.entries().filter_map(|entry| Some((entry, flows.state(entry.place())?)));
    states.filter(|(_, state)| state & flow::MASK == flow::FREE).collect()
}

/// One of the counts that program and daemon share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Count {
    /// Connections of a route.
    Route(u16),
    /// Flows of a slot, by its place among the loads.
    Taken(usize),
    Established(usize),
}

/// What begins or ends while it is looked at makes a look wrong, and one of a few only.
const LOOKS: usize = 5;

/// Takes from the counts of all routes and slots what is neither a flow nor a socket that was led to its node (`steers`, by
/// slot): the connections of the listener that died with its daemon. To be asked before there are any of our own. Returns by
/// how much the routes were lowered.
pub fn recount(collector: &Collector, steers: &[AtomicU64], mut pause: impl FnMut()) -> u64 {
    let mut looks = Vec::with_capacity(LOOKS);
    looks.push(surplus(collector, steers));
    while looks.len() < LOOKS {
        pause();
        looks.push(surplus(collector, steers));
    }
    let counts: BTreeSet<Count> = looks.iter().flat_map(BTreeMap::keys).copied().collect();
    let mut sum = 0;
    for count in counts {
        let mut seen: Vec<i64> = looks.iter().map(|look| look.get(&count).copied().unwrap_or(0)).collect();
        let (_, &mut median, _) = seen.select_nth_unstable(LOOKS / 2);
        let surplus = u64::try_from(median).unwrap_or(0);
        match count {
            Count::Route(route) => {
                collector.usage().lower_by(route, surplus);
                sum += surplus;
            }
            Count::Taken(at) => collector.loads().lower_by(at, &Load { taken: surplus, established: 0 }),
            Count::Established(at) => collector.loads().lower_by(at, &Load { taken: 0, established: surplus }),
        }
    }
    sum
}

/// How many more are counted than there are flows. Of what was counted before these were looked at, and after, the less
/// holds: rather a place is lost than one given away twice.
fn surplus(collector: &Collector, steers: &[AtomicU64]) -> BTreeMap<Count, i64> {
    let before = counted(collector);
    let flows = flows(collector, steers);
    let after = counted(collector);
    let of = |counts: &BTreeMap<Count, i64>, count: Count| counts.get(&count).copied().unwrap_or(0);
    before.into_iter().map(|(count, before)| (count, before.min(of(&after, count)) - of(&flows, count))).collect()
}

fn counted(collector: &Collector) -> BTreeMap<Count, i64> {
    let routes = collector.usage().counts().map(|(route, count)| (Count::Route(route), count));
    let slots = collector
        .loads()
        .counts()
        .flat_map(|(at, load)| [(Count::Taken(at), load.taken), (Count::Established(at), load.established)]);
    routes.chain(slots).map(|(count, number)| (count, number.cast_signed())).collect()
}

/// As they are to be counted.
fn flows(collector: &Collector, steers: &[AtomicU64]) -> BTreeMap<Count, i64> {
    let mut flows = BTreeMap::new();
    for (at, steered) in steers.iter().enumerate() {
        let steered = steered.load(Ordering::Relaxed).cast_signed();
        if steered != 0 {
            let route = Count::Route((at / SLOTS as usize) as u16);
            for count in [route, Count::Taken(at), Count::Established(at)] {
                *flows.entry(count).or_default() += steered;
            }
        }
    }
    let mut add = |count| *flows.entry(count).or_default() += 1;
    let table = collector.flows();
    for (_, flow) in table.scan(0..table.places()) {
        let at = of_slot(u32::from(flow.route), u32::from(flow.slot)) as usize;
        let state = flow.state & flow::MASK;
        if state != flow::CLOSED {
            add(Count::Taken(at));
        }
        if state == flow::OPEN {
            add(Count::Route(flow.route));
            add(Count::Established(at));
        }
    }
    flows
}

/// Takes each place of a queue out and puts it in again at once, nearly in the order that they had.
fn rotate(pool: &mut Pool) -> Result<HashSet<u32>, PoolError> {
    let mut seen = HashSet::new();
    // One that comes again ends the round. What the program takes meanwhile and puts back is another incarnation.
    for _ in 0..=pool.ports() {
        let Some(place) = pool.take()? else { break };
        pool.give(place)?;
        if !seen.insert(place) {
            break;
        }
    }
    Ok(seen)
}
