//! Around the instant at which a connection is paired: bytes that wait since before the accept, that
//! come meanwhile and that come after must reach the other end once and in order, also the last one,
//! after which nothing comes to push it on.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::node::Door;

use crate::{
    on_each_datapath,
    order::{echo, rest},
    pattern::{Pattern, Random},
    stage::{self, LIMIT, MANY, Stage, crowd},
};

const CONNECTIONS: usize = 2000;
const THREADS: usize = 8;
const PIECES: usize = 24;

/// In which connections are paired late.
const ROUNDS: usize = 25;
const TOGETHER: usize = 16;

on_each_datapath!(pieces_around_the_pairing, a_lone_request, the_node_speaks_first, both_speak_first);

/// Small pieces with micro-pauses, so that some fall before, some into and some behind every step.
fn speak(mut stream: &TcpStream, mut pattern: Pattern, random: &mut Random) -> Result<u64> {
    let pace = [0, 5, 30, 150][random.below(4)];
    for _ in 0..PIECES {
        let piece = pattern.peek(random.size(300));
        stream.write_all(piece).context("write a piece")?;
        pattern.at += piece.len() as u64;
        if pace > 0 {
            rest(random, pace);
        }
    }
    Ok(pattern.at)
}

/// Reads `len` bytes of the stream, while the other end stays open.
fn hear(mut stream: &TcpStream, mut pattern: Pattern, len: u64) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    while pattern.at < len {
        let count = stream.read(&mut buffer).with_context(|| format!("hear, after {} of {len}", pattern.at))?;
        ensure!(count > 0, "the end comes after {} of {len} bytes", pattern.at);
        pattern.check(&buffer[..count])?;
    }
    Ok(())
}

/// The first byte of a stream must not look like a probe's.
fn stream_of(number: usize) -> Pattern {
    let seeds = (0..).map(|more| Pattern::new((number * 1000 + more) as u64));
    seeds.into_iter().find(|pattern| pattern.peek(1)[0] != b'*').unwrap_or_else(|| Pattern::new(0))
}

fn pieces_around_the_pairing(datapath: &str) {
    stage::check(Stage::new(datapath, echo), |stage| {
        crowd(CONNECTIONS, THREADS, |number| {
            let stream = stage.connect_as(number)?;
            let said = speak(&stream, stream_of(number), &mut Random::new(number as u64))?;
            // Nothing more is sent until all of it is back: the last piece must not need a push.
            hear(&stream, stream_of(number), said)
        })
    });
}

/// Where many connections are brief, the daemon has what comes first of each: the pairing is in the middle of both streams.
#[test]
fn pieces_around_a_late_pairing() {
    stage::check(Stage::new("sockmap", echo), |stage| {
        let mut paired = 0;
        for round in 0..ROUNDS {
            stage.be_brief(MANY)?;
            let redirected = stage.verdicts("redirected")?;
            stage.be_brief(MANY)?;
            ensure!(stage.verdicts("redirected")? == redirected, "brief connections still go by the kernel");
            let streams = (0..TOGETHER).map(|number| stage.connect_as(number)).collect::<Result<Vec<_>>>()?;
            crowd(TOGETHER, THREADS, |number| {
                let (stream, number) = (&streams[number], round * TOGETHER + number);
                let said = speak(stream, stream_of(number), &mut Random::new(number as u64))?;
                hear(stream, stream_of(number), said)
            })?;
            paired += usize::from(stage.verdicts("redirected")? > redirected);
        }
        // What comes in few pieces is brief as well.
        ensure!(paired > ROUNDS / 2, "some were paired in {paired} of {ROUNDS} rounds");
        Ok(())
    });
}

/// What is a little more than brief turns it back, also where it began with the daemon.
#[test]
fn who_is_brief_no_more_goes_to_the_kernel_at_once() {
    const TRIPS: usize = 5;
    stage::check(Stage::new("sockmap", echo), |stage| {
        let talk = || -> Result<()> {
            let mut stream = stage.connect()?;
            for _ in 0..TRIPS {
                stream.write_all(b"ping").context("ping")?;
                stream.read_exact(&mut [0; 4]).context("pong")?;
            }
            stream.shutdown(Shutdown::Write).context("finish")?;
            ensure!(stream.read(&mut [0]).context("the end")? == 0, "something came after the end");
            Ok(())
        };
        stage.be_brief(MANY)?;
        (0..MANY).try_for_each(|_| talk())?;
        let before = stage.verdicts("redirected")?;
        talk()?;
        let redirected = stage.verdicts("redirected")? - before;
        ensure!(redirected >= 2.0 * TRIPS as f64, "{redirected} of {} were redirected", 2 * TRIPS);
        Ok(())
    });
}

/// One small request at a random instant after the connect, and no more until its echo.
fn a_lone_request(datapath: &str) {
    stage::check(Stage::new(datapath, echo), |stage| {
        crowd(CONNECTIONS, THREADS, |number| {
            let mut random = Random::new(number as u64);
            let mut stream = stage.connect_as(number)?;
            rest(&mut random, 800);
            stream.write_all(stream_of(number).peek(17)).context("the request")?;
            hear(&stream, stream_of(number), 17)
        })
    });
}

/// What a node sends from the instant it accepts is there before the daemon has paired anything.
fn the_node_speaks_first(datapath: &str) {
    let speech = |stream: TcpStream| {
        speak(&stream, Pattern::new(1), &mut Random::new(2))?;
        // Stays open until the client has heard it all, and goes.
        while (&stream).read(&mut [0; 64]).is_ok_and(|count| count > 0) {}
        Ok(())
    };
    stage::check(Stage::new(datapath, speech), |stage| {
        stage.node.set_door(Door::Handler);
        let len = length(2);
        crowd(CONNECTIONS, THREADS, |number| hear(&stage.connect_as(number)?, Pattern::new(1), len))
    });
}

fn both_speak_first(datapath: &str) {
    let talk = |stream: TcpStream| {
        let deaf = stream.try_clone()?;
        let ear = thread::spawn(move || hear(&deaf, Pattern::new(3), length(4)));
        speak(&stream, Pattern::new(1), &mut Random::new(2))?;
        ear.join().ok().context("the ear panicked")?
    };
    stage::check(Stage::new(datapath, talk), |stage| {
        stage.node.set_door(Door::Handler);
        crowd(CONNECTIONS, THREADS, |number| {
            let stream = stage.connect_as(number)?;
            speak(&stream, Pattern::new(3), &mut Random::new(4))?;
            hear(&stream, Pattern::new(1), length(2))
        })?;
        stage.node.wait_ended(CONNECTIONS, LIMIT)
    });
}

/// What `speak` comes to; it depends on its seeds alone.
fn length(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let pace = [0, 5, 30, 150][random.below(4)];
    (0..PIECES)
        .map(|_| {
            let size = random.size(300) as u64;
            if pace > 0 {
                random.below(pace);
            }
            size
        })
        .sum()
}
