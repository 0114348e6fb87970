//! What the audience sees: lines that stay, and below them a block that is drawn anew. Without a
//! terminal the block becomes one line a second.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

const PLAIN_EVERY: Duration = Duration::from_secs(1);
/// Text beyond the right margin is cut off and not wrapped, so that a block keeps its height.
const NO_WRAP: &str = "\x1b[?7l";
const WRAP: &str = "\x1b[?7h";
const CLEAR_BELOW: &str = "\x1b[J";

#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    /// Height of the block that is on the screen now.
    drawn: usize,
    plain_next: Option<Instant>,
}

/// The block of one moment, and the same in a line.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) block: Vec<String>,
    pub(super) line: String,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { terminal: io::stdout().is_terminal(), drawn: 0, plain_next: None }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: impl AsRef<str>) {
        let text = format!("{}{}\n", self.take_back(), line.as_ref());
        put(&text);
    }

    /// The present state, in place of the last one.
    pub(super) fn show(&mut self, frame: &Frame) {
        let now = Instant::now();
        if !self.terminal {
            if self.plain_next.is_none_or(|next| now >= next) {
                self.plain_next = Some(now + PLAIN_EVERY);
                put(&format!("{}\n", frame.line));
            }
            return;
        }
        let mut text = self.take_back();
        text.push_str(NO_WRAP);
        for line in &frame.block {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str(WRAP);
        put(&text);
        self.drawn = frame.block.len();
    }

    /// What takes the block off the screen.
    fn take_back(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            height => format!("\x1b[{height}A\r{CLEAR_BELOW}"),
        }
    }
}

/// In one write, so that an interruption leaves no half of an escape sequence.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    // Nobody who looks on any more is no reason to stop halfway: the end cleans up.
    let _gone = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
