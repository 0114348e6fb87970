//! The packet programs, run by the kernel's own test facility: packets in, packets out, verdicts and counters. Checksums
//! and lengths of whatever comes out are verified by a parser that is not ours.

mod gate;
mod icmp;
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
