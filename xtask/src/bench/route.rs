//! The yardstick of `xdp`: a program at XDP on both of the proxy's links, which sends every TCP segment on by the other one,
//! with the next hop's address and no other change. What a datapath at XDP can reach on these links at best is what this reaches.

use std::fs;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::Array,
    programs::{Xdp, XdpMode},
};
use proxy_ebpf::nat::in_frame;
use switchmaster_tests::World;

use super::link::Link;
use crate::workspace;

/// As the program has it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Onward {
    ifindex: u32,
    to: [u16; 3],
    from: [u16; 3],
}

// SAFETY: integers without a gap.
unsafe impl Pod for Onward {}

/// Places in the program's map.
const LINKS: u32 = 4096;

/// Attached until it is dropped.
#[derive(Debug)]
pub(super) struct Route {
    _object: Ebpf,
}

impl Route {
    pub(super) fn start(world: &World) -> Result<Self> {
        let objects = ebpf_build::build(&workspace(), &workspace().join("target/bpf"))?;
        let mut object =
            Ebpf::load(&fs::read(objects.join("bare"))?).context("the kernel refuses the bare programs")?;
        let proxy = world.proxy()?;
        let ends = [
            (Link::of(proxy, "link1")?, Link::of(world.client()?, "eth0")?),
            (Link::of(proxy, "link2")?, Link::of(world.db()?, "eth0")?),
        ];
        let mut onward = Array::try_from(object.map_mut("onward").context("no map onward")?)?;
        let [one, other] = &ends;
        for ((came, _), (goes, next)) in [(one, other), (other, one)] {
            let way = Onward { ifindex: goes.index, to: in_frame(next.mac), from: in_frame(goes.mac) };
            onward.set(came.index & (LINKS - 1), way, 0)?;
        }
        let program: &mut Xdp = object.program_mut("route_xdp").context("no program route_xdp")?.try_into()?;
        program.load().context("route_xdp")?;
        // Interfaces are known by their numbers, and those are the namespace's.
        proxy.enter(|| -> Result<()> {
            for (link, _) in &ends {
                program.attach_to_if_index(link.index, XdpMode::Driver).context("in the driver of a veth")?;
            }
            Ok(())
        })??;
        Ok(Self { _object: object })
    }
}
