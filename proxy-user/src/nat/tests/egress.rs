//! What this host's kernel says of itself, whatever its network is.

use std::time::Duration;

use super::super::{
    egress::{EgressError, Host, way_to},
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

#[test]
fn a_way_names_an_interface_and_an_address_of_this_host() {
    // One that this host may or may not reach (RFC 5737 reserves it for examples).
    match way_to([192, 0, 2, 77].into()) {
        Ok(way) => {
            assert!(way.ifindex > 0);
            assert!(Host::read().unwrap().addresses.contains(&way.source), "{way}");
        }
        Err(EgressError::Unreachable { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_watch_is_silent_while_nothing_changes() {
    let watch = Watch::open().unwrap();
    let told = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
    // Somebody else may change the host's network meanwhile.
    assert!(told.is_err() || told.is_ok_and(|told| told.is_ok()));
}
