//! Partitions. Each end drops what arrives from the other (nftables, input hook), so that no sender
//! gets an error: a route that says "unreachable" would tell the servers what a real cut never tells.

use std::net::IpAddr;

use anyhow::Result;

use super::Namespace;

const TABLE: &str = "cut";

/// What of another namespace is not heard any more.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deafness {
    Everything,
    /// The first SYN of each connection; those that are there go on.
    NewConnections,
}

/// `at` no longer hears `from`.
pub(super) fn cut(at: &Namespace, from: &Namespace, to: Deafness) -> Result<()> {
    let what = match to {
        Deafness::Everything => "",
        Deafness::NewConnections => "tcp flags & (syn | ack) == syn ",
    };
    let set = |v6: bool| {
        let list: Vec<String> =
            from.addresses().iter().filter(|ip| ip.is_ipv6() == v6).map(IpAddr::to_string).collect();
        list.join(", ")
    };
    let table = table(from);
    // Written so that cutting twice is the same as cutting once.
    let rules = format!(
        "table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n chain input {{\n  \
         type filter hook input priority 0; policy accept;\n  \
         ip saddr {{ {} }} {what}drop\n  ip6 saddr {{ {} }} {what}drop\n }}\n}}\n",
        set(false),
        set(true)
    );
    at.run("nft", &[&rules]).map(|_| ())
}

/// `at` hears `from` again.
pub(super) fn heal(at: &Namespace, from: &Namespace) -> Result<()> {
    let table = table(from);
    at.run("nft", &[&format!("table inet {table}\ndelete table inet {table}\n")]).map(|_| ())
}

fn table(from: &Namespace) -> String {
    format!("{TABLE}_{}", from.name())
}
