//! The status as a person reads it at three in the morning: what is wrong stands first on its line,
//! one line a group, Sentinel, node and route. Sentinels and nodes are discovery's own records: known
//! fields are shown, unknown ones are skipped, so that versions may differ.

use std::{fmt::Write as _, time::Duration};

use serde_json::Value;

use super::status::{Group, Pins, Route, Status};

/// Ends with a newline. Control characters from the wire never reach the terminal.
pub fn table(status: &Status) -> String {
    let mut rows = vec![head(status)];
    rows.extend(status.waiting_for.iter().map(|it| vec![format!("  waiting for {it}")]));
    let mut text = aligned(&rows, 0);
    for group in &status.groups {
        text.push('\n');
        text.push_str(&group_lines(group));
    }
    if !status.routes.is_empty() {
        text.push('\n');
        text.push_str(&aligned(&status.routes.iter().map(route_row).collect::<Vec<_>>(), 0));
    }
    if let Some(pins) = status.pins.as_ref().filter(|pins| pins.links > 0) {
        text.push('\n');
        text.push_str(&aligned(&[vec![pins_line(pins)]], 0));
    }
    text
}

fn pins_line(pins: &Pins) -> String {
    let whence = if pins.taken_over { ", taken over from a daemon that was killed" } else { "" };
    format!("pinned in {}: {} links, {} maps{whence}", pins.folder, pins.links, pins.maps)
}

fn head(status: &Status) -> Vec<String> {
    let ready = if status.ready { "ready" } else { "NOT READY" };
    vec![format!("switchmaster {}, up {}, {ready}", status.version, span(status.uptime_ms))]
}

fn group_lines(group: &Group) -> String {
    let master = group
        .master
        .as_ref()
        .map_or_else(|| "no master".to_owned(), |it| format!("master {}, epoch {}", it.addr, it.epoch));
    let way = loud(&group.way, "open");
    let since = span(group.since_ms);
    let head = vec![format!("group {}: {way}, {master}, {} for {since}", group.name, group.reason)];
    let mut text = aligned(&[head], 0);
    text.push_str(&aligned(&group.sentinels.iter().map(sentinel_row).collect::<Vec<_>>(), 2));
    text.push_str(&aligned(&group.nodes.iter().map(|it| node_row(it, group)).collect::<Vec<_>>(), 2));
    text.push_str(&aligned(&group.names.iter().filter_map(name_row).collect::<Vec<_>>(), 2));
    text
}

fn sentinel_row(it: &Value) -> Vec<String> {
    let down = if it.get("master_down") == Some(&Value::Bool(true)) { " (down, it says)" } else { "" };
    let uncounted = if it.get("counted") == Some(&Value::Bool(false)) { "not counted" } else { "" };
    vec![
        "sentinel".to_owned(),
        field(it, "addr"),
        field(it, "name"),
        loud(&field(it, "state"), "answering"),
        around("master ", &field(it, "master"), down),
        around("epoch ", &field(it, "epoch"), ""),
        seen(it),
        uncounted.to_owned(),
        failure(it),
    ]
}

fn node_row(it: &Value, group: &Group) -> Vec<String> {
    let addr = field(it, "addr");
    let replica = group.replicas.iter().find(|replica| replica.addr.to_string() == addr);
    let sound = replica.map_or("", |it| if it.sound { "sound" } else { "UNSOUND" });
    let lag = replica.map_or_else(String::new, |it| match (it.lag_bytes, it.lag_seconds) {
        (Some(bytes), _) => format!("lag {bytes} B"),
        (None, Some(seconds)) => format!("lag {seconds} s"),
        (None, None) => String::new(),
    });
    vec![
        "node".to_owned(),
        addr,
        field(it, "name"),
        loud(&field(it, "state"), "answering"),
        field(it, "role"),
        sound.to_owned(),
        lag,
        around("", &field(it, "latency_us"), " us"),
        seen(it),
        failure(it),
    ]
}

