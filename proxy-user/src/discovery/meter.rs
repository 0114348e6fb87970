//! A stream that reads only as much as was allowed: a server that sends an endless reply costs us an
//! error, not memory. The reader's owner refills the allowance before each request.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one reply may bring. The largest honest one (`SENTINEL REPLICAS` with 256 replicas) is a quarter
/// of it; parsed values take up to sixteen times the bytes, so more would be a burden.
pub(super) const REPLY_LIMIT: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the reply is larger than {} KiB", REPLY_LIMIT / 1024)]
pub(super) struct Oversized;

/// How many bytes may still be read. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Allowance(Arc<AtomicUsize>);

impl Allowance {
    fn new() -> Self {
        Self(Arc::new(AtomicUsize::new(REPLY_LIMIT)))
    }

    /// Everything that came has been dealt with: a whole reply may come again.
    pub(super) fn refill(&self) {
        self.0.store(REPLY_LIMIT, Ordering::Relaxed);
    }

    fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn spend(&self, bytes: usize) {
        // A refill may come in between; saturating keeps the count sound either way.
        let _previous =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(bytes)));
    }
}

#[derive(Debug)]
pub(super) struct Metered<S> {
    stream: S,
    allowance: Allowance,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S) -> (Self, Allowance) {
        let allowance = Allowance::new();
        (Self { stream, allowance: allowance.clone() }, allowance)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.allowance.left() == 0 {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Oversized)));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.allowance.spend(buf.filled().len().saturating_sub(before));
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn an_endless_stream_ends_in_an_error() {
        let (mut stream, _allowance) = Metered::new(tokio::io::repeat(b'x'));
        let mut sink = tokio::io::sink();
        let error = tokio::io::copy(&mut stream, &mut sink).await.expect_err("must not read on for ever");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn a_refill_lets_the_next_reply_in() {
        let (mut stream, allowance) = Metered::new(tokio::io::repeat(b'x'));
        let mut reply = vec![0; REPLY_LIMIT];
        for _ in 0..3 {
            stream.read_exact(&mut reply).await.expect("within the allowance");
            allowance.refill();
        }
    }
}
