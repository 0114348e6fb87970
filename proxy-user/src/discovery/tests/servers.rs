//! Real servers in a temporary directory, killed and awaited when dropped.

use std::{
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

pub(super) struct Server {
    child: Child,
    pub(super) port: u16,
    // Outlives the process that writes there.
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub(super) fn kill(&mut self) {
        let _dead = self.child.kill();
        let _reaped = self.child.wait();
    }

    /// SIGSTOP or SIGCONT.
    pub(super) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, signal).expect("it runs");
    }
}

pub(super) async fn redis(port: u16, lines: &str) -> Server {
    let config = format!("port {port}\nsave \"\"\nrepl-diskless-sync-delay 0\n{lines}\n");
    spawn(&["redis-server"], port, &config).await
}

pub(super) async fn sentinel(port: u16, master: u16, lines: &str) -> Server {
    let config = format!(
        "port {port}\nsentinel monitor mymaster 127.0.0.1 {master} 2\nsentinel monitor mymaster-2 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds mymaster 5000\n{lines}\n"
    );
    spawn(&["redis-sentinel"], port, &config).await
}

async fn spawn(program: &[&str], port: u16, config: &str) -> Server {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("server.conf");
    std::fs::write(&file, format!("bind 127.0.0.1\ndir {}\n{config}", dir.path().display())).expect("written");
    let child =
        Command::new(program[0]).arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let server = Server { child, port, _dir: dir };
    wait("the server listens", || TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
    server
}

/// Runs redis-cli and returns what it printed.
pub(super) fn cli(port: u16, words: &[&str]) -> String {
    let output = Command::new("redis-cli").arg("-p").arg(port.to_string()).args(words).output().expect("redis-cli");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(super) async fn wait(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}: not within 20 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One master, one replica, three Sentinels that know each other, on `base` to `base + 12`.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Server>,
    pub(super) sentinels: Vec<Server>,
}

pub(super) async fn cluster(base: u16, node_lines: &str, sentinel_lines: &str, cli_words: &[&str]) -> Cluster {
    let master = redis(base, node_lines).await;
    let replica = redis(base + 1, &format!("{node_lines}\nreplicaof 127.0.0.1 {base}")).await;
    let mut sentinels = Vec::new();
    for n in 10..13 {
        sentinels.push(sentinel(base + n, base, sentinel_lines).await);
    }
    for server in &sentinels {
        wait("the Sentinels know each other and the replica", || {
            let mut words = cli_words.to_vec();
            words.extend(["SENTINEL", "MASTER", "mymaster"]);
            let said = cli(server.port, &words);
            let fields: Vec<&str> = said.lines().collect();
            let has = |name: &str, value: &str| fields.chunks(2).any(|pair| pair == [name, value]);
            has("num-other-sentinels", "2") && has("num-slaves", "1")
        })
        .await;
    }
    Cluster { nodes: vec![master, replica], sentinels }
}
