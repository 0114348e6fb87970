//! A task that dies of a bug: told at once, counted, and started again, but not at once.

use super::*;
use crate::discovery::dial::Peer;

#[tokio::test]
async fn a_dead_task_is_counted_and_started_again_at_a_tick() {
    let at = addr(22997);
    let group = group(Source::Nodes(vec![local(22997)]));
    let (out, mut seen) = mpsc::channel(64);
    let (stop, counted) = (CancellationToken::new(), Arc::new(Counted::default()));
    let board = Arc::new(Mutex::new(Board::new("mymaster")));
    let tally = Box::new(Arc::clone(&counted));
    let mut conductor = Conductor::new(Arc::new(Ground::new(&group)), &group.source, Arc::clone(&board), out, tally);
    conductor.board().add_node(&Peer { addr: at, host: None });
    conductor.nodes.start(at, 0, |_| async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        panic!("a bug, for a test");
    });
    let (_hurry, hurried) = watch::channel(None);
    let running = tokio::spawn(conductor.run(hurried, stop.clone()));
    let mut failures = Vec::new();
    while failures.len() < 2 {
        let seen = tokio::time::timeout(Duration::from_secs(5), seen.recv()).await;
        let Seen { at, observation } = seen.expect("within 5 s").expect("discovery goes on");
        if let Observation::NodeLost(_, failure) = observation {
            failures.push((failure, at));
        }
    }
    let [(died, first), (again, second)] = failures[..] else { panic!("two failures: {failures:?}") };
    assert_eq!((died, again), (Failure::Protocol, Failure::Unreachable), "nobody listens there");
    // The first tick is at 0, the task dies at 50, the next tick is at 250.
    let rest = second.duration_since(first);
    assert!(rest > Duration::from_millis(20), "started again after {rest:?}");
    let status = board.lock().expect("no panic").status(Instant::now());
    assert_eq!((status.failed_tasks, counted.failed.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(status.nodes[0].probes, 2, "what was counted before is kept");
    stop.cancel();
    running.await.expect("without a panic");
}
