//! What a client asks of the node in its first bytes, and the two halves of every stream. The node
//! checks what it gets and sends what it was asked for; the client does the same at its end.

#![expect(clippy::needless_pass_by_value, reason = "a connection ends with whoever has it")]

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Patient, node::STACK, wait};

use crate::pattern::{LONGEST, Pattern, Random};

/// What the client's bytes come to, and what the node shall send.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) seed: u64,
    /// From the client to the node, and back.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// How the node does its part.
    pub(crate) node: Manner,
}

/// How one end treats its two streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Sends only once the other end has finished.
    pub(crate) listens_first: bool,
    /// Reads only after so many milliseconds.
    pub(crate) late_ms: u32,
    /// Stops reading now and then for up to so many milliseconds.
    pub(crate) stalls_ms: u32,
    /// Rests between writes now and then, for up to so many microseconds.
    pub(crate) rests_us: u32,
    /// No write is longer; 0: a quarter of a mebibyte.
    pub(crate) most: u32,
}

const HEAD: usize = 1 + 3 * 8 + 5 * 4;
const MARK: u8 = b'O';

impl Order {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![MARK];
        [self.seed, self.up, self.down].iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        let Manner { listens_first, late_ms, stalls_ms, rests_us, most } = self.node;
        let words = [u32::from(listens_first), late_ms, stalls_ms, rests_us, most];
        words.iter().for_each(|word| bytes.extend(word.to_be_bytes()));
        bytes
    }

    fn decode(stream: &mut Patient<'_>) -> Result<Self> {
        let mut head = [0; HEAD];
        stream.read_exact(&mut head).context("the order")?;
        ensure!(head[0] == MARK, "not an order: {head:02x?}");
        let long = |at: usize| head[at..at + 8].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        let short = |at: usize| head[at..at + 4].iter().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let node = Manner {
            listens_first: short(25) != 0,
            late_ms: short(29),
            stalls_ms: short(33),
            rests_us: short(37),
            most: short(41),
        };
        Ok(Self { seed: long(1), up: long(9), down: long(17), node })
    }
}

/// The node's handler for orders.
pub(crate) fn serve(stream: TcpStream) -> Result<()> {
    let order = Order::decode(&mut Patient::new(&stream)?)?;
    let (up, down) = streams(order.seed);
    both(&stream, (up, order.up), (down, order.down), order.node, || {}).with_context(|| format!("node, {order:?}"))
}

/// The node's handler for tests that want both.
pub(crate) fn serve_or_echo(stream: TcpStream) -> Result<()> {
    let mut first = [0];
    Patient::new(&stream)?.peek(&mut first).context("the first byte")?;
    if first[0] == MARK { serve(stream) } else { echo(stream) }
}

/// Sends everything back, to the end.
pub(crate) fn echo(stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut patient = Patient::new(&stream)?;
    loop {
        match patient.read(&mut buffer).context("echo, read")? {
            0 => return stream.shutdown(Shutdown::Write).context("echo, finish"),
            count => patient.write_all(&buffer[..count]).context("echo, write")?,
        }
    }
}

/// For handlers whose clients may be cut off.
pub(crate) fn or_reset(ended: Result<()>) -> Result<()> {
    match ended {
        Err(error) if format!("{error:#}").contains("reset by peer") => Ok(()),
        ended => ended,
    }
}

/// The client's part of an order, from its first byte to the end of both streams.
pub(crate) fn fulfil(stream: TcpStream, order: &Order, client: Manner) -> Result<()> {
    fulfil_after(stream, order, client, || {})
}

/// The same, but nothing is read before `wait` returns.
pub(crate) fn fulfil_after(stream: TcpStream, order: &Order, client: Manner, wait: impl FnOnce()) -> Result<()> {
    let (up, down) = streams(order.seed);
    Patient::new(&stream)?.write_all(&order.encode()).context("send the order")?;
    both(&stream, (down, order.down), (up, order.up), client, wait)
        .with_context(|| format!("client, {order:?} {client:?}"))
}

fn streams(seed: u64) -> (Pattern, Pattern) {
    (Pattern::new(seed * 2), Pattern::new(seed * 2 + 1))
}

/// Reads one stream to its end while writing the other to its own.
fn both(
    stream: &TcpStream,
    read: (Pattern, u64),
    write: (Pattern, u64),
    manner: Manner,
    wait: impl FnOnce(),
) -> Result<()> {
    stream.set_nodelay(true).context("nodelay")?;
    let seed = read.1 ^ write.1 << 20;
    if manner.listens_first {
        wait();
        receive(stream, read.0, read.1, manner, &mut Random::new(seed))?;
        return send(stream, write.0, write.1, manner, &mut Random::new(seed + 1));
    }
    thread::scope(|scope| {
        let sender = thread::Builder::new()
            .stack_size(STACK)
            .spawn_scoped(scope, || send(stream, write.0, write.1, manner, &mut Random::new(seed + 1)))?;
        wait();
        let received = receive(stream, read.0, read.1, manner, &mut Random::new(seed));
        if received.is_err() {
            // Or the sender would wait for ever for an end that does not read.
            let _gone = stream.shutdown(Shutdown::Both);
        }
        let sent = sender.join().ok().context("the sender panicked")?;
        received.and(sent)
    })
}

/// Writes `len` bytes in random pieces, and finishes.
pub(crate) fn send(
    stream: &TcpStream,
    mut pattern: Pattern,
    len: u64,
    manner: Manner,
    random: &mut Random,
) -> Result<()> {
    let most = if manner.most == 0 { LONGEST } else { manner.most as usize };
    let mut patient = Patient::new(stream)?;
    while pattern.at < len {
        let size = (random.size(most) as u64).min(len - pattern.at) as usize;
        patient.write_all(pattern.peek(size)).with_context(|| format!("send, after {} of {len}", pattern.at))?;
        pattern.at += size as u64;
        if manner.rests_us > 0 && random.one_in(4) {
            rest(random, manner.rests_us);
        }
    }
    stream.shutdown(Shutdown::Write).context("finish")
}

/// Reads exactly `len` bytes and then the end.
pub(crate) fn receive(
    stream: &TcpStream,
    mut pattern: Pattern,
    len: u64,
    manner: Manner,
    random: &mut Random,
) -> Result<()> {
    let (mut buffer, mut patient) = (vec![0; 32 << 10], Patient::new(stream)?);
    wait::pause(Duration::from_millis(manner.late_ms.into()));
    loop {
        let count = match patient.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).with_context(|| format!("receive, after {} of {len}", pattern.at)),
        };
        if count == 0 {
            ensure!(pattern.at == len, "the end comes after {} of {len} bytes", pattern.at);
            return Ok(());
        }
        pattern.check(&buffer[..count])?;
        ensure!(pattern.at <= len, "more than {len} bytes come");
        if manner.stalls_ms > 0 && random.one_in(200) {
            wait::pause(Duration::from_millis(random.within(&Range { start: 0, end: manner.stalls_ms.into() })));
        }
    }
}

/// Shorter pauses than a sleep can make are waited out awake.
pub(crate) fn rest(random: &mut Random, most_us: u32) {
    let time = Duration::from_micros(random.below(most_us as usize) as u64);
    if time > Duration::from_micros(200) {
        return wait::pause(time);
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}
