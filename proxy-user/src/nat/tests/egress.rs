//! What the kernel says of this host's network, whatever that is, and of one of our own.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use super::super::{
    egress::{EgressError, Host, Way, way_to},
    ports::PortRange,
    reservation::{self, Reservation},
    watch::Watch,
};

#[test]
fn a_node_on_this_host_is_told_apart() {
    let local = way_to([127, 0, 0, 1].into());
    assert!(matches!(local, Err(EgressError::Local { .. })), "{local:?}");
    let local = way_to("::1".parse().unwrap());
    assert!(matches!(local, Err(EgressError::Local { .. } | EgressError::Unreachable { .. })), "{local:?}");
}

#[test]
fn the_host_s_own_addresses_are_local_and_its_interfaces_numbered() {
    let host = Host::read().unwrap();
    for ip in &host.addresses {
        assert!(!ip.is_loopback() && !ip.is_unspecified());
        assert!(matches!(way_to(*ip), Err(EgressError::Local { .. })), "{ip}");
    }
    for interface in &host.interfaces {
        assert!(interface.ifindex > 0 && interface.name != "lo", "{interface:?}");
    }
}

/// A network of our own, which goes with the thread.
fn apart<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            test()
        });
        thread.join().unwrap()
    })
}

fn ip(command: &str) {
    let output = std::process::Command::new("ip").args(command.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn network() {
    for command in [
        "link set lo up",
        "link add out type veth peer name in",
        "link set out up",
        "link set in up",
        "address add 10.9.0.1/24 dev out",
        "address add 10.9.0.2/24 dev out",
        "address add 2001:db8:9::1/64 dev out nodad",
        "route add 10.20.0.0/16 via 10.9.0.77 src 10.9.0.2",
        "route add 2001:db8:20::/48 via 2001:db8:9::77",
        "route add prohibit 10.30.0.0/16",
        "route add blackhole 10.31.0.0/16",
    ] {
        ip(command);
    }
}

#[test]
#[ignore = "needs root"]
fn ways_are_what_the_routes_say() {
    apart(|| {
        network();
        let host = Host::read().unwrap();
        assert_eq!(host.addresses, addresses(&["10.9.0.1", "10.9.0.2", "2001:db8:9::1"]));
        let names: Vec<_> = host.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        assert_eq!(names, ["in", "out"]);
        let ifindex = host.interfaces.iter().find(|interface| interface.name == "out").unwrap().ifindex;
        for (node, source) in [
            ("10.9.0.50", "10.9.0.1"),
            ("10.20.1.2", "10.9.0.2"),
            ("2001:db8:9::50", "2001:db8:9::1"),
            ("2001:db8:20::1", "2001:db8:9::1"),
        ] {
            let way = way_to(node.parse().unwrap()).unwrap();
            assert_eq!(way, Way { ifindex, source: source.parse().unwrap() }, "{node}");
        }
        for node in ["10.9.0.2", "2001:db8:9::1", "127.0.0.1", "::1"] {
            let way = way_to(node.parse().unwrap());
            assert!(matches!(way, Err(EgressError::Local { .. })), "{node}: {way:?}");
        }
        for node in ["10.30.0.1", "10.31.0.1", "192.0.2.1", "2001:db8:ffff::1"] {
            let way = way_to(node.parse().unwrap());
            assert!(matches!(way, Err(EgressError::Unreachable { .. })), "{node}: {way:?}");
        }
        ip("link set out down");
        let host = Host::read().unwrap();
        assert_eq!((host.addresses.len(), host.interfaces.len()), (0, 1), "{host:?}");
        assert_eq!((host.has(ifindex), host.down), (true, [ifindex].into()));
    });
}

#[test]
#[ignore = "needs root"]
fn every_change_is_told() {
    apart(|| {
        network();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let watch = Watch::open().unwrap();
            let told = |within| tokio::time::timeout(Duration::from_millis(within), watch.changed());
            for command in [
                "address add 10.9.0.3/24 dev out",
                "address add 2001:db8:9::3/64 dev out nodad",
                "route add 10.40.0.0/16 via 10.9.0.77",
                "route del 2001:db8:20::/48",
                "rule add from 10.9.0.3 lookup 100",
                "-6 rule add from 2001:db8:9::3 lookup 100",
                "link set in down",
            ] {
                // What the one before is followed by: duplicate address detection, link-local addresses.
                while told(300).await.is_ok() {}
                ip(command);
                told(5000).await.unwrap_or_else(|_| panic!("{command}")).unwrap();
            }
        });
    });
}

#[test]
#[ignore = "needs root"]
fn ports_are_reserved_in_the_kernel_and_given_back() {
    apart(|| {
        let ours = PortRange { first: 40_000, last: 49_999 };
        assert!(reservation::checked(ours).is_err());
        let reservation = Reservation::make(ours).unwrap();
        reservation::checked(ours).unwrap();
        let other = Reservation::make(PortRange { first: 8_080, last: 8_080 }).unwrap();
        Reservation::of(reservation.added().clone()).release().unwrap();
        assert!(reservation::checked(ours).is_err());
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap(), "8080\n");
        other.release().unwrap();
        assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap().trim(), "");
    });
}
