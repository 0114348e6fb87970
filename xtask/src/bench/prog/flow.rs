//! Packets of connections that really go through the daemon, and the program that would translate them: so
//! that the program finds in its maps what it finds in life.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, SocketAddrV4},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    maps::{Array, HashMap, Map, MapData, MapInfo},
    programs::{ProgramFd, ProgramInfo, loaded_programs},
};
use proxy_ebpf::nat::{Flow as Record, FlowKey, names};
use switchmaster_tests::{Client, netns::Namespace};

use super::{
    super::{Run, peer::Peer, stage::Stage},
    harness::Given,
    packet::{Ends, Mac, segment},
};

/// Ends with its daemon.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) program: ProgramFd,
    /// The maps `flows` and `flow_of` of that program.
    maps: [u32; 2],
    client: Link,
    proxy: Link,
    connection: Option<Client>,
    pub(super) stage: Stage,
}

impl Flow {
    /// `name`: what the daemon's program is called.
    pub(super) fn open(run: &Run, peer: Peer, name: &str) -> Result<Self> {
        let before = programs(name)?;
        let stage = Stage::start(run, peer)?;
        // Programs of other daemons were there before.
        let own = programs(name)?.difference(&before).max().copied();
        let own = own.with_context(|| format!("the daemon serves by {peer} and has no program {name}"))?;
        let (client, proxy) = (Link::of(stage.client()?, "eth0")?, Link::of(stage.proxy()?, "link1")?);
        let info = info(own)?;
        let ids = info.map_ids()?.context("the kernel does not tell a program's maps")?;
        let map = |name: &str| {
            let is_it = |id: &u32| MapInfo::from_id(*id).is_ok_and(|map| map.name_as_str() == Some(name));
            ids.iter().copied().find(is_it).with_context(|| format!("the program has no map {name}"))
        };
        let maps = [map(names::FLOWS)?, map(names::FLOW_OF)?];
        Ok(Self { program: info.fd()?, maps, client, proxy, connection: None, stage })
    }

    /// The next segment of a new connection, which has just carried something. The one before ends.
    pub(super) fn connect(&mut self) -> Result<Given> {
        let mut connection = Client::connect(self.stage.client()?, self.stage.address)?;
        connection.ping()?;
        let (from, to) = (v4(connection.tcp()?.local_addr().context("address")?)?, v4(self.stage.address)?);
        self.connection = Some(connection);
        let packet = segment(&Ends { from_mac: self.client.mac, to_mac: self.proxy.mac, from, to });
        Ok(Given { packet, sequence: self.next(from)?, ifindex: Some(self.proxy.index) })
    }

    /// What the flow's record expects of its client.
    fn next(&self, client: SocketAddrV4) -> Result<u32> {
        let [flows, keys] = self.maps.map(MapData::from_id);
        let (flows, keys) = (Array::<_, Record>::try_from(Map::Array(flows?))?, Map::HashMap(keys?));
        let keys = HashMap::<_, FlowKey, u32>::try_from(keys)?;
        let is_its = |key: &FlowKey| {
            key.port == client.port().to_be_bytes() && key.client == client.ip().to_ipv6_mapped().octets()
        };
        let found = keys.iter().flatten().find(|(key, _)| is_its(key));
        let (_, place) = found.with_context(|| format!("{client} has no flow"))?;
        Ok(flows.get(&place, 0)?.client.next)
    }
}

/// Numbers of the loaded programs of this name.
fn programs(name: &str) -> Result<BTreeSet<u32>> {
    let mut found = BTreeSet::new();
    for program in loaded_programs() {
        // One that has gone since it was listed is none of ours.
        let Ok(program) = program else { continue };
        if program.name_as_str() == Some(name) {
            found.insert(program.id());
        }
    }
    Ok(found)
}

fn info(id: u32) -> Result<ProgramInfo> {
    let mut all = loaded_programs().flatten();
    all.find(|program| program.id() == id).with_context(|| format!("program {id} has gone"))
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address {
        SocketAddr::V4(address) => Ok(address),
        SocketAddr::V6(address) => bail!("{address} is not IPv4"),
    }
}

#[derive(Debug, PartialEq)]
struct Link {
    index: u32,
    mac: Mac,
}

impl Link {
    fn of(namespace: &Namespace, name: &str) -> Result<Self> {
        let text = namespace.run("ip", &["-oneline", "link", "show", "dev", name])?;
        Self::parse(&text).with_context(|| format!("ip says of {name}: {text:?}"))
    }

    /// `7: link1@if2: <UP> mtu 1500 ... link/ether 02:00:00:00:00:01 brd ...`
    fn parse(text: &str) -> Option<Self> {
        let index = text.split(':').next()?.trim().parse().ok()?;
        let mac = text.split_whitespace().skip_while(|word| *word != "link/ether").nth(1)?;
        let bytes: Vec<u8> = mac.split(':').map_while(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        Some(Self { index, mac: bytes.try_into().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::Link;

    #[test]
    fn reads_what_ip_says_of_a_link() {
        let text = "7: link1@if2: <BROADCAST,UP> mtu 1500 qdisc noqueue state UP\\    link/ether 3a:00:ff:01:02:03 brd \
                    ff:ff:ff:ff:ff:ff link-netns x\n";
        assert_eq!(Link::parse(text), Some(Link { index: 7, mac: [0x3a, 0, 0xff, 1, 2, 3] }));
        assert_eq!(Link::parse("Device \"link1\" does not exist.\n"), None);
    }
}
