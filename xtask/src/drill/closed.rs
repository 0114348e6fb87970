//! The drills in which nobody may be let through: at the proxy's first instant, and while there are two
//! masters and no majority. No switch, so no writer: only connections, and what they get. The picture's bars are connections.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use switchmaster_tests::{
    client::{self, KEY},
    netns::Namespace,
    node::STACK,
    wait,
};

use super::{
    Run,
    account::{Round, ms},
    dialers::{Dial, Outcome, dial},
    figures::{Figure, Figures},
    name::{Drill, Side},
    script::pass,
    stage::Stage,
    timeline::{Bucket, Mark, bucket},
};

pub(super) const CONNECTIONS: usize = 400;
const THREADS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(12);
const ROUND: Duration = Duration::from_secs(30);
/// So long a proxy may look around before anybody comes. Its checks have settled by then.
const LOOK_AROUND: Duration = Duration::from_secs(8);
/// So long the connections are held open.
const HOLD: Duration = Duration::from_secs(5);

pub(super) fn play(run: &Run, drill: Drill, side: Side) -> Result<Round> {
    match drill {
        Drill::Start => start(run, side),
        Drill::NoMajority => no_majority(run, side),
        _ => bail!("this is a switch"),
    }
}

fn round(drill: Drill, figures: Figures, marks: Vec<Mark>, buckets: Vec<Bucket>) -> Round {
    let mut timeline = vec![Mark { ms: 0.0, what: drill.blow().to_owned() }];
    timeline.extend(marks);
    Round { figures, timeline, buckets }
}

