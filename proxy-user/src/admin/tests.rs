//! The server on loopback and on a unix socket, asked by a plain client.

mod events;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    client::{Endpoint, show},
    status::{Group, Route},
    *,
};
use crate::{config::AdminListen, events::Log, metrics::Metrics};

struct Fixed;

impl StatusSource for Fixed {
    fn status(&self) -> Status {
        Status {
            uptime_ms: 5_000,
            groups: vec![Group { name: "mymaster".into(), way: "open".into(), ..Group::default() }],
            routes: vec![Route { name: "writes".into(), state: "open".into(), ..Route::default() }],
            ..Status::default()
        }
    }
}

struct Served {
    readiness: Readiness,
    stop: CancellationToken,
    task: JoinHandle<()>,
    events: Arc<Log>,
    addr: Option<SocketAddr>,
}

fn start(listen: &AdminListen) -> Served {
    let listener = Listener::bind(listen).unwrap();
    let addr = listener.local_addr();
    let (readiness, stop) = (Readiness::default(), CancellationToken::new());
    let events = Log::in_memory(Arc::new(Metrics::new()));
    let views = Views {
        metrics: Metrics::new(),
        readiness: readiness.clone(),
        status: Arc::new(Fixed),
        events: Arc::clone(&events),
    };
    let task = tokio::spawn(serve(listener, views, stop.clone()));
    Served { readiness, stop, task, events, addr }
}

fn start_tcp() -> (Served, SocketAddr) {
    let served = start(&AdminListen::Tcp(([127, 0, 0, 1], 0).into()));
    let addr = served.addr.unwrap();
    (served, addr)
}

/// Sends `request` as it is, returns all that comes back.
async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    // A reset after the reply is fine: the server does not read a body that it has no use for.
    let _ended = stream.read_to_end(&mut reply).await;
    String::from_utf8(reply).unwrap()
}

async fn ask(addr: SocketAddr, method: &str, path: &str) -> String {
    raw(addr, &format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn pages_answer() {
    let (served, addr) = start_tcp();
    assert!(ask(addr, "GET", "/healthz").await.ends_with("\r\n\r\nok\n"));
    assert!(ask(addr, "GET", "/").await.contains("<title>switchmaster</title>"));
    let metrics = ask(addr, "GET", "/metrics").await;
    assert!(
        metrics.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{metrics}"
    );
    assert!(metrics.contains("switchmaster_build_info{version="), "{metrics}");
    let status = ask(addr, "GET", "/api/v1/status").await;
    let (_, body) = status.split_once("\r\n\r\n").unwrap();
    let status: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["groups"][0]["name"], "mymaster");
    assert_eq!(status["groups"][0]["master"], serde_json::Value::Null);
    assert_eq!(status["routes"][0]["refused"], serde_json::json!({}));
    served.stop.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn readiness_shows_what_is_missing() {
    let (served, addr) = start_tcp();
    let latch = served.readiness.latch("group mymaster: a proven master");
    let reply = ask(addr, "GET", "/readyz").await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.ends_with("not ready\nwaiting for: group mymaster: a proven master\n"), "{reply}");
    assert!(ask(addr, "GET", "/api/v1/status").await.contains(r#""ready":false"#));
    drop(latch);
    assert!(ask(addr, "GET", "/readyz").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn other_methods_and_pages_are_refused_properly() {
    let (_served, addr) = start_tcp();
    let head = ask(addr, "HEAD", "/healthz").await;
    assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("content-length: 3\r\n") && head.ends_with("\r\n\r\n"));
    let post = ask(addr, "POST", "/metrics").await;
    assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("allow: GET,HEAD\r\n"), "{post}");
    assert!(ask(addr, "GET", "/nothing").await.starts_with("HTTP/1.1 404 "));
    assert!(raw(addr, "rubbish\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
}

#[tokio::test]
async fn long_headers_and_bodies_cost_nothing() {
    let (_served, addr) = start_tcp();
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "a".repeat(64 * 1024));
    assert!(raw(addr, &long).await.starts_with("HTTP/1.1 431 "));
    let body = format!("GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{}", "b".repeat(100_000));
    assert!(raw(addr, &body).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn silent_clients_cannot_shut_others_out() {
    let (_served, addr) = start_tcp();
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(addr).await.unwrap());
    }
    let begun = Instant::now();
    assert!(ask(addr, "GET", "/healthz").await.starts_with("HTTP/1.1 200 "));
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn stopping_ends_silent_connections_too() {
    let (served, addr) = start_tcp();
    let _silent = TcpStream::connect(addr).await.unwrap();
    assert!(ask(addr, "GET", "/healthz").await.starts_with("HTTP/1.1 200 "));
    served.stop.cancel();
    tokio::time::timeout(Duration::from_secs(4), served.task).await.unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

fn unix(path: &Path) -> AdminListen {
    AdminListen::Unix(path.to_owned())
}

#[tokio::test]
async fn unix_socket_serves_with_mode_0660_and_goes_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let served = start(&unix(&path));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let endpoint: Endpoint = format!("unix:{}", path.display()).parse().unwrap();
    assert!(show(&endpoint, false).await.unwrap().contains("group mymaster: open"));
    served.stop.cancel();
    served.task.await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn only_a_stale_unix_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let first = Listener::bind(&unix(&path)).unwrap();
    assert!(matches!(Listener::bind(&unix(&path)), Err(BindError::InUse(_))));
    drop(first);
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Listener::bind(&unix(&path)), Err(BindError::NoSocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    let error = Listener::bind(&unix(&folder.path().join("none/admin.sock"))).unwrap_err().to_string();
    assert!(error.contains("none/admin.sock for [admin]: No such file"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let (_served, addr) = start_tcp();
    let error = Listener::bind(&AdminListen::Tcp(addr)).unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("in use"), "{error}");
}

#[tokio::test]
async fn the_status_command_shows_text_and_json() {
    let (_served, addr) = start_tcp();
    let endpoint = Endpoint::Tcp(addr.to_string());
    assert!(show(&endpoint, false).await.unwrap().starts_with("switchmaster "));
    let json: serde_json::Value = serde_json::from_str(&show(&endpoint, true).await.unwrap()).unwrap();
    assert_eq!(json["ready"], true);
}

#[tokio::test]
async fn the_status_command_says_what_is_wrong() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = show(&Endpoint::Tcp(free.to_string()), false).await.unwrap_err().to_string();
    assert!(error.contains(&free.to_string()) && error.contains("refused") && error.contains("--admin"), "{error}");

    let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = other.local_addr().unwrap();
    let task = tokio::spawn(async move {
        for reply in ["-ERR unknown command\r\n", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"] {
            let (mut stream, _) = other.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    for words in ["does not speak HTTP", "answered 404"] {
        let error = show(&Endpoint::Tcp(addr.to_string()), false).await.unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
    task.await.unwrap();
}

#[test]
fn endpoints_parse() {
    for (text, shown) in [
        ("127.0.0.1:9180", "127.0.0.1:9180"),
        ("http://[::1]:9180/", "[::1]:9180"),
        ("db.internal:9180", "db.internal:9180"),
        ("unix:/run/switchmaster.sock", "unix:/run/switchmaster.sock"),
    ] {
        assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), shown);
    }
    for text in ["", "9180", "unix:", "::1:9180", "host:", "host:70000", ":9180", "http://host:9180/x"] {
        let error = text.parse::<Endpoint>().unwrap_err().to_string();
        assert!(error.contains("host:port"), "{text}: {error}");
    }
}
