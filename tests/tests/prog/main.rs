//! The packet programs, run by the kernel's own test facility: packets in, packets out, verdicts and counters. Checksums
//! and lengths of whatever comes out are verified by a parser that is not ours.
#![expect(dead_code, reason = "what only `with_xdp` uses is looked at there")]

mod clock;
mod front;
mod gate;
mod icmp;
mod index;
mod left_alone;
mod life;
mod memory;
mod mss;
mod parking;
mod property;
mod replicas;
mod room;
mod source_hash;
mod wire;
mod world;

/// Whether packets pass the program at XDP first: `with_xdp` is this again, with it.
const FRONT: bool = false;