/// Only the names that make trouble: the others are known by their addresses.
fn name_row(it: &Value) -> Option<Vec<String>> {
    let error = field(it, "error");
    (!error.is_empty()).then(|| vec!["name".to_owned(), field(it, "name"), error])
}

fn route_row(route: &Route) -> Vec<String> {
    let targets: Vec<_> = route.targets.iter().map(|it| it.addr.to_string()).collect();
    let target = if targets.is_empty() { "nowhere".to_owned() } else { targets.join(" ") };
    let steered = match (route.steered, route.bypassed) {
        (0, _) => String::new(),
        (steered, 0) => format!(" ({steered} steered)"),
        (steered, bypassed) => format!(" ({steered} steered, {bypassed} of them bypassed)"),
    };
    let mut counts = format!(
        "{} connections{steered}, {} parked, {} severed, {} switches",
        route.connections, route.parked, route.severed, route.switches
    );
    if !route.refused.is_empty() {
        let total: u64 = route.refused.values().fold(0, |sum, it| sum.saturating_add(*it));
        let reasons: Vec<_> = route.refused.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        let _ = write!(counts, ", {total} refused ({})", reasons.join(", "));
    }
    vec![
        format!("route {}:", route.name),
        loud(&route.state, "open"),
        route.listen.join(" "),
        format!("-> {} of {} at {target}", route.target, route.group),
        route.datapath.clone(),
        counts,
    ]
}

/// A state that is not the good one must catch the eye without colours.
pub(super) fn loud(state: &str, good: &str) -> String {
    if state == good { state.to_owned() } else { state.to_uppercase() }
}

