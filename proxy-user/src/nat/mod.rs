//! The daemon's half of the packet datapaths (the ABI: `proxy_ebpf::nat`): what it reads of the flows that the
//! kernel keeps, and what it does for them. Everything that a packet needs at once is the kernel program's.
//!
//! - `doors`: what clients dial; `egress`, `watch`: how a node is reached, and when to ask again;
//! - `ports`, `reservation`, `sockets`: the source ports that are ours alone;
//! - `flows`, `pool`: the table of flows and its free places; `collector`: frees what has ended, by the rules in `fate`;
//!   `audit`: what a killed daemon left;
//! - `segment`, `reset`: the RST to both ends of a flow.
//!
//! Never knows Sentinel or the election: who lives and who has ended is told to it.

pub mod address;
pub mod audit;
pub mod collector;
pub mod doors;
pub mod egress;
pub mod exits;
pub mod fate;
pub mod flows;
pub mod heart;
pub mod keeper;
mod mapping;
mod netlink;
pub mod pool;
pub mod ports;
pub mod reservation;
pub mod reset;
pub mod segment;
pub mod sockets;
pub mod ticks;
pub mod watch;

pub use self::mapping::MappingError;

#[cfg(test)]
mod tests;
