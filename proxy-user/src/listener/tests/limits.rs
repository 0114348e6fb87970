//! What needs a process of its own: a full table of files, and memory worth measuring.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;
use crate::listener::AcceptError;

const CHILD: &str = "SWITCHMASTER_LISTENER_TEST_CHILD";
const CLIENTS: &str = "SWITCHMASTER_LISTENER_TEST_CLIENTS";

/// Runs the named test of this file again, alone in a process; true: this is that process.
fn alone(test: &str) -> bool {
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let name = format!("listener::tests::limits::{test}");
    let run =
        Command::new(std::env::current_exe().unwrap()).args(["--exact", &name, "--nocapture"]).env(CHILD, "1").output();
    let output = run.unwrap();
    let words = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    words.lines().filter(|line| line.starts_with("measured")).for_each(|line| println!("{line}"));
    false
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn allow_files(n: u64) -> bool {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, n, hard.max(n)).is_ok()
}

#[test]
fn a_full_table_of_files_slows_the_door_and_loses_nobody() {
    if !alone("a_full_table_of_files_slows_the_door_and_loses_nobody") {
        return;
    }
    runtime().block_on(async {
        let rig = Rig::start(&route());
        let (_node, addr) = node();
        rig.lead_to(&[slot(addr, 1)]);
        let _first = rig.client();
        rig.take(1).await;
        assert!(allow_files(100));
        // The clients' own ends must exist before the table is full.
        let sockets: Vec<_> =
            (0..5).map(|_| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap()).collect();
        let hogs: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        for socket in &sockets {
            socket.connect(&rig.address.into()).unwrap();
        }
        rig.until(|seen| seen.accept_errors(AcceptError::Files) > 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let errors = rig.counts.snapshot().accept_errors(AcceptError::Files);
        println!("measured: {errors} accept errors in a second without a file to spare");
        assert!((2..=10).contains(&errors), "{errors}: 10, 20, 40 ... ms apart");
        drop(hogs);
        rig.take(5).await;
    });
}

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// As many files as this process may have open.
fn files() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    hard
}

/// Not a test of its own: the clients of the next one, which needs their files counted elsewhere.
#[test]
fn clients_of_another_process() {
    let Ok(orders) = std::env::var(CLIENTS) else { return };
    let (n, address) = orders.split_once(' ').unwrap();
    files();
    let clients: Vec<_> = (0..n.parse::<usize>().unwrap()).map(|_| StdStream::connect(address).unwrap()).collect();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    drop(clients);
}

#[test]
fn ten_thousand_wait_in_little_memory() {
    if !alone("ten_thousand_wait_in_little_memory") {
        return;
    }
    let n = usize::try_from(files() - 500).unwrap().min(10_000);
    runtime().block_on(async {
        let rig = Rig::start(&Route { park: Park { limit: 10_000, timeout: Duration::from_secs(60) }, ..route() });
        let before = resident();
        let mut clients = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "listener::tests::limits::clients_of_another_process"])
            .env(CLIENTS, format!("{n} {}", rig.address))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        rig.parked(n as u64).await;
        let each = (resident() - before) / n;
        println!("measured: {n} parked clients, {each} bytes of memory each");
        assert!(each < 4096, "{each}");
        release(&rig, n).await;
        drop(clients.stdin.take());
        clients.wait().unwrap();
    });
}

/// Leads all who wait to a node. What was handed over is closed at once: the files would not do for
/// both ends of all.
async fn release(rig: &Rig, n: usize) {
    let (node, addr) = node();
    let node = tokio::net::TcpListener::from_std({
        node.set_nonblocking(true).unwrap();
        node
    });
    let node = node.unwrap();
    let accept = tokio::spawn(async move {
        while let Ok((stream, _)) = node.accept().await {
            drop(stream);
        }
    });
    let start = Instant::now();
    rig.lead_to(&[slot(addr, 1)]);
    let mut served = 0;
    while served < n {
        served += rig.take(1).await.len();
    }
    println!("measured: {n} parked clients connected in {:?}", start.elapsed());
    assert_eq!(rig.counts.snapshot().parked_now, 0);
    accept.abort();
}

#[tokio::test]
async fn the_task_of_a_client_is_small() {
    use crate::{
        datapath::{Claim, Place},
        listener::client::{Service, Visitor},
    };
    let (slots, seen) = target::channel();
    let (recorder, tasks) = (Arc::<Recorder>::default(), tokio_util::task::TaskTracker::new());
    let service = Service::new(&route(), seen, recorder, Arc::default(), Arc::default(), None, tasks);
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let place = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let place = Place::new(place, Claim::default());
    let ip = stream.peer_addr().unwrap().ip();
    let arrived = tokio::time::Instant::now();
    let visitor = Visitor { ip, number: 0, arrived, has_waited: false, let_through: false };
    let size = size_of_val(&service.serve(stream, place, visitor, None));
    println!("a client's task: {size} bytes");
    assert!(size < 2048, "{size}");
    drop(slots);
}
