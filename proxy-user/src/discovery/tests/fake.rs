//! Servers that misbehave. Each must come out as its failure, within time and memory, and be tried again.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

#[derive(Debug, Clone, Copy)]
enum Manner {
    /// Answers each command with these bytes.
    Says(&'static [u8]),
    /// Answers the first read with these bytes, then one mebibyte after another.
    Endless(&'static [u8]),
    Silent,
    Resets,
    /// Answers one probe of a connection, and resets it at the next.
    CutsOff,
    /// A node whose role is another after HELLO was answered, in every probe. `info`: whether INFO is allowed.
    Turns {
        to_master: bool,
        info: bool,
    },
}

struct Fake {
    port: u16,
    connections: Arc<AtomicU32>,
    task: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let connections = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                serving.spawn(serve(stream, manner));
            }
        });
        Self { port, connections, task }
    }

    fn sentinels(&self) -> Group {
        group(Source::Sentinels(vec![local(self.port)]))
    }

    fn nodes(&self) -> Group {
        group(Source::Nodes(vec![local(self.port)]))
    }
}

/// Takes one command off what came so far, if it is whole: its words.
fn command(pending: &mut String) -> Option<Vec<String>> {
    let mut lines = pending.split_inclusive("\r\n");
    let head = lines.next()?;
    let words: usize = head.trim_end().strip_prefix('*')?.parse().ok()?;
    // A length, then the word.
    let rest: Vec<&str> = lines.take(words * 2).collect();
    if rest.len() < words * 2 || !rest.last().is_none_or(|last| last.ends_with("\r\n")) {
        return None;
    }
    let length = head.len() + rest.iter().map(|line| line.len()).sum::<usize>();
    let words = rest.iter().skip(1).step_by(2).map(|word| word.trim_end().to_owned()).collect();
    pending.drain(..length);
    Some(words)
}

fn of_turning(command: &[String], to_master: bool, info: bool) -> String {
    let (before, after) = if to_master { ("replica", "master") } else { ("master", "slave") };
    let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
    match command[0].as_str() {
        "HELLO" => format!("*2\r\n{}{}", bulk("role"), bulk(before)),
        "ROLE" if to_master => format!("*3\r\n{}:0\r\n*0\r\n", bulk(after)),
        "ROLE" => format!("*5\r\n{}{}:1\r\n{}:0\r\n", bulk(after), bulk("127.0.0.1"), bulk("connect")),
        "INFO" if info => bulk(&format!("role:{after}\r\nrun_id:{}\r\n", "0".repeat(40))),
        "PING" => "+PONG\r\n".to_owned(),
        _ => "-NOPERM this user has no permissions\r\n".to_owned(),
    }
}

