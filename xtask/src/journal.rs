//! The daemon's own account: its log, read back with the moments of its lines on our clock.

use std::{
    net::SocketAddr,
    time::{Instant, SystemTime},
};

use serde_json::Value;

/// Translates the log's time of day. Two readings an instant apart are near enough for milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: SystemTime,
    here: Instant,
}

impl Clock {
    pub(crate) fn now() -> Self {
        Self { wall: SystemTime::now(), here: Instant::now() }
    }

    fn read(self, stamp: &str) -> Option<Instant> {
        let wall = humantime::parse_rfc3339(stamp).ok()?;
        match wall.duration_since(self.wall) {
            Ok(after) => self.here.checked_add(after),
            Err(before) => self.here.checked_sub(before.duration()),
        }
    }
}

/// What the daemon wrote since a moment.
#[derive(Debug)]
pub(crate) struct Journal(Vec<(Instant, Value)>);

impl Journal {
    /// `log` in the daemon's JSON form; lines that are something else are left out.
    pub(crate) fn since(since: Instant, log: &str, clock: Clock) -> Self {
        let entry = |line: &str| {
            let value: Value = serde_json::from_str(line).ok()?;
            let at = clock.read(value.get("timestamp")?.as_str()?)?;
            (at >= since).then_some((at, value))
        };
        Self(log.lines().filter_map(entry).collect())
    }

    /// When the group first stopped being open, and with which way and reason.
    pub(crate) fn shut(&self) -> Option<(Instant, String)> {
        self.first_but(&["open"])
    }

    /// When established connections first stopped as well.
    pub(crate) fn fenced(&self) -> Option<(Instant, String)> {
        self.first_but(&["open", "established"])
    }

    fn first_but(&self, ways: &[&str]) -> Option<(Instant, String)> {
        let (at, line) = self.states().find(|(_, line)| text(line, "way").is_some_and(|way| !ways.contains(&way)))?;
        Some((*at, said(line)?))
    }

    /// Every change of the group's state, with its way and reason.
    pub(crate) fn changes(&self) -> Vec<(Instant, String)> {
        self.states().filter_map(|(at, line)| Some((*at, said(line)?))).collect()
    }

    /// When it opened towards `master`.
    pub(crate) fn opened(&self, master: SocketAddr) -> Option<Instant> {
        let master = master.to_string();
        // Its epoch and its id follow the address.
        let towards = |line| text(line, "master").and_then(|text| text.split(' ').next()) == Some(master.as_str());
        let opened = self.states().find(|(_, line)| text(line, "way") == Some("open") && towards(line))?;
        Some(opened.0)
    }

    /// Resets at switches: when the last was logged, how many connections, how long the longest took.
    pub(crate) fn resets(&self) -> Option<(Instant, u64, u64)> {
        let resets = self.0.iter().filter(|(_, line)| text(line, "message") == Some("connections were reset"));
        let number = |line: &Value, key| line.get(key).and_then(Value::as_u64).unwrap_or_default();
        resets.fold(None, |sum, (at, line)| {
            let (_, connections, took) = sum.unwrap_or((*at, 0, 0));
            Some((*at, connections + number(line, "connections"), took.max(number(line, "took_us"))))
        })
    }

    /// Every change of a group's state, whatever the message says of it.
    fn states(&self) -> impl Iterator<Item = &(Instant, Value)> {
        self.0.iter().filter(|(_, line)| text(line, "way").and(text(line, "was")).is_some())
    }
}

fn said(state: &Value) -> Option<String> {
    Some(format!("{} ({})", text(state, "way")?, text(state, "reason")?))
}

fn text<'a>(line: &'a Value, key: &str) -> Option<&'a str> {
    line.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LOG: &str = r#"{"timestamp":"2026-11-20T12:00:01.400000Z","message":"the group takes no new clients","way":"established","reason":"probe-lost","master":"-","was":"10.0.0.1:6379 (epoch 0, id ab)"}
{"timestamp":"2026-11-20T12:00:01.500000Z","message":"the group takes no new clients","way":"closed","reason":"role-lost","master":"-","was":"10.0.0.1:6379 (epoch 0, id ab)"}
not a line of the log
{"timestamp":"2026-11-20T12:00:02Z","message":"the group's state","way":"open","reason":"proven","master":"10.0.0.2:6379 (epoch 1, id cd)","was":"-"}
{"timestamp":"2026-11-20T12:00:02.001Z","message":"connections were reset","connections":3,"took_us":120}"#;

    #[test]
    fn a_switch_is_found_in_the_log() {
        let clock =
            Clock { wall: humantime::parse_rfc3339("2026-11-20T12:00:01Z").expect("a time"), here: Instant::now() };
        let after = |ms| clock.here + Duration::from_millis(ms);
        let journal = Journal::since(clock.here, LOG, clock);
        assert_eq!(journal.shut(), Some((after(400), "established (probe-lost)".to_owned())));
        assert_eq!(journal.fenced(), Some((after(500), "closed (role-lost)".to_owned())));
        assert_eq!(journal.changes().last(), Some(&(after(1000), "open (proven)".to_owned())));
        assert_eq!(journal.opened(([10, 0, 0, 2], 6379).into()), Some(after(1000)));
        assert_eq!(journal.resets(), Some((after(1001), 3, 120)));
        assert!(Journal::since(after(1), "", clock).resets().is_none());
    }
}
