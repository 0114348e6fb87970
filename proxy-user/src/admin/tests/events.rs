//! The page and the command that tell of events.

use std::sync::Mutex;

use super::*;
use crate::{
    admin::client,
    discovery::Seen,
    election::{Observation, Reason, Sign, SignKind, Target, Verdict, Way},
    events::{Change, Page, Stage, Timeline},
};

fn saw(timeline: &Timeline, observation: Observation) {
    timeline.saw(&Seen { at: Instant::now(), observation });
}

fn stir(timeline: &Timeline, channel: &'static str) {
    let master = ([10, 0, 0, 1], 6379).into();
    let sign = Sign { kind: SignKind::Stirring, epoch: None, master, replica: None, channel };
    saw(timeline, Observation::Sign(([10, 0, 0, 1], 26379).into(), sign));
}

/// A failover of nothing but a sign.
fn aborted(timeline: &Timeline) {
    stir(timeline, "+try-failover");
    timeline.armed(true, Instant::now());
    timeline.armed(false, Instant::now());
}

/// A timeline whose first event, the start of a daemon, is over.
fn timeline(events: &Arc<Log>) -> Timeline {
    let timeline = events.timeline("mymaster".into());
    saw(&timeline, Observation::Sentinels(vec![([10, 0, 0, 1], 26379).into()]));
    let target = Target { addr: ([10, 0, 0, 1], 6379).into(), epoch: 1, id: None };
    let after = Verdict { way: Way::Open, master: Some(target), reason: Reason::Proven, replicas: Vec::new() };
    drop(timeline.followed(Change { before: &Verdict::closed(), after: &after, at: Instant::now() }));
    timeline
}

async fn page(addr: SocketAddr, query: &str) -> Page {
    let reply = ask(addr, "GET", &format!("/api/v1/events?{query}")).await;
    let (_, body) = reply.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {reply}"))
}

fn numbers(page: &Page) -> Vec<u64> {
    page.events.iter().map(|event| event.seq).collect()
}

#[tokio::test]
async fn events_are_given_by_number() {
    let (served, addr) = start_tcp();
    let timeline = timeline(&served.events);
    for _ in 0..3 {
        aborted(&timeline);
    }
    assert_eq!(numbers(&page(addr, "").await), [1, 2, 3, 4]);
    assert_eq!(numbers(&page(addr, "limit=2").await), [3, 4], "the newest");
    assert_eq!(numbers(&page(addr, "since=1&limit=2").await), [2, 3], "the next");
    assert_eq!(numbers(&page(addr, "since=4").await), [0; 0]);
    assert!(ask(addr, "GET", "/api/v1/events?since=x").await.starts_with("HTTP/1.1 400 "));
    stir(&timeline, "+odown");
    let open = page(addr, "since=4").await.open;
    assert_eq!((open.len(), open[0].seq, open[0].stages[0].stage), (1, 0, Stage::FirstSign));
}

#[tokio::test]
async fn a_follower_is_answered_by_the_event_it_waits_for() {
    let (served, addr) = start_tcp();
    let timeline = timeline(&served.events);
    let begun = Instant::now();
    assert_eq!(numbers(&page(addr, "since=1&wait=1").await), [0; 0], "its time is up");
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let waiting = tokio::spawn(async move { page(addr, "since=1&wait=8").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    aborted(&timeline);
    let answered = tokio::time::timeout(Duration::from_secs(2), waiting).await.unwrap().unwrap();
    assert_eq!(numbers(&answered), [2]);
}

#[tokio::test]
async fn too_many_followers_are_answered_at_once() {
    let (_served, addr) = start_tcp();
    let waiting: Vec<_> = (0..16).map(|_| tokio::spawn(async move { page(addr, "since=0&wait=8").await })).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    assert_eq!(numbers(&page(addr, "since=0&wait=8").await), [0; 0]);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(waiting.iter().all(|follower| !follower.is_finished()));
}

/// What a command wrote so far, while it goes on.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Written {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn wait_for(&self, what: &str) -> String {
        for _ in 0..100 {
            if self.text().contains(what) {
                return self.text();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no {what} in {}", self.text());
    }
}

#[tokio::test]
async fn the_events_command_shows_text_and_json() {
    let (served, addr) = start_tcp();
    let endpoint = Endpoint::Tcp(addr.to_string());
    let asked = client::Events { limit: 1, follow: false, json: false };
    let (mut text, mut notes) = (Vec::new(), Vec::new());
    client::events(&endpoint, asked, &mut text, &mut notes).await.unwrap();
    assert_eq!(String::from_utf8(text).unwrap(), "no events yet\n");
    let timeline = timeline(&served.events);
    aborted(&timeline);
    let (mut text, mut json) = (Vec::new(), Vec::new());
    client::events(&endpoint, asked, &mut text, &mut notes).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.starts_with("#2  ") && text.contains("group mymaster: aborted in "), "{text}");
    assert!(text.contains(" ms  first sign  by 10.0.0.1:26379  +try-failover\n"), "{text}");
    client::events(&endpoint, client::Events { limit: 9, json: true, ..asked }, &mut json, &mut notes).await.unwrap();
    let lines: Vec<serde_json::Value> =
        String::from_utf8(json).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["seq"], &lines[1]["outcome"]), (2, &2.into(), &"aborted".into()));
    assert!(notes.is_empty());
}

#[tokio::test]
async fn following_goes_on_with_the_next_daemon() {
    let (served, addr) = start_tcp();
    let first = timeline(&served.events);
    aborted(&first);
    let (out, notes) = (Written::default(), Written::default());
    let (mut to, mut aside) = (out.clone(), notes.clone());
    let following = tokio::spawn(async move {
        let asked = client::Events { limit: 1, follow: true, json: true };
        client::events(&Endpoint::Tcp(addr.to_string()), asked, &mut to, &mut aside).await
    });
    out.wait_for("\"seq\":2,").await;
    aborted(&first);
    out.wait_for("\"seq\":3,").await;
    served.stop.cancel();
    served.task.await.unwrap();
    notes.wait_for("; trying on").await;
    let next = start(&AdminListen::Tcp(addr));
    let second = timeline(&next.events);
    out.wait_for("\"seq\":1,").await;
    aborted(&second);
    let text = out.text();
    notes.wait_for("answers again").await;
    for _ in 0..100 {
        if out.text().lines().count() >= 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let told: Vec<u64> = (out.text().lines())
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(told, [2, 3, 1, 2], "{text}");
    following.abort();
}

#[tokio::test]
async fn following_begins_only_where_a_daemon_answers() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asked = client::Events { limit: 1, follow: true, json: false };
    let error = client::events(&Endpoint::Tcp(free.to_string()), asked, &mut Vec::new(), &mut Vec::new()).await;
    assert!(error.unwrap_err().to_string().contains("refused"));
}
