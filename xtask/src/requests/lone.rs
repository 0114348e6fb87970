//! A single client: it sends a request, waits in poll(2) as clients with an event loop do, and reads the reply, which must be
//! the one that is due, byte for byte.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use switchmaster_tests::{Client, netns::Namespace};

use super::{KEY, Load, Test, Timing};
use crate::series::quantile;

/// For a reply.
const LIMIT_MS: u16 = 5000;
const DIAL: Duration = Duration::from_secs(5);

pub(super) fn run(from: &Namespace, to: SocketAddr, load: Load) -> Result<Timing> {
    let (request, reply) = match load.test {
        Test::Get => {
            let value = Client::connect(from, to)?.get(KEY)?.with_context(|| format!("{KEY} holds nothing"))?;
            (redis::cmd("GET").arg(KEY).get_packed_command(), format!("${}\r\n{value}\r\n", value.len()))
        }
        Test::Set => {
            let value = "x".repeat(load.bytes);
            (redis::cmd("SET").arg(KEY).arg(value).get_packed_command(), "+OK\r\n".to_owned())
        }
    };
    let stream = from.connect(to, DIAL)?;
    stream.set_nodelay(true).context("nodelay")?;
    stream.set_nonblocking(true).context("nonblocking")?;
    let mut buffer = vec![0; reply.len() + 1];
    let mut took = Vec::with_capacity(usize::try_from(load.requests).context("too many requests")?);
    let began = Instant::now();
    for number in 0..load.requests {
        let asked = Instant::now();
        // A request fits in the socket's buffer, which is empty.
        (&stream).write_all(&request).with_context(|| format!("request {number}"))?;
        read_reply(&stream, &mut buffer, reply.as_bytes()).with_context(|| format!("reply {number}"))?;
        took.push(asked.elapsed());
    }
    let rps = load.requests as f64 / began.elapsed().as_secs_f64();
    took.sort_unstable();
    let ms = |part| quantile(&took, part).map(|time| time.as_secs_f64() * 1000.0).context("no request");
    Ok(Timing { rps, p50_ms: ms(0.5)?, p99_ms: ms(0.99)? })
}

/// The buffer has room for more than the reply, which would be a byte too many.
fn read_reply(mut stream: &TcpStream, buffer: &mut [u8], reply: &[u8]) -> Result<()> {
    let mut held = 0;
    while held < reply.len() {
        let ready = poll(&mut [PollFd::new(stream.as_fd(), PollFlags::POLLIN)], PollTimeout::from(LIMIT_MS))?;
        ensure!(ready == 1, "nothing came within {LIMIT_MS} ms");
        let count = stream.read(&mut buffer[held..]).context("read")?;
        ensure!(count > 0, "the connection was ended");
        held += count;
        ensure!(
            reply.starts_with(&buffer[..held]),
            "not the reply that was due: {:?}",
            buffer[..held].escape_ascii().to_string()
        );
    }
    Ok(())
}
