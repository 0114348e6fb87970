//! Who comes in, and the addresses and sockets they come in by.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;
use crate::listener::Refusal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_allowed_networks_come_in() {
    let allow = Some(vec!["127.0.0.2/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()]);
    let rig = Rig::start(&Route { allow, ..route() });
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    assert_eq!(hear_of(rig.client()).await, "<reset>");
    assert_eq!(rig.counts.snapshot().refused(Refusal::NotAllowed), 1);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&rig.address.into()).unwrap();
    rig.take(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn max_connections_counts_until_the_datapath_lets_go() {
    let rig = Rig::start(&Route { max_connections: 2, ..route() });
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    let _clients = [rig.client(), rig.client()];
    let taken = rig.take(2).await;
    let third = rig.client();
    say(&third, b"PING\r\n");
    assert_eq!(hear_of(third).await, "-ERR max number of clients reached\r\n");
    assert_eq!(rig.counts.snapshot().refused(Refusal::MaxConnections), 1);
    drop(taken);
    let _fourth = rig.client();
    rig.take(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_beyond_max_connections_is_told_and_bounded() {
    let rig = Rig::start(&Route { max_connections: 1, ..route() });
    let _first = rig.client();
    rig.parked(1).await;
    let flood: Vec<_> = (0..600).map(|_| rig.client()).collect();
    rig.until(|seen| seen.refused(Refusal::MaxConnections) == 600).await;
    let alive = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert!(alive < 300, "{alive} tasks say farewell");
    for client in flood {
        assert_eq!(hear_of(client).await, "-ERR max number of clients reached\r\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hasty_farewell_is_heard_over_what_the_client_said_before() {
    let door = StdListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = StdStream::connect(door.local_addr().unwrap()).unwrap();
    say(&client, b"PING\r\n");
    let (stream, _) = door.accept().unwrap();
    stream.peek(&mut [0]).unwrap();
    crate::listener::reply::refuse_at_once(&stream, Refusal::MaxConnections);
    drop(stream);
    assert_eq!(hear_of(client).await, "-ERR max number of clients reached\r\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_families_share_a_port_and_lead_to_either() {
    let probe = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = probe.local_addr().unwrap().port();
    drop(probe);
    let listen = vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()];
    let rig = Rig::start(&Route { listen: listen.clone(), ..route() });
    assert_eq!(rig.addresses, listen);
    let v6_node = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    rig.lead_to(&[slot(v6_node.local_addr().unwrap(), 1)]);
    let _v4 = StdStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let _v6 = StdStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
    let taken = rig.take(2).await;
    assert!(taken.iter().all(|(_, connection)| connection.node.peer_addr().unwrap().is_ipv6()));
}

#[test]
fn an_address_in_use_is_an_error_that_names_the_holder() {
    let first = Listener::bind(&route()).unwrap();
    let taken = first.addresses()[0];
    let error = Listener::bind(&Route { listen: vec![taken], ..route() }).unwrap_err();
    let words = error.to_string();
    assert_eq!(error.address, taken);
    for part in [&taken.to_string(), "in use", "this very process", "`listen`"] {
        assert!(words.contains(part), "{words}");
    }
}

#[test]
fn an_address_that_is_not_here_is_an_error_with_its_remedy() {
    let error = Listener::bind(&Route { listen: vec![([192, 0, 2, 1], 6379).into()], ..route() }).unwrap_err();
    assert!(error.to_string().contains("ip_nonlocal_bind"), "{error}");
}

#[test]
fn one_bad_address_leaves_none_bound() {
    let good = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let listen = vec![good, ([192, 0, 2, 1], 6379).into()];
    assert!(Listener::bind(&Route { listen, ..route() }).is_err());
    std::net::TcpListener::bind(good).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_kept_alive_on_both_ends() {
    let rig = Rig::start(&route());
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    let _client = rig.client();
    let taken = rig.take(1).await;
    for end in [&taken[0].1.client, &taken[0].1.node] {
        let socket = socket2::SockRef::from(end);
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(60));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_secs(300)));
    }
}
