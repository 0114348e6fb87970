//! What the packet programs share: how a packet is read, what becomes of it, and how it is rewritten. Each
//! program includes it, and so has its own maps, and brings its own [`packet::Packet`].

pub(crate) mod aside;
pub(crate) mod balance;
pub(crate) mod checksum;
pub(crate) mod flow;
pub(crate) mod mac;
pub(crate) mod packet;
pub(crate) mod rewrite;
pub(crate) mod tables;
pub(crate) mod target;
pub(crate) mod way;
