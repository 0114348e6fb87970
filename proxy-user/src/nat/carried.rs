//! How many bytes of payload flows have carried, by route and both ways, repeated segments too: the program counts them flow
//! by flow, and who looks at the flows anyway adds what has come since the last look. What a flow carried in its last
//! moment is missing where the program itself has ended it, for a new one of the same client's port.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use proxy_ebpf::nat::{Flow, flow};

use super::flows::Flows;

/// To the node and to the client, by route.
#[derive(Debug)]
pub struct Carried(Vec<[AtomicU64; 2]>);

impl Carried {
    /// For routes whose numbers are below `routes`.
    pub fn new(routes: usize) -> Self {
        Self((0..routes).map(|_| Default::default()).collect())
    }

    pub fn of(&self, route: u16) -> [u64; 2] {
        self.0.get(usize::from(route)).map_or([0; 2], |both| both.each_ref().map(|one| one.load(Ordering::Relaxed)))
    }

    fn add(&self, route: u16, bytes: [u64; 2]) {
        for (sum, bytes) in self.0.get(usize::from(route)).into_iter().flatten().zip(bytes) {
            sum.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

/// What each place's flow had carried at the last look.
pub(super) struct Tally {
    carried: Arc<Carried>,
    seen: Vec<Seen>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    incarnation: u32,
    bytes: [u64; 2],
}

impl Seen {
    fn of(flow: &Flow) -> Self {
        Self { incarnation: flow.state & !flow::MASK, bytes: [flow.client.bytes, flow.node.bytes] }
    }
}

impl Tally {
    /// What flows that are there already have carried is not ours to count.
    pub(super) fn new(carried: Arc<Carried>, flows: &Flows) -> Self {
        let mut seen = vec![Seen::default(); flows.places() as usize];
        for (place, flow) in flows.scan(0..flows.places()) {
            seen[place as usize] = Seen::of(&flow);
        }
        Self { carried, seen }
    }

    pub(super) fn look(&mut self, place: u32, flow: &Flow) {
        let Some(before) = self.seen.get_mut(place as usize) else { return };
        let now = Seen::of(flow);
        let known = if before.incarnation == now.incarnation { before.bytes } else { [0; 2] };
        *before = now;
        self.carried.add(flow.route, std::array::from_fn(|way| now.bytes[way].saturating_sub(known[way])));
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use proxy_ebpf::nat::End;

    use super::*;

    fn flow(incarnation: u32, route: u16, bytes: [u64; 2]) -> Flow {
        let end = |bytes| End { bytes, ..End::zeroed() };
        let state = (incarnation * flow::NEXT) | flow::OPEN;
        Flow { state, route, client: end(bytes[0]), node: end(bytes[1]), ..Flow::zeroed() }
    }

    #[test]
    fn each_byte_is_counted_once() {
        let carried = Arc::new(Carried::new(2));
        let mut tally = Tally::new(Arc::clone(&carried), &Flows::anonymous(4));
        for (flow, so_far) in [
            (flow(1, 1, [10, 100]), [10, 100]),
            (flow(1, 1, [10, 100]), [10, 100]),
            (flow(1, 1, [15, 300]), [15, 300]),
            // Another one in the same place.
            (flow(2, 1, [7, 0]), [22, 300]),
        ] {
            tally.look(3, &flow);
            assert_eq!(carried.of(1), so_far);
        }
        // Neither a place nor a route that is none.
        tally.look(4, &flow(1, 1, [1, 1]));
        tally.look(0, &flow(1, 9, [1, 1]));
        assert_eq!((carried.of(0), carried.of(1), carried.of(9)), ([0; 2], [22, 300], [0; 2]));
    }
}
