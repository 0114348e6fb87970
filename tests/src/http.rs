//! One GET from inside a namespace. HTTP/1.0, so that the reply ends where the connection does.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::Namespace;

const LIMIT: Duration = Duration::from_secs(2);
/// No answer of ours is anywhere near this.
const MOST: u64 = 8 << 20;

#[derive(Debug, Clone)]
pub struct Response {
    pub code: u16,
    pub body: String,
}

pub fn get(namespace: &Namespace, to: SocketAddr, path: &str) -> Result<Response> {
    let mut stream = namespace.connect(to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT)).context("read time-out")?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {to}\r\n\r\n").context("send")?;
    let mut reply = String::new();
    stream.take(MOST).read_to_string(&mut reply).with_context(|| format!("GET {path}"))?;
    let (head, body) = reply.split_once("\r\n\r\n").with_context(|| format!("no HTTP reply: {reply:?}"))?;
    let code =
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("no code: {head:?}"))?;
    Ok(Response { code, body: body.to_owned() })
}
