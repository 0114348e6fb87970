//! The same packets with the program at XDP in front of the one at tc, as a driver would show them: whatever XDP leaves must be
//! untouched, and goes on to tc. So every test of the packet datapath holds for both; `express` is XDP's own. What only SYNs are asked is not asked again.
#![expect(dead_code, reason = "what only SYNs are asked is looked at without XDP")]

mod express;
mod front;
mod gate;
mod icmp;
mod left_alone;
mod life;
mod property;
mod replicas;
mod room;
mod source_hash;
mod wire;
mod world;

const FRONT: bool = true;
