//! What a flow costs in kernel memory, both directions of it, and that a million of them can be had.

use std::{
    fs,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    EbpfLoader,
    maps::{Map, MapData},
};
use aya_obj::generated::bpf_map_type;
use proxy_ebpf::{index::buckets, nat::names};

use crate::world::object;

const FLOWS: u32 = 1_000_000;
/// Source ports of an address, as the daemon takes them.
const PORTS: u32 = 22_000;
const MOST: u64 = 256;

/// What the kernel says that a map takes (fdinfo).
fn memory(map: &MapData) -> Result<u64> {
    let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = fs::read_to_string(info).context("fdinfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("no memlock")?;
    line.trim().parse().context("memlock")
}

#[test]
fn a_million_flows_take_at_most_256_bytes_each() -> Result<()> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries(names::FLOWS, FLOWS).map_max_entries(names::FLOW_OF, buckets(FLOWS));
    loader.map_max_entries(names::TAKEN, FLOWS.div_ceil(u64::BITS));
    let mut object = loader.load(&object("tc")?).context("a million flows cannot be had")?;
    let mut total = 0.0;
    for name in [names::FLOWS, names::TAKEN, names::FLOW_OF] {
        let Map::Array(map) = object.take_map(name).context(name)? else {
            anyhow::bail!("{name} is of another kind");
        };
        let each = memory(&map)? as f64 / f64::from(FLOWS);
        eprintln!("{name}: {each:.1} bytes a flow");
        total += each;
    }
    let kind = bpf_map_type::BPF_MAP_TYPE_QUEUE as u32;
    let queue = MapData::create(aya_obj::Map::new_from_params(kind, 0, 4, PORTS, 0), names::FREE, None)?;
    let each = memory(&queue)? as f64 / f64::from(PORTS);
    eprintln!("{}: {each:.1} bytes a flow", names::FREE);
    total += each;
    ensure!(total <= MOST as f64, "a flow takes {total:.1} bytes");
    ensure!(total > 128.0, "a flow takes {total:.1} bytes: the kernel does not tell all of it");
    Ok(())
}
