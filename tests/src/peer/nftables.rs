//! The kernel's own NAT, by nftables: DNAT to the server and SNAT to an address of `proxy`, so that the
//! answers come back the same way. From here on connection tracking sees all of the namespace's packets.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};

use super::wait_serving;
use crate::netns::{Namespace, World};

const TABLE: &str = "nat_peer";

/// Rules without a process. They end with this, or with the namespace.
#[derive(Debug)]
pub struct Nat {
    proxy: Namespace,
}

impl Nat {
    /// Clients that dial `listen` reach `server`, which sees them come from `source`.
    pub fn plain(world: &World, listen: SocketAddr, server: SocketAddr, source: IpAddr) -> Result<Self> {
        ensure!(listen.is_ipv4() && server.is_ipv4() && source.is_ipv4(), "these rules are for IPv4");
        let proxy = world.proxy()?.clone();
        let rules = format!(
            "table ip {TABLE} {{\n chain to {{\n  type nat hook prerouting priority dstnat; policy accept;\n  \
             ip daddr {} tcp dport {} dnat to {server}\n }}\n chain from {{\n  type nat hook postrouting priority srcnat; policy accept;\n  \
             ip daddr {} tcp dport {} ct status dnat snat to {source}\n }}\n}}\n",
            listen.ip(),
            listen.port(),
            server.ip(),
            server.port(),
        );
        proxy.run("nft", &[&rules]).context("NAT rules")?;
        let nat = Self { proxy };
        // What `proxy` itself sends does not pass the hook: ask from where clients are.
        wait_serving(world.client()?, listen, "the NAT rules")?;
        Ok(nat)
    }
}

impl Drop for Nat {
    fn drop(&mut self) {
        // The namespace may have gone before, with all its rules.
        let _gone = self.proxy.run("nft", &[&format!("delete table ip {TABLE}")]);
    }
}