/// Clients dial before anybody listens, and go on until each has been let in.
fn start(run: &Run, side: Side) -> Result<Round> {
    let mut stage = Stage::bare(run)?;
    let (namespace, to) = (stage.client()?.clone(), stage.address()?);
    let stop = AtomicBool::new(false);
    let (began, dials) = thread::scope(|scope| -> Result<(Instant, Vec<Dial>)> {
        let besiegers: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| besiege(&namespace, to, &stop))).collect();
        let began = Instant::now();
        let launched = stage.launch(run, side);
        let waited = launched.and_then(|()| {
            let end = Instant::now() + ROUND;
            while besiegers.iter().any(|one| !one.is_finished()) && Instant::now() < end {
                pass(Duration::from_millis(50))?;
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        let mut dials = Vec::new();
        for one in besiegers {
            dials.extend(one.join().ok().context("a client panicked")??);
        }
        waited.map(|()| (began, dials))
    })?;
    stage.front()?.lives()?;
    let master = stage.cluster.nodes[0].address.port();
    let (mut figures, mut first) = (Figures::default(), None);
    let (mut answered, mut wrong, mut refused, mut cut) = (0, 0, 0, 0);
    let mut buckets = Vec::new();
    for dial in &dials {
        let bucket = bucket(&mut buckets, 0.0, dial.ended.saturating_duration_since(began));
        match dial.outcome {
            Outcome::Answered { master: true, port } if port == master => {
                answered += 1;
                bucket.after += 1;
                first = first.into_iter().chain([dial.ended]).min();
            }
            Outcome::Answered { .. } => {
                answered += 1;
                bucket.lost += 1;
                wrong += 1;
            }
            Outcome::Refused(_) => refused += 1,
            Outcome::Cut(_) => cut += 1,
        }
    }
    for (figure, count) in
        [(Figure::Answered, answered), (Figure::Wrong, wrong), (Figure::Refused, refused), (Figure::Cut, cut)]
    {
        figures.count(figure, count);
    }
    let first = first.map(|at| ms(at.saturating_duration_since(began)));
    figures.note(Figure::FirstRight, first);
    let marks = first.map(|ms| Mark { ms, what: "first right answer".to_owned() });
    Ok(round(Drill::Start, figures, marks.into_iter().collect(), buckets))
}

/// Dials without a pause until the proxy listens, then asks, again and again.
fn besiege(namespace: &Namespace, to: SocketAddr, stop: &AtomicBool) -> Result<Vec<Dial>> {
    namespace.enter(|| {
        let mut dials = Vec::new();
        while dials.len() < CONNECTIONS / THREADS && !stop.load(Ordering::Relaxed) {
            let dial = dial(to, PATIENCE);
            // Nobody listens yet: not a connection.
            match dial.outcome {
                Outcome::Refused(ref why) if why.contains("refused") => wait::pause(Duration::from_millis(1)),
                _ => dials.push(dial),
            }
        }
        dials
    })
}

/// Two of three Sentinels are gone, a replica has been made a second master; then the proxy is started,
/// and looks around; then clients come, each with a question and a write.
fn no_majority(run: &Run, side: Side) -> Result<Round> {
    let mut stage = Stage::bare(run)?;
    let began = Instant::now();
    stage.cluster.sentinels.iter_mut().skip(1).for_each(switchmaster_tests::redis::Sentinel::kill);
    stage.cluster.nodes[1].replicate(None)?;
    stage.launch(run, side)?;
    let launched = Instant::now();
    pass(LOOK_AROUND)?;
    stage.front()?.lives()?;
    let came = Instant::now();
    let mut figures = Figures::default();
    let look = knock(&stage, &mut figures)?;
    let looked = Instant::now();
    let mut landed = 0;
    for node in &stage.cluster.nodes {
        landed = landed.max(client::held(&mut node.client()?)?.len());
    }
    figures.count(Figure::Landed, landed);
    let mark = |at: Instant, what: &str| Mark { ms: ms(at.duration_since(began)), what: what.to_owned() };
    let marks = vec![
        mark(launched, "the proxy is started"),
        mark(came, "400 clients come, each with a question and a write"),
        mark(looked, "it is counted what they got"),
    ];
    let mut buckets = Vec::new();
    let at = looked - began;
    let counted = bucket(&mut buckets, 0.0, at);
    (counted.before, counted.lost) = look;
    Ok(round(Drill::NoMajority, figures, marks, buckets))
}

/// How many wait still, and how many a node has answered.
fn knock(stage: &Stage, figures: &mut Figures) -> Result<(u32, u32)> {
    let to = stage.address()?;
    let dial = |number: usize| -> std::io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&to, HOLD)?;
        stream.set_nonblocking(true)?;
        write!(stream, "ROLE\r\nSADD {KEY} {number}\r\n")?;
        Ok(stream)
    };
    // At once: where packets are held back, not connections, each waits in its handshake.
    let streams: Vec<_> = stage.client()?.enter(|| {
        thread::scope(|scope| {
            let spawn = |number| thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || dial(number));
            let clients: Vec<_> = (0..CONNECTIONS).map(spawn).collect();
            let joined =
                clients.into_iter().map(|client| client?.join().map_err(|_panic| std::io::Error::other("panic"))?);
            joined.collect()
        })
    })?;
    pass(HOLD)?;
    let (mut bytes, mut answered, mut refused, mut cut, mut waiting) = (0, 0, 0, 0, 0);
    for stream in streams {
        let mut buffer = [0; 4096];
        match stream.and_then(|mut stream| stream.read(&mut buffer)) {
            // An error reply of the proxy itself is a refusal, though it is bytes.
            Ok(0) => refused += 1,
            Ok(_) if buffer[0] == b'-' => refused += 1,
            Ok(count) => {
                answered += 1;
                bytes += count;
            }
            // For an answer, or for the end of its handshake.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => waiting += 1,
            Err(error) if client::is_reset(error.kind()) => cut += 1,
            Err(_) => refused += 1,
        }
    }
    let counts = [
        (Figure::Answered, answered),
        // Without a majority no node is the right one.
        (Figure::Wrong, answered),
        (Figure::Bytes, bytes),
        (Figure::Refused, refused),
        (Figure::Cut, cut),
        (Figure::Waiting, waiting),
    ];
    counts.into_iter().for_each(|(figure, count)| figures.count(figure, count));
    Ok((waiting as u32, answered as u32))
}
