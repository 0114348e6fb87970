//! Gives back the places of flows that have ended.
//!
//! A place belongs to one party at a time, and `state` says to whom:
//! 1. FREE and in the queue: whoever pops it (the program, at a SYN) owns it.
//!    It gives it the next incarnation, also where it has to put it back at once (but for `audit`, which is alone).
//! 2. The owner writes the fields, then `state` = HALF with the next incarnation, then inserts the key
//!    into the index, only if there is none. A key therefore leads to a flow that is whole.
//! 3. To end a flow is to compare-exchange `state`, from exactly what was judged to FREE with the same
//!    incarnation. Collector and program may both try (the program ends half-open flows for newer ones); one
//!    of them wins. Who lost leaves everything as it is: also where the program made OPEN of HALF meanwhile.
//! 4. The winner owns the place: removes the key if it leads to this place, pushes the place to the end of the queue,
//!    lowers `usage` and `loads`, in this order. So no key leads to a place in the queue, and nothing is pushed twice.
//!
//! Between 3 and 4 a key leads to a FREE place: for a packet that is no flow.
//! A daemon that is killed between 3 and the end of 4 leaves a place that nobody owns: `audit` finds it.

use std::sync::Arc;

use proxy_ebpf::nat::{Flow, flow};

use super::{
    carried::{Carried, Tally},
    fate::{Fate, Lingers, Reason, Standing, fate},
    flows::{Flows, Usage},
    index::Index,
    loads::Loads,
    pool::{Pool, PoolError},
};

#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("{0}; the port stays unused until it is")]
    Queue(#[from] PoolError),
    #[error("the place {0} of a flow belongs to no address: the maps are of another configuration")]
    Stray(u32),
}

/// What a sweep has done.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Flows freed, by [`Reason`] as in [`Reason::ALL`].
    pub freed: [u32; Reason::ALL.len()],
    /// Freed flows whose ends have to be told by RST ([`Reason::resets`]), with their places.
    pub to_reset: Vec<(u32, Flow)>,
    /// Flows that hold a place still, among those looked at.
    pub kept: u32,
    /// The last place was looked at: the next sweep starts anew.
    pub round: bool,
    /// What went wrong with some of them. They are tried again at the next sweep.
    pub failed: Option<CollectError>,
}

pub struct Collector {
    flows: Arc<Flows>,
    usage: Arc<Usage>,
    loads: Arc<Loads>,
    index: Index,
    pools: Vec<Pool>,
    lingers: Lingers,
    tally: Option<Tally>,
    /// Where the next sweep goes on.
    next: u32,
    /// Ended, and not yet in the queue: places that are ours. Bounded by the table.
    unfinished: Vec<(u32, Flow)>,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector").field("pools", &self.pools).finish_non_exhaustive()
    }
}

impl Collector {
    pub fn new(
        flows: Arc<Flows>,
        usage: Arc<Usage>,
        loads: Arc<Loads>,
        index: Index,
        pools: Vec<Pool>,
        lingers: Lingers,
    ) -> Self {
        Self { flows, usage, loads, index, pools, lingers, tally: None, next: 0, unfinished: Vec::new() }
    }

    /// Counts what flows carry from now on.
    pub fn count(&mut self, carried: Arc<Carried>) {
        self.tally = Some(Tally::new(carried, &self.flows));
    }

    /// Looks at the next `most` places, and frees what has ended. `standing` tells of a route and a slot.
    pub fn sweep(&mut self, now: u32, most: u32, standing: impl Fn(u16, u16) -> Standing) -> Sweep {
        let mut sweep = Sweep::default();
        for (place, flow) in std::mem::take(&mut self.unfinished) {
            self.finish(place, flow, &mut sweep);
        }
        let flows = Arc::clone(&self.flows);
        let end = flows.places().min(self.next.saturating_add(most));
        for (place, flow) in flows.scan(self.next..end) {
            self.look(place, &flow);
            match fate(&flow, now, &self.lingers, standing(flow.route, flow.slot)) {
                Fate::Free(reason) if flows.end(place, &flow) => {
                    sweep.freed[reason as usize] += 1;
                    if reason.resets() {
                        sweep.to_reset.push((place, flow));
                    }
                    self.finish(place, flow, &mut sweep);
                }
                // Somebody was faster: it is another flow by now, or none.
                Fate::Free(_) => {}
                Fate::Keep => sweep.kept += 1,
            }
        }
        sweep.round = end == flows.places();
        self.next = if sweep.round { 0 } else { end };
        sweep
    }

    /// Ends a flow that was read in this place, whatever its fate would be: true if it was there still.
    pub fn end(&mut self, place: u32, flow: &Flow) -> bool {
        self.look(place, flow);
        let ended = self.flows.end(place, flow);
        if ended {
            // What fails is tried again by the next sweep, and told then.
            self.finish(place, *flow, &mut Sweep::default());
        }
        ended
    }

    /// Another address whose places are given back too.
    pub fn add(&mut self, pool: Pool) {
        self.pools.push(pool);
    }

    pub fn flows(&self) -> &Flows {
        &self.flows
    }

    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    pub(super) fn loads(&self) -> &Loads {
        &self.loads
    }

    /// The queue of each SNAT address.
    pub(super) fn pools(&mut self) -> &mut [Pool] {
        &mut self.pools
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    fn look(&mut self, place: u32, flow: &Flow) {
        if let Some(tally) = &mut self.tally {
            tally.look(place, flow);
        }
    }

    fn finish(&mut self, place: u32, flow: Flow, sweep: &mut Sweep) {
        if let Err(error) = self.put_back(place, &flow) {
            sweep.failed = Some(error);
            self.unfinished.push((place, flow));
        }
    }

    /// Step 4 of the protocol. May be done again after a failure: only its last step fails not, and counts.
    fn put_back(&mut self, place: u32, flow: &Flow) -> Result<(), CollectError> {
        self.index.forget(flow, place);
        self.give(place)?;
        // A half-open flow holds no place of its route, and a closed one none any more.
        if flow.state & flow::MASK == flow::OPEN {
            self.usage.lower(flow.route);
        }
        self.loads.lower(flow);
        Ok(())
    }

    /// Puts a place that is ours into its queue.
    pub(super) fn give(&mut self, place: u32) -> Result<(), CollectError> {
        let pool = self.pools.iter_mut().find(|pool| pool.holds(place)).ok_or(CollectError::Stray(place))?;
        self.flows.unmark(place);
        Ok(pool.give(place)?)
    }
}
