//! Those marked as ignored need root: `cargo xtask test prog` runs them.

mod audit;
mod collector;
mod doors;
mod egress;
mod fate;
mod flows;
mod gates;
mod maglev;
mod reset;
mod segment;
mod syn;

use aya::maps::MapData;
use aya_obj::generated::bpf_map_type;
use bytemuck::Zeroable as _;
use proxy_ebpf::nat::{Flow, Snat, flow};

use super::address::encode;

/// An open flow, all of whose bytes differ from each other's.
fn sample() -> Flow {
    let bytes: [u8; 128] = std::array::from_fn(|at| at as u8 + 1);
    let mut sample = Flow { state: (flow::NEXT * 7) | flow::OPEN, ..bytemuck::cast(bytes) };
    // The program's own.
    (sample.client.hop, sample.node.hop) = (0, 0);
    sample
}

/// An open flow from 192.0.2.1:40001 to the node 198.51.100.1:6379, both of whose ends spoke at `seen`.
fn open(seen: u32) -> Flow {
    let mut open = Flow { state: flow::NEXT | flow::OPEN, generation: 5, dialled: 77, ..Flow::zeroed() };
    (open.client_flags, open.node_flags) = (0x1a, 0x1a);
    for (end, ip, port) in [(&mut open.client, [192, 0, 2, 1], 40001u16), (&mut open.node, [198, 51, 100, 1], 6379)] {
        end.addr = encode(ip.into());
        end.port = port.to_be_bytes();
        end.seen = seen;
    }
    (open.client.next, open.client.acked) = (1000, 2000);
    (open.node.next, open.node.acked) = (2000, 1000);
    open
}

fn snat(first: u32, first_port: u16, ports: u16) -> Snat {
    Snat { addr: encode([203, 0, 113, 9].into()), first, first_port, ports }
}

/// A map of the kernel, for keys and values of these sizes.
fn map(kind: bpf_map_type, key: u32, value: u32, entries: u32, flags: u32) -> MapData {
    let object = aya_obj::Map::new_from_params(kind as u32, key, value, entries, flags);
    MapData::create(object, "nat_test", None).unwrap()
}

/// Another handle of a map.
fn again(map: &MapData) -> MapData {
    MapData::from_id(map.info().unwrap().id()).unwrap()
}
