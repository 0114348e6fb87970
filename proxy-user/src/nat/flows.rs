//! The table of flows, and how many places each route holds, in the daemon's memory. A read is a copy of a
//! flow that was one and the same flow all the while; its counts go on while they are read.
//! Needs the maps `flows`, `taken` and `usage`. Of a flow the daemon writes nothing but the one word `state`.

use std::{
    ops::Range,
    sync::atomic::{AtomicU32, AtomicU64, Ordering, fence},
};

use aya::maps::MapData;
use proxy_ebpf::nat::{Address, End, Flow, flow, names};

use crate::kernel::{Mapping, MappingError, Shared};

/// [`End`], word by word.
#[repr(C)]
struct EndRecord {
    addr: [AtomicU32; 4],
    bytes: AtomicU64,
    /// The program's own.
    _hop: AtomicU64,
    packets: AtomicU32,
    next: AtomicU32,
    acked: AtomicU32,
    seen: AtomicU32,
    ifindex: AtomicU32,
    port_through: AtomicU32,
}

/// [`Flow`], word by word.
#[repr(C)]
struct Record {
    client: EndRecord,
    state: AtomicU32,
    route_slot: AtomicU32,
    node: EndRecord,
    generation: AtomicU32,
    dialled_flags: AtomicU32,
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<EndRecord>() == size_of::<End>());
    assert!(offset_of!(EndRecord, bytes) == offset_of!(End, bytes));
    assert!(offset_of!(EndRecord, packets) == offset_of!(End, packets));
    assert!(offset_of!(EndRecord, next) == offset_of!(End, next));
    assert!(offset_of!(EndRecord, ifindex) == offset_of!(End, ifindex));
    assert!(offset_of!(EndRecord, port_through) == offset_of!(End, port));
    assert!(size_of::<Record>() == size_of::<Flow>());
    assert!(offset_of!(Record, state) == offset_of!(Flow, state));
    assert!(offset_of!(Record, route_slot) == offset_of!(Flow, route));
    assert!(offset_of!(Record, node) == offset_of!(Flow, node));
    assert!(offset_of!(Record, generation) == offset_of!(Flow, generation));
    assert!(offset_of!(Record, dialled_flags) == offset_of!(Flow, dialled));
};

// SAFETY: atomics alone, without a gap (sizes and offsets asserted above).
unsafe impl Shared for Record {}

impl EndRecord {
    fn copy(&self) -> End {
        let word = |word: &AtomicU32| word.load(Ordering::Relaxed);
        let [port_high, port_low, through @ ..] = word(&self.port_through).to_ne_bytes();
        End {
            addr: bytemuck::cast::<[u32; 4], Address>(self.addr.each_ref().map(word)),
            bytes: self.bytes.load(Ordering::Relaxed),
            hop: 0,
            packets: word(&self.packets),
            next: word(&self.next),
            acked: word(&self.acked),
            seen: word(&self.seen),
            ifindex: word(&self.ifindex),
            port: [port_high, port_low],
            through: u16::from_ne_bytes(through),
        }
    }
}

impl Record {
    fn copy(&self, state: u32) -> Flow {
        let [a, b, c, d] = self.route_slot.load(Ordering::Relaxed).to_ne_bytes();
        let [e, f, client_flags, node_flags] = self.dialled_flags.load(Ordering::Relaxed).to_ne_bytes();
        Flow {
            client: self.client.copy(),
            state,
            route: u16::from_ne_bytes([a, b]),
            slot: u16::from_ne_bytes([c, d]),
            node: self.node.copy(),
            generation: self.generation.load(Ordering::Relaxed),
            dialled: u16::from_ne_bytes([e, f]),
            client_flags,
            node_flags,
        }
    }
}

/// How often a flow may change while it is read, before it counts as free.
const MOST_CHANGES: usize = 8;

/// The maps `flows` and `taken`.
#[derive(Debug)]
pub struct Flows {
    records: Mapping<Record>,
    /// A bit for each place that is not free: most are, and to look at each would push the traffic's own data out of
    /// the processor's caches.
    taken: Mapping<AtomicU64>,
}

impl Flows {
    pub fn open(flows: &MapData, taken: &MapData) -> Result<Self, MappingError> {
        Ok(Self { records: Mapping::new(names::FLOWS, flows)?, taken: Mapping::new(names::TAKEN, taken)? })
    }

    /// How many places there are.
    pub fn places(&self) -> u32 {
        u32::try_from(self.records.len()).unwrap_or(u32::MAX)
    }

    /// `None` beyond the end.
    pub fn state(&self, place: u32) -> Option<u32> {
        Some(self.records.get(place as usize)?.state.load(Ordering::Acquire))
    }

    /// The flow in a place; `None` if it is free.
    pub fn read(&self, place: u32) -> Option<Flow> {
        let record = self.records.get(place as usize)?;
        let mut state = record.state.load(Ordering::Acquire);
        // From half-open to open, to free, to the next one: each takes a round trip at least.
        for _ in 0..MOST_CHANGES {
            if state & flow::MASK == flow::FREE {
                return None;
            }
            let copy = record.copy(state);
            // Whoever gives the place to another flow ends this one first, by a write to `state`.
            fence(Ordering::Acquire);
            let after = record.state.load(Ordering::Acquire);
            if after == state {
                return Some(copy);
            }
            state = after;
        }
        None
    }