async fn serve(mut stream: TcpStream, manner: Manner) {
    let mut asked = [0; 4096];
    let mut pending = String::new();
    let mut first = None;
    loop {
        let read = stream.read(&mut asked).await.unwrap_or_default();
        if read == 0 {
            return;
        }
        match manner {
            Manner::Says(answer) => {
                let commands = asked[..read].iter().filter(|byte| **byte == b'*').count();
                let _unread = stream.write_all(&answer.repeat(commands)).await;
            }
            Manner::Endless(answer) => {
                let _unread = stream.write_all(answer).await;
                let mebibyte = vec![b'x'; 1 << 20];
                for _ in 0..1024 {
                    if stream.write_all(&mebibyte).await.is_err() {
                        return;
                    }
                }
            }
            Manner::Silent => {}
            // A probe is several commands, and those may come in several segments.
            Manner::CutsOff if first.get_or_insert_with(Instant::now).elapsed() < Duration::from_millis(30) => {
                let commands = asked[..read].iter().filter(|byte| **byte == b'*').count();
                let _unread = stream.write_all(&b"-LOADING\r\n".repeat(commands)).await;
            }
            Manner::Turns { to_master, info } => {
                pending.push_str(&String::from_utf8_lossy(&asked[..read]));
                while let Some(words) = command(&mut pending) {
                    let _unread = stream.write_all(of_turning(&words, to_master, info).as_bytes()).await;
                }
            }
            Manner::Resets | Manner::CutsOff => {
                let _unset = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("proc");
    let pages: u64 = statm.split(' ').nth(1).expect("resident").parse().expect("a number");
    pages * 4096
}

#[tokio::test]
async fn every_bad_answer_of_a_sentinel_is_its_failure() {
    for (manner, failure) in [
        (Manner::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), Failure::Protocol),
        (Manner::Says(b"-ERR unknown command 'SENTINEL', with args beginning with: 'MASTER'\r\n"), Failure::Protocol),
        (Manner::Says(b"-ERR No such master with that name\r\n"), Failure::UnknownGroup),
        (Manner::Says(b"-NOPERM this user has no permissions to run the 'sentinel' command\r\n"), Failure::Denied),
        (Manner::Says(b"-NOAUTH Authentication required.\r\n"), Failure::Denied),
        (Manner::Says(b"*14\r\n$4\r\nname\r\n"), Failure::TimedOut),
        (Manner::Says(b"*0\r\n"), Failure::Protocol),
        (Manner::Says(b"*2147483647\r\n"), Failure::TimedOut),
        (Manner::Silent, Failure::TimedOut),
        (Manner::Resets, Failure::Unreachable),
    ] {
        let fake = Fake::new(manner).await;
        let mut run = Run::new(&fake.sentinels());
        assert_eq!(run.sentinel_lost().await, failure, "{manner:?}");
        assert!(!run.so_far.iter().any(|seen| matches!(seen, Observation::View(..))));
        let status = run.discovery.status();
        assert_eq!(status.sentinels[0].failure, Some(word(failure)));
        assert!(status.sentinels[0].error.is_some());
        run.end().await;
    }
}

#[tokio::test]
async fn every_bad_answer_of_a_node_is_its_failure() {
    for (manner, failure) in [
        (Manner::Says(b"220 mail.example ESMTP\r\n"), Failure::Protocol),
        (Manner::Says(b"-NOPERM this user has no permissions\r\n"), Failure::Denied),
        (Manner::Says(b"-NOAUTH Authentication required.\r\n"), Failure::Denied),
        (Manner::Says(b"-DENIED Redis is running in protected mode\r\n"), Failure::Denied),
        (Manner::Says(b"*14\r\n$6\r\nserver\r\n"), Failure::TimedOut),
        (Manner::Silent, Failure::TimedOut),
        (Manner::Resets, Failure::Unreachable),
    ] {
        let fake = Fake::new(manner).await;
        let mut run = Run::new(&fake.nodes());
        assert_eq!(run.node_lost().await, failure, "{manner:?}");
        run.end().await;
    }
}

/// A master that is demoted between two questions of one probe would be taken for one until the next.
#[tokio::test]
async fn of_a_role_that_changes_during_a_probe_the_later_word_counts() {
    for (to_master, info) in [(false, true), (false, false), (true, true), (true, false)] {
        let fake = Fake::new(Manner::Turns { to_master, info }).await;
        let mut run = Run::new(&fake.nodes());
        if !info {
            // ROLE is asked as well once INFO was refused.
            run.node(addr(fake.port)).await;
        }
        for _ in 0..3 {
            let role = run.node(addr(fake.port)).await.role;
            assert_eq!(role == Role::Master, to_master, "info: {info}, {role:?}");
        }
        run.end().await;
    }
}

#[tokio::test]
async fn a_loading_node_is_loading() {
    let fake = Fake::new(Manner::Says(b"-LOADING Redis is loading the dataset in memory\r\n")).await;
    let mut run = Run::new(&fake.nodes());
    assert_eq!(run.node(addr(fake.port)).await.role, Role::Loading);
    run.end().await;
}

#[tokio::test]
async fn a_wrong_password_is_denied_and_told_to_nobody() {
    let fake = Fake::new(Manner::Says(b"-WRONGPASS invalid username-password pair or user is disabled.\r\n")).await;
    let mut group = fake.nodes();
    group.node_access = access(Some("probe"), "xyzzy-secret");
    let mut run = Run::new(&group);
    assert_eq!(run.node_lost().await, Failure::Denied);
    let status = serde_json::to_string(&run.discovery.status()).expect("serializable");
    assert!(!status.contains("xyzzy") && !format!("{:?}", run.discovery).contains("xyzzy"), "{status}");
    run.end().await;
}

#[tokio::test]
async fn a_gigabyte_of_a_reply_costs_no_memory() {
    for endless in [&b"$1073741824\r\n"[..], b"+", b"*1\r\n$1073741824\r\n"] {
        let fake = Fake::new(Manner::Endless(endless)).await;
        let mut group = fake.nodes();
        group.check.timeout = Duration::from_secs(5);
        let before = resident_bytes();
        let mut run = Run::new(&group);
        assert_eq!(run.node_lost().await, Failure::Protocol);
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 48 << 20, "{grown} bytes more");
        run.end().await;
    }
}

#[tokio::test]
async fn a_failing_server_is_tried_again_but_not_hammered() {
    let fake = Fake::new(Manner::Resets).await;
    let mut run = Run::new(&fake.sentinels());
    while run.started.elapsed() < Duration::from_secs(2) {
        run.sentinel_lost().await;
    }
    let dialled = fake.connections.load(Ordering::Relaxed);
    // Two connections of its own pace: 50, 100, 200, 400, 800 ms, halved at the least.
    assert!((4..=24).contains(&dialled), "{dialled} connections in two seconds");
    run.end().await;
}

/// What a promotion does to every connection of the node, at the moment that counts.
#[tokio::test]
async fn a_node_that_cuts_the_probe_off_is_asked_again_at_once() {
    let fake = Fake::new(Manner::CutsOff).await;
    let mut run = Run::new(&fake.nodes());
    let mut waits = Vec::new();
    for _ in 0..5 {
        let (_, cut) = run.wait("cut", |seen| matches!(seen, Observation::NodeLost(..)).then_some(())).await;
        let (_, again) = run.wait("answer", |seen| matches!(seen, Observation::Node(..)).then_some(())).await;
        waits.push(again.duration_since(cut));
    }
    waits.sort_unstable();
    assert!(waits[2] < Duration::from_millis(20), "asked again after {waits:?}");
    // Not more often than it answers, which is once in a fast interval.
    let (dialled, time) = (fake.connections.load(Ordering::Relaxed), run.started.elapsed());
    assert!(time > Duration::from_millis(400) && dialled < 8, "{dialled} connections in {time:?}");
    run.end().await;
}

#[tokio::test]
async fn a_name_that_does_not_resolve_holds_its_place_in_the_count() {
    let nowhere = HostPort { host: "sentinel.invalid".into(), port: 26379 };
    let mut run = Run::new(&group(Source::Sentinels(vec![local(22999), nowhere])));
    let pick = |seen: &Observation| match seen {
        Observation::SentinelLost(_, Failure::Unresolved) => Some(()),
        _ => None,
    };
    run.wait("unresolved name", pick).await;
    assert!(run.so_far.iter().any(|seen| matches!(seen, Observation::Sentinels(all) if all.len() == 2)));
    run.end().await;
}

#[tokio::test]
async fn it_ends_when_nobody_listens_any_more() {
    let (out, seen) = mpsc::channel(1);
    let discovery = start(
        &group(Source::Nodes(vec![local(22998)])),
        out,
        Box::new(Arc::new(Counted::default())),
        CancellationToken::new(),
    );
    drop(seen);
    let joined = tokio::time::timeout(Duration::from_secs(2), discovery.join()).await;
    joined.expect("ends").expect("without a panic");
}
