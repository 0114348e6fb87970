//! Real connections over loopback, ended by what their sequence numbers say.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use proxy_ebpf::nat::{Door, End, Flow, Snat};

use super::{
    super::{address::encode, flows::Flows, reset::*, segment::Rst},
    open,
};

/// The sequence numbers of a connection: the next one that it sends, and the next one that it awaits.
fn numbers(socket: &TcpStream) -> (u32, u32) {
    const TCP_REPAIR_OFF_NO_PROBE: i32 = -1;
    const RECEIVED: i32 = 1;
    const SENT: i32 = 2;
    let set = |option: i32, value: i32| {
        // SAFETY: an int that lives.
        let done =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), 4) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    };
    let number = |queue: i32| {
        set(libc::TCP_REPAIR_QUEUE, queue);
        let (mut value, mut length) = (0u32, 4);
        // SAFETY: as above, and so does the length.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_QUEUE_SEQ,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        value
    };
    set(libc::TCP_REPAIR, 1);
    let found = (number(SENT), number(RECEIVED));
    set(libc::TCP_REPAIR, TCP_REPAIR_OFF_NO_PROBE);
    found
}

fn connection(ip: IpAddr) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((ip, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn end(of: &TcpStream, next: u32, acked: u32) -> End {
    let at = of.local_addr().unwrap();
    End { addr: encode(at.ip()), port: at.port().to_be_bytes(), next, acked, ..open(0).client }
}

fn assert_reset(socket: &mut TcpStream, name: &str) {
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let error = socket.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}: {error}");
}

/// As if we stood between client and node: two connections, of which we know what passed through us.
fn both_ends_are_reset(ip: IpAddr) {
    let (mut client, mut door_side) = connection(ip);
    let (snat_side, mut node) = connection(ip);
    // Bytes that nobody reads: the windows and the queues are not what decides.
    door_side.write_all(b"+OK\r\n").unwrap();
    (&snat_side).write_all(b"PING\r\n").unwrap();
    let ((client_next, client_acked), (node_next, node_acked)) = (numbers(&client), numbers(&node));
    // What the node sent is what the client awaits, translated as the program leaves it: unchanged.
    let mut flow: Flow = open(0);
    flow.client = end(&client, client_next, client_acked);
    flow.node = end(&node, node_next, node_acked);
    let at = |socket: &TcpStream| -> SocketAddr { socket.local_addr().unwrap() };
    let door = Door {
        addr: encode(ip),
        port: at(&door_side).port().to_be_bytes(),
        route: 0,
        max_connections: 1,
        open: 1,
        by_xdp: 0,
    };
    let snat = Snat { addr: encode(ip), first: 100, first_port: at(&snat_side).port(), ports: 1 };
    // The two connections have numbers of their own, where a flow has one pair.
    let to_client = Rst { seq: client_acked, ..Rst::to_client(&flow, &door).unwrap() };
    let to_node = Rst { seq: node_acked, ..Rst::to_node(&flow, &snat, 100).unwrap() };
    let resetter = Resetter::open().unwrap();
    let outcome = resetter.send_all(&[Rst { seq: client_acked.wrapping_sub(9), ..to_client }]);
    assert_eq!((outcome.sent, outcome.failed), (1, 0), "{outcome:?}");
    assert_eq!(client.read(&mut [0; 5]).unwrap(), 5, "a number that does not fit ends nothing");
    assert_eq!(node.read(&mut [0; 6]).unwrap(), 6);
    let outcome = resetter.send_all(&[to_client, to_node]);
    assert_eq!((outcome.sent, outcome.failed), (2, 0), "{outcome:?}");
    assert_reset(&mut client, "client");
    assert_reset(&mut node, "node");
}

#[test]
#[ignore = "needs root"]
fn both_ends_of_a_flow_are_reset() {
    both_ends_are_reset([127, 0, 0, 1].into());
    both_ends_are_reset("::1".parse().unwrap());
}

fn segment(from: &str, to: &str) -> Rst {
    Rst { from: from.parse().unwrap(), to: to.parse().unwrap(), ifindex: 1, seq: 1, ack: None }
}

#[test]
#[ignore = "needs root"]
fn what_cannot_be_sent_holds_up_nothing() {
    let fine = segment("127.0.0.1:1", "127.0.0.1:2");
    // The kernel sends no broadcast for a socket that did not ask for it.
    let refused = segment("127.0.0.1:1", "255.255.255.255:2");
    let mixed = segment("127.0.0.1:1", "[::1]:2");
    // By one thread, and by two.
    for times in [1, 200] {
        let outcome = Resetter::open().unwrap().send_all(&[fine, refused, fine, mixed, refused, fine].repeat(times));
        assert_eq!((outcome.sent, outcome.failed), (3 * times, 3 * times), "{outcome:?}");
        assert!(outcome.error.is_some());
    }
}

/// The bar is 150 ms for both ends of 10,000 flows.
#[test]
#[ignore = "needs root"]
fn ten_thousand_flows_are_reset_at_once() {
    let flows = Flows::anonymous(20_000);
    for place in (0..20_000).step_by(2) {
        let mut flow = open(0);
        (flow.client.addr, flow.node.addr) = (encode([127, 0, 0, 2].into()), encode([127, 0, 0, 3].into()));
        flows.put(place, &flow);
    }
    let local = encode([127, 0, 0, 1].into());
    let door = Door { addr: local, port: [24, 235], route: 0, max_connections: 1, open: 1, by_xdp: 0 };
    let snat = Snat { addr: local, first: 0, first_port: 10_000, ports: 20_000 };
    let resetter = Resetter::open().unwrap();
    let flows: Vec<_> = flows.scan(0..20_000).collect();
    let begin = Instant::now();
    let outcome = resetter.end(&flows, |_| Some(&door), &[snat]);
    let took = begin.elapsed();
    println!("{} segments in {took:?}", outcome.sent);
    assert_eq!((outcome.sent, outcome.failed), (20_000, 0), "{outcome:?}");
    // Others use this machine, and this is no optimised build.
    assert!(took < Duration::from_secs(2), "{took:?}");
    let outcome = resetter.end(&flows, |_| None, &[]);
    assert_eq!((outcome.sent, outcome.failed), (0, 0));
}
