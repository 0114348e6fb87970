//! The table by which clients are drawn to nodes (Eisenbud et al., "Maglev", NSDI 2016, 3.4): pure. Every node walks
//! over the places in an order of its own and takes one that is free, in turns. So shares are even, and a table
//! with one node more or less is nearly the same. The order is the address's alone: every daemon fills the same table.

use std::net::SocketAddr;

use proxy_ebpf::balance::{Looks, NOBODY, PLACES, Table, mixed};

use super::address::encode;

/// A node and the slot that it holds.
pub type Member = (SocketAddr, u16);

/// One node's walk over all the places.
struct Walk {
    slot: u16,
    place: u32,
    step: u32,
}

impl Walk {
    fn of(&(node, slot): &Member) -> Self {
        let mut looks = Looks::of(&encode(node.ip()));
        let place = looks.next_place();
        let hash = mixed(mixed(u64::from(looks.next_place())) ^ u64::from(place) << 32 ^ u64::from(node.port()));
        let (first, step) = ((hash >> 32) as u32, hash as u32);
        // The number of places is a prime: any step but 0 leads to all of them.
        Self { slot, place: first % PLACES, step: step % (PLACES - 1) + 1 }
    }

    fn next_free(&mut self, table: &Table) -> usize {
        loop {
            let place = self.place as usize;
            self.place = (self.place + self.step) % PLACES;
            if table[place] == NOBODY {
                return place;
            }
        }
    }
}

pub fn fill(members: &[Member]) -> Box<Table> {
    let mut table = empty();
    let mut members = members.to_vec();
    members.sort_unstable();
    let mut walks: Vec<Walk> = members.iter().map(Walk::of).collect();
    let mut free = PLACES;
    while !walks.is_empty() {
        for walk in &mut walks {
            if free == 0 {
                return table;
            }
            let place = walk.next_free(&table);
            table[place] = walk.slot;
            free -= 1;
        }
    }
    table
}

/// Made on the heap: a stack may be too small.
fn empty() -> Box<Table> {
    let places = vec![NOBODY; PLACES as usize].into_boxed_slice();
    places.try_into().unwrap_or_else(|_| unreachable!("it has that many places"))
}
