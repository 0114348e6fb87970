//! Every byte arrives whatever the links carry at once: MTUs of Ethernet and of jumbo frames, on either side and
//! mixed, the narrow one also our own; with segmentation, coalescing and checksums left to the interfaces or not.

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, Spoke, World};

use crate::{
    order::{self, Manner, Order},
    pattern::Random,
    stage::{self, Stage, crowd},
};

const USUAL: &[u32] = &[1500];
const JUMBO: &[u32] = &[9000];
/// Our own link is narrower than the end's: no end knows before the handshake, and no router is there to say so.
const OURS_IS_NARROW: &[u32] = &[1500, 9000];
const CONNECTIONS: usize = 8;
const MOST: u64 = 4 << 20;

macro_rules! on_links {
    ($($name:ident: $client:ident, $node:ident;)+) => {
        $(mod $name {
            #[test]
            fn offloaded() {
                super::every_byte(super::$client, super::$node, true);
            }

            #[test]
            fn not_offloaded() {
                super::every_byte(super::$client, super::$node, false);
            }
        })+
    };
}

on_links!(
    usual_links: USUAL, USUAL;
    jumbo_links: JUMBO, JUMBO;
    jumbo_to_the_client: JUMBO, USUAL;
    jumbo_to_the_node: USUAL, JUMBO;
    jumbo_but_for_ours_to_the_client: OURS_IS_NARROW, JUMBO;
    jumbo_but_for_ours_to_the_node: JUMBO, OURS_IS_NARROW;
);

/// Takes from all its interfaces what they do for the kernel.
fn take_offloads(at: &Namespace) -> Result<()> {
    let links = at.run("ip", &["-oneline", "link", "show", "type", "veth"])?;
    for line in links.lines() {
        let name = line.split([':', '@']).nth(1).context("an interface's name")?.trim();
        let features = ["rx", "tx", "sg", "tso", "gso", "gro"];
        let words = ["-K", name].into_iter().chain(features.into_iter().flat_map(|feature| [feature, "off"]));
        at.run("ethtool", &words.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn world(client: &'static [u32], node: &'static [u32], offloaded: bool) -> Result<World> {
    let world = World::along(&[Spoke { name: "client", mtus: client }, Spoke { name: "db", mtus: node }])?;
    if !offloaded {
        world.namespaces().try_for_each(take_offloads)?;
    }
    Ok(world)
}

fn every_byte(client: &'static [u32], node: &'static [u32], offloaded: bool) {
    for ipv6 in [false, true] {
        let stage =
            world(client, node, offloaded).and_then(|world| Stage::over(world, ipv6, "tc", order::serve_or_echo));
        stage::check(stage, |stage| {
            stage.wait_translated(usize::from(ipv6))?;
            let accepted = stage.accepted()?;
            crowd(CONNECTIONS, CONNECTIONS, |number| {
                let mut random = Random::new(number as u64);
                let [up, down] = [0; 2].map(|_| random.next() % MOST);
                let order = Order { seed: number as u64, up, down, node: Manner::default() };
                order::fulfil(stage.connect_as(usize::from(ipv6))?, &order, Manner::default())
            })?;
            stage.node.wait_ended(stage.node.begun(), stage::LIMIT)?;
            let accepted = stage.accepted()? - accepted;
            ensure!(accepted == 0.0, "{accepted} connections were served by the listener");
            Ok(())
        });
    }
}
