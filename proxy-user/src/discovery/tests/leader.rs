//! A Sentinel that leads a failover, to the letter: from the promotion on it has the new epoch and sends
//! clients to the new master, while it goes on watching the old one. The promotion comes between any two
//! answers, and no view may pair an address with another one's epoch.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;

const OLD: u16 = 6379;
const NEW: u16 = 6380;

/// Promotes after so many questions about its master, and says so without an end of the failover.
async fn lead(stream: TcpStream, promotes_after: usize) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    let mut asked = 0;
    while let Some(first) = lines.next_line().await? {
        let mut words = Vec::new();
        for _ in 0..first.trim_start_matches('*').parse::<usize>().unwrap_or_default() {
            let _length = lines.next_line().await?;
            words.extend(lines.next_line().await?);
        }
        let promoted = asked >= promotes_after;
        let answer = match words.get(1).map(String::as_str) {
            Some("GET-MASTER-ADDR-BY-NAME") => list(&["127.0.0.1", &if promoted { NEW } else { OLD }.to_string()]),
            Some("MASTER") => {
                let epoch = if promoted { "8" } else { "7" };
                let flags = "master,s_down,o_down,failover_in_progress";
                list(&["ip", "127.0.0.1", "port", &OLD.to_string(), "flags", flags, "config-epoch", epoch])
            }
            Some("SENTINELS" | "REPLICAS") => "*0\r\n".to_owned(),
            _ => "-ERR not here\r\n".to_owned(),
        };
        asked += usize::from(matches!(words.get(1).map(String::as_str), Some("GET-MASTER-ADDR-BY-NAME" | "MASTER")));
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn list(words: &[&str]) -> String {
    let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", words.matches('$').count())
}

async fn leader(promotes_after: usize) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let task = tokio::spawn(async move {
        let mut serving = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            serving.spawn(lead(stream, promotes_after));
        }
    });
    (port, task)
}

#[tokio::test]
async fn an_epoch_comes_with_its_own_address() {
    for promotes_after in 0..=8 {
        let (port, task) = leader(promotes_after).await;
        let mut run = Run::new(&group(Source::Sentinels(vec![local(port)])));
        run.view(addr(port), |view| view.master == addr(NEW)).await;
        let views: Vec<_> = run
            .so_far
            .iter()
            .filter_map(|seen| match seen {
                Observation::View(_, view) => Some((view.master, view.epoch, view.master_down)),
                _ => None,
            })
            .collect();
        let right = [(addr(OLD), 7, true), (addr(NEW), 8, true)];
        assert!(views.iter().all(|view| right.contains(view)), "promoted after {promotes_after}: {views:?}");
        assert!(!run.so_far.iter().any(|seen| matches!(seen, Observation::SentinelLost(..))), "{:?}", run.so_far);
        // The old master is still one of the nodes: what it says of itself matters now more than ever.
        let nodes = run.so_far.iter().rev().find_map(|seen| match seen {
            Observation::Nodes(nodes) => Some(nodes.clone()),
            _ => None,
        });
        assert!(nodes.is_some_and(|nodes| nodes.contains(&addr(OLD))), "{:?}", run.so_far);
        run.end().await;
        task.abort();
    }
}