/// A field that is there and says something; else nothing.
fn field(record: &Value, name: &str) -> String {
    match record.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn around(before: &str, text: &str, after: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{before}{text}{after}") }
}

fn seen(record: &Value) -> String {
    record.get("seen_ms_ago").and_then(Value::as_u64).map_or_else(String::new, |it| format!("seen {} ago", span(it)))
}

/// The last error, as long as the failure lasts.
fn failure(record: &Value) -> String {
    let word = field(record, "failure");
    let error = field(record, "error");
    if word.is_empty() || error.is_empty() { word } else { error }
}

/// Two units at most: `850ms`, `12s`, `3m 5s`, `2h 40m`, `9days 3h`.
fn span(milliseconds: u64) -> String {
    let exact = Duration::from_millis(milliseconds);
    let unit = match exact.as_secs() {
        0 => return format!("{milliseconds}ms"),
        1..3_600 => 1,
        3_600..86_400 => 60,
        _ => 3_600,
    };
    humantime::format_duration(Duration::from_secs(exact.as_secs() / unit * unit)).to_string()
}

/// Columns as wide as their widest cell, empty columns left out.
pub(super) fn aligned(rows: &[Vec<String>], indent: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|it| it.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = " ".repeat(indent);
        for (cell, width) in row.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.extend(line.trim_end().chars().map(|it| if it.is_control() { '?' } else { it }));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::admin::status::{Master, Replica, RouteTarget};

    fn status() -> Status {
        let group = Group {
            name: "mymaster".into(),
            way: "open".into(),
            reason: "proven".into(),
            since_ms: 7_260_000,
            master: Some(Master { addr: ([10, 0, 0, 1], 6379).into(), epoch: 7, id: None }),
            replicas: vec![Replica {
                addr: ([10, 0, 0, 2], 6379).into(),
                id: None,
                sound: false,
                lag_seconds: Some(12),
                lag_bytes: None,
            }],
            sentinels: vec![
                json!({"addr": "10.0.0.10:26379", "state": "answering", "counted": true, "master": "10.0.0.1:6379",
                       "epoch": 7, "seen_ms_ago": 850, "failure": null, "error": "connection refused, once"}),
                json!({"addr": "10.0.0.20:26379", "state": "lost", "master": null, "failure": "timed-out",
                       "error": "no reply\u{1b}[2J within 500ms"}),
            ],
            nodes: vec![
                json!({"addr": "10.0.0.1:6379", "state": "answering", "role": "master", "latency_us": 310, "new": [1]}),
                json!({"addr": "10.0.0.2:6379", "state": "asking", "role": "replica"}),
            ],
            names: vec![
                json!({"name": "s1.internal", "addrs": ["10.0.0.10:26379"], "error": null}),
                json!({"name": "s3.internal", "addrs": [], "error": "does not resolve"}),
            ],
            ..Group::default()
        };
        let route = Route {
            name: "writes".into(),
            listen: vec!["0.0.0.0:6379".into()],
            group: "mymaster".into(),
            target: "master".into(),
            datapath: "sockmap".into(),
            state: "open".into(),
            connections: 50,
            severed: 3,
            switches: 1,
            refused: BTreeMap::from([("park-full".into(), 4), ("not-allowed".into(), 1)]),
            targets: vec![RouteTarget {
                addr: ([10, 0, 0, 1], 6379).into(),
                state: "open".into(),
                generation: 2,
                connections: 50,
            }],
            ..Route::default()
        };
        Status {
            version: "0.1.0".into(),
            uptime_ms: 86_400_000,
            ready: true,
            groups: vec![group],
            routes: vec![route],
            ..Status::default()
        }
    }

    #[test]
    fn golden() {
        let expected = "\
switchmaster 0.1.0, up 1day, ready

group mymaster: open, master 10.0.0.1:6379, epoch 7, proven for 2h 1m
  sentinel  10.0.0.10:26379  answering  master 10.0.0.1:6379  epoch 7  seen 850ms ago
  sentinel  10.0.0.20:26379  LOST                                                      no reply?[2J within 500ms
  node  10.0.0.1:6379  answering  master                      310 us
  node  10.0.0.2:6379  ASKING     replica  UNSOUND  lag 12 s
  name  s3.internal  does not resolve

route writes:  open  0.0.0.0:6379  -> master of mymaster at 10.0.0.1:6379  sockmap  \
50 connections, 0 parked, 3 severed, 1 switches, 5 refused (not-allowed 1, park-full 4)
";
        assert_eq!(table(&status()), expected);
    }

    #[test]
    fn pins_are_told_of_where_flows_would_outlive_the_daemon() {
        let pins = Pins { folder: "/sys/fs/bpf/switchmaster".into(), links: 2, maps: 17, taken_over: true };
        let told = table(&Status { pins: Some(pins.clone()), ..status() });
        let line = "\npinned in /sys/fs/bpf/switchmaster: 2 links, 17 maps, taken over from a daemon that was killed\n";
        assert!(told.ends_with(line), "{told}");
        assert_eq!(table(&Status { pins: Some(Pins { links: 0, ..pins }), ..status() }), table(&status()));
    }

    #[test]
    fn what_is_wrong_is_in_capitals() {
        let mut status = status();
        status.ready = false;
        status.waiting_for = vec!["group mymaster: a proven master".into()];
        status.groups[0] =
            Group { name: "mymaster".into(), way: "closed".into(), reason: "no-majority".into(), ..Group::default() };
        status.routes[0].state = "closed".into();
        status.routes[0].targets.clear();
        let text = table(&status);
        assert!(text.contains("NOT READY\n  waiting for group mymaster: a proven master\n"), "{text}");
        assert!(text.contains("group mymaster: CLOSED, no master, no-majority for 0ms\n"), "{text}");
        assert!(text.contains("CLOSED  0.0.0.0:6379  -> master of mymaster at nowhere"), "{text}");
    }

    #[test]
    fn spans_have_two_units() {
        for (milliseconds, text) in
            [(0, "0ms"), (999, "999ms"), (61_500, "1m 1s"), (3_661_000, "1h 1m"), (90_061_000, "1day 1h")]
        {
            assert_eq!(span(milliseconds), text);
        }
    }
}
