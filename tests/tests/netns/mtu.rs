//! Links further away that carry less than the ends believe: path MTU discovery works through tc in both directions,
//! and both families. Nothing of this is visible at the handshake, whose segments are small.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, Spoke, World};

use crate::{
    order::{self, Manner, Order},
    stage::{self, Stage},
};

const NARROW: u32 = 1300;
const BENT: &[u32] = &[1500, NARROW, 1500];
const STRAIGHT: &[u32] = &[1500];
/// Some thousand segments of full size each way.
const BYTES: u64 = 8 << 20;

mod a_narrow_link_on_the_clients_side {
    #[test]
    fn v4() {
        super::narrow(super::BENT, super::STRAIGHT, false);
    }

    #[test]
    fn v6() {
        super::narrow(super::BENT, super::STRAIGHT, true);
    }
}

mod a_narrow_link_on_the_nodes_side {
    #[test]
    fn v4() {
        super::narrow(super::STRAIGHT, super::BENT, false);
    }

    #[test]
    fn v6() {
        super::narrow(super::STRAIGHT, super::BENT, true);
    }
}

/// The MTU of the way to `to`, as this end has learned it.
fn learned(at: &Namespace, to: IpAddr) -> Result<u32> {
    let way = at.run("ip", &["route", "get", &to.to_string()])?;
    let mut words = way.split_whitespace().skip_while(|word| *word != "mtu").skip(1);
    words.next().with_context(|| format!("{} has learned no MTU: {way}", at.name()))?.parse().context("an MTU")
}

/// The far side is the one whose errors have to be translated: its router answers us, not the end.
fn narrow(client: &'static [u32], node: &'static [u32], ipv6: bool) {
    let spokes = [Spoke { name: "client", mtus: client }, Spoke { name: "db", mtus: node }];
    let stage = World::along(&spokes).and_then(|world| Stage::over(world, ipv6, "tc", order::serve_or_echo));
    stage::check(stage, |stage| {
        stage.wait_translated(usize::from(ipv6))?;
        let accepted = stage.accepted()?;
        let order = Order { seed: 5, up: BYTES, down: BYTES, node: Manner::default() };
        order::fulfil(stage.connect_as(usize::from(ipv6))?, &order, Manner::default())?;
        stage.node.wait_ended(stage.node.begun(), stage::LIMIT)?;
        let proxy = stage.world.proxy()?;
        let of = |addresses: &[IpAddr]| addresses.iter().copied().filter(|ip| ip.is_ipv6() == ipv6).collect::<Vec<_>>();
        // `proxy` has an address on each side, the client's first.
        let [door, own] = of(proxy.addresses())[..] else { anyhow::bail!("{:?}", proxy.addresses()) };
        let known = [learned(stage.world.client()?, door)?, learned(stage.world.db()?, own)?];
        ensure!(known == [NARROW; 2], "the ends have learned {known:?}");
        let told = [stage.packets("icmp_to_client")?, stage.packets("icmp_to_node")?];
        eprintln!("errors translated to the client and to the node: {told:?}");
        let [beyond, before] = if node.len() > 1 { told } else { [told[1], told[0]] };
        ensure!(beyond >= 1.0 && before == 0.0, "errors were translated to the client and to the node: {told:?}");
        ensure!(stage.accepted()? == accepted, "it was served by the listener");
        Ok(())
    });
}