    /// The flows in these places.
    pub fn scan(&self, places: Range<u32>) -> impl Iterator<Item = (u32, Flow)> {
        self.taken(places).filter_map(|place| Some((place, self.read(place)?)))
    }

    /// Those of these places that are taken.
    fn taken(&self, places: Range<u32>) -> impl Iterator<Item = u32> {
        let words = places.start / u64::BITS..places.end.div_ceil(u64::BITS);
        let bits = words.flat_map(|word| {
            let mut bits = self.taken.get(word as usize).map_or(0, |bits| bits.load(Ordering::Acquire));
            std::iter::from_fn(move || {
                let first = bits.trailing_zeros();
                bits &= bits.wrapping_sub(1);
                (first < u64::BITS).then_some(word * u64::BITS + first)
            })
        });
        bits.filter(move |place| places.contains(place))
    }

    /// Notes that a place is free. Only its owner does.
    pub(super) fn unmark(&self, place: u32) {
        if let Some(word) = self.taken.get((place / u64::BITS) as usize) {
            word.fetch_and(!(1 << (place % u64::BITS)), Ordering::AcqRel);
        }
    }

    /// Ends the flow that was read in this place: true if it was there still, and was ended by nobody else.
    /// The place is the caller's then, until it is in the queue.
    pub(super) fn end(&self, place: u32, flow: &Flow) -> bool {
        let free = flow.state & !flow::MASK | flow::FREE;
        self.records.get(place as usize).is_some_and(|record| {
            record.state.compare_exchange(flow.state, free, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }
}

/// The map `usage`: flows that hold a place, by route.
#[derive(Debug)]
pub struct Usage(Mapping<AtomicU64>);

impl Usage {
    pub fn open(map: &MapData) -> Result<Self, MappingError> {
        Mapping::new(names::USAGE, map).map(Self)
    }

    /// Those that are not nothing, by route.
    pub(super) fn counts(&self) -> impl Iterator<Item = (u16, u64)> {
        let routes = 0..u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        routes.map(|route| (route, self.of(route))).filter(|(_, count)| *count > 0)
    }

    pub fn of(&self, route: u16) -> u64 {
        self.0.get(usize::from(route)).map_or(0, |count| above_nothing(count.load(Ordering::Relaxed)))
    }

    /// A place for a connection that is no flow; false if the route has `most` already.
    pub fn claim(&self, route: u16, most: u32) -> bool {
        let more = |count: u64| (above_nothing(count) < u64::from(most)).then_some(count.wrapping_add(1));
        let count = self.0.get(usize::from(route));
        count.is_none_or(|count| count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok())
    }

    /// Gives such a place back.
    pub fn give_back(&self, route: u16) {
        self.lower(route);
    }

    /// One flow less. Never below nothing, which would count as a full route for ever.
    pub(super) fn lower(&self, route: u16) {
        self.lower_by(route, 1);
    }

    pub(super) fn lower_by(&self, route: u16, flows: u64) {
        if let Some(count) = self.0.get(usize::from(route)) {
            let less = |count: u64| Some(above_nothing(count).saturating_sub(flows));
            let _previous = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

/// The program takes off what it added; where a recount took too much off before, it falls below nothing.
fn above_nothing(count: u64) -> u64 {
    if count as i64 > 0 { count } else { 0 }
}

#[cfg(test)]
impl Flows {
    /// A table of no kernel.
    pub(super) fn anonymous(places: usize) -> Self {
        Self { records: Mapping::anonymous(places), taken: Mapping::anonymous(places.div_ceil(64)) }
    }

    /// Plays the kernel program: the fields, then the state.
    pub(super) fn put(&self, place: u32, flow: &Flow) {
        let words: [u32; 32] = bytemuck::cast(*flow);
        self.taken[place as usize / 64].fetch_or(1 << (place % 64), Ordering::AcqRel);
        let record = &self.records[place as usize];
        for (end, words) in [(&record.client, &words[..14]), (&record.node, &words[16..30])] {
            end.put(words);
        }
        record.route_slot.store(words[15], Ordering::Relaxed);
        record.generation.store(words[30], Ordering::Relaxed);
        record.dialled_flags.store(words[31], Ordering::Relaxed);
        record.state.store(flow.state, Ordering::Release);
    }
}

#[cfg(test)]
impl EndRecord {
    fn put(&self, words: &[u32]) {
        let long = |at: usize| bytemuck::cast::<[u32; 2], u64>([words[at], words[at + 1]]);
        for (word, value) in self.addr.iter().zip(words) {
            word.store(*value, Ordering::Relaxed);
        }
        self.bytes.store(long(4), Ordering::Relaxed);
        let rest = [&self.packets, &self.next, &self.acked, &self.seen, &self.ifindex, &self.port_through];
        for (word, value) in rest.into_iter().zip(&words[8..]) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
impl Usage {
    pub(super) fn anonymous(counts: &[u64]) -> Self {
        let usage = Self(Mapping::anonymous(counts.len()));
        for (count, value) in usage.0.iter().zip(counts) {
            count.store(*value, Ordering::Relaxed);
        }
        usage
    }
}
