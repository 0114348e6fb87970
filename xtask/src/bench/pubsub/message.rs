//! The messages: each carries its number, so that a subscriber knows which it is, and whether one was lost,
//! doubled or overtaken by another on the way.

use anyhow::{Context as _, Result, ensure};

pub(super) const CHANNEL: &str = "bench";
const PAYLOAD: usize = 64;
const DIGITS: usize = 16;

/// As the publisher sends it.
pub(super) fn publish(number: u64) -> Vec<u8> {
    frame("PUBLISH", number)
}

/// As a subscriber hears it.
fn message(number: u64) -> Vec<u8> {
    frame("message", number)
}

fn frame(word: &str, number: u64) -> Vec<u8> {
    let (padding, length) = ("x".repeat(PAYLOAD - DIGITS), CHANNEL.len());
    format!("*3\r\n${}\r\n{word}\r\n${length}\r\n{CHANNEL}\r\n${PAYLOAD}\r\n{number:0DIGITS$}{padding}\r\n", word.len())
        .into_bytes()
}

/// How the server confirms a subscription.
pub(super) fn confirmation() -> String {
    format!("*3\r\n$9\r\nsubscribe\r\n${}\r\n{CHANNEL}\r\n:1\r\n", CHANNEL.len())
}

/// What one subscriber hears, put together again from whatever pieces TCP hands over.
#[derive(Debug)]
pub(super) struct Hearing {
    frame: usize,
    partial: Vec<u8>,
    next: u64,
}

impl Hearing {
    pub(super) fn new() -> Self {
        Self { frame: message(0).len(), partial: Vec::new(), next: 0 }
    }

    /// Calls `each` with the number of every message that is complete now.
    pub(super) fn take(&mut self, bytes: &[u8], mut each: impl FnMut(u64)) -> Result<()> {
        // Most often a piece is just one message.
        let held = std::mem::take(&mut self.partial);
        let joined;
        let all = if held.is_empty() {
            bytes
        } else {
            joined = [&held, bytes].concat();
            &joined
        };
        let mut messages = all.chunks_exact(self.frame);
        for message in &mut messages {
            let number = number(message).with_context(|| format!("not a message: {:?}", message.escape_ascii()))?;
            ensure!(number == self.next, "message {number} came when {} was due", self.next);
            self.next += 1;
            each(number);
        }
        self.partial = messages.remainder().to_vec();
        Ok(())
    }
}

fn number(message: &[u8]) -> Option<u64> {
    let payload = message.len().checked_sub(PAYLOAD + 2)?;
    std::str::from_utf8(message.get(payload..payload + DIGITS)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_heard_in_whatever_pieces_they_come() {
        let all: Vec<u8> = (0..5).flat_map(message).collect();
        for piece in 1..all.len() {
            let (mut hearing, mut numbers) = (Hearing::new(), Vec::new());
            all.chunks(piece).for_each(|bytes| hearing.take(bytes, |number| numbers.push(number)).unwrap());
            assert_eq!(numbers, [0, 1, 2, 3, 4], "pieces of {piece} bytes");
        }
    }

    #[test]
    fn a_message_that_is_missing_doubled_or_none_is_an_error() {
        for wrong in [message(1), [message(0), message(0)].concat(), b"-ERR".repeat(message(0).len())] {
            assert!(Hearing::new().take(&wrong, |_| {}).is_err(), "{}", wrong.escape_ascii());
        }
    }
}
