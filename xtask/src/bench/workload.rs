//! What the peers are measured with, by name. Every entry is bounded: a run lasts about a second.

use crate::requests::Test::{self, Get, Set};

#[derive(Debug, Clone, Copy)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) load: Load,
    pub(super) place: Place,
}

/// Where client, peer and Redis are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Each on a host of its own.
    Apart,
    /// All on one.
    Together,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Load {
    /// As fast as they are answered.
    Requests {
        test: Test,
        clients: u32,
        pipeline: u32,
        bytes: usize,
        /// A connection serves all requests of a client, not one only.
        keep: bool,
        /// Connections that said something once and are silent now, beside it.
        idle: usize,
    },
    /// One publisher at this pace, and so many subscribers to the same channel.
    Messages { subscribers: usize, per_second: u32 },
    /// So many calls of connect(2), one after the other: how long each takes.
    Connects(usize),
}

const fn requests(test: Test, clients: u32) -> Load {
    of_size(test, clients, 64)
}

const fn of_size(test: Test, clients: u32, bytes: usize) -> Load {
    Load::Requests { test, clients, pipeline: 1, bytes, keep: true, idle: 0 }
}

const PIPELINE: Load = Load::Requests { test: Get, clients: 50, pipeline: 16, bytes: 64, keep: true, idle: 0 };
const CONNECT: Load = Load::Requests { test: Get, clients: 50, pipeline: 1, bytes: 64, keep: false, idle: 0 };
const IDLE: Load = Load::Requests { test: Get, clients: 50, pipeline: 1, bytes: 64, keep: true, idle: 1000 };

/// 20,000 deliveries a second with many subscribers, which every peer carries on two cores: it is the way that
/// is to be measured and not a queue.
const fn messages(subscribers: usize, per_second: u32) -> Load {
    Load::Messages { subscribers, per_second }
}

const fn apart(name: &'static str, title: &'static str, load: Load) -> Workload {
    Workload { name, title, load, place: Place::Apart }
}

const fn together(name: &'static str, title: &'static str, load: Load) -> Workload {
    Workload { name, title, load, place: Place::Together }
}

pub(super) const ALL: [Workload; 22] = [
    apart("get-1", "GET 64 B, 1 client", requests(Get, 1)),
    apart("get-50", "GET 64 B, 50 clients", requests(Get, 50)),
    apart("get-500", "GET 64 B, 500 clients", requests(Get, 500)),
    apart("set-1", "SET 64 B, 1 client", requests(Set, 1)),
    apart("set-50", "SET 64 B, 50 clients", requests(Set, 50)),
    apart("set-500", "SET 64 B, 500 clients", requests(Set, 500)),
    apart("pipeline-16", "GET 64 B, 50 clients, pipeline 16", PIPELINE),
    apart("get-1k", "GET 1 KiB, 50 clients", of_size(Get, 50, 1 << 10)),
    apart("set-1k", "SET 1 KiB, 50 clients", of_size(Set, 50, 1 << 10)),
    apart("get-64k", "GET 64 KiB, 50 clients", of_size(Get, 50, 64 << 10)),
    apart("set-64k", "SET 64 KiB, 50 clients", of_size(Set, 50, 64 << 10)),
    apart("connect", "a connection per GET, 50 clients", CONNECT),
    apart("idle-1000", "GET 64 B, 50 clients, 1,000 idle connections beside them", IDLE),
    apart("pubsub-1", "1 subscriber, 1,000 messages/s", messages(1, 1000)),
    apart("pubsub-100", "100 subscribers, 200 messages/s", messages(100, 200)),
    apart("pubsub-1000", "1,000 subscribers, 20 messages/s", messages(1000, 20)),
    together("local-steered", "on one host: GET 64 B, 50 clients", requests(Get, 50)),
    together("local-bypass", "on one host: GET 64 B, 50 clients, for the bypass", requests(Get, 50)),
    together("local-bypass-1", "on one host: GET 64 B, 1 client", requests(Get, 1)),
    together("local-bypass-16", "on one host: GET 64 B, 50 clients, pipeline 16", PIPELINE),
    together("local-bypass-pubsub", "on one host: 100 subscribers, 200 messages/s", messages(100, 200)),
    together("local-connect", "on one host: connect(2), one after the other", Load::Connects(20_000)),
];

impl Workload {
    /// What is counted.
    pub(super) fn unit(&self) -> &'static str {
        match self.load {
            Load::Requests { keep: false, .. } => "connections",
            Load::Requests { .. } => "requests",
            Load::Messages { .. } => "deliveries",
            Load::Connects(_) => "connections",
        }
    }

    pub(super) fn is_messages(&self) -> bool {
        matches!(self.load, Load::Messages { .. })
    }

    fn goes_by(&self, word: &str) -> bool {
        self.name == word || self.name.strip_prefix(word).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// Names, and what they begin with: `get` is all that GET.
pub(super) fn words() -> Vec<&'static str> {
    let mut words: Vec<&'static str> = Vec::new();
    for Workload { name, .. } in &ALL {
        let group = name.split('-').next().filter(|group| !words.contains(group) && group != name);
        words.extend(group.into_iter().chain([*name]));
    }
    words
}

/// Those that are meant by these words; no word is all.
pub(super) fn named(words: &[String]) -> Vec<&'static Workload> {
    ALL.iter().filter(|one| words.is_empty() || words.iter().any(|word| one.goes_by(word))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_means_one_or_all_that_begin_with_it() {
        let names = |word: &str| named(&[word.to_owned()]).iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names("get-1"), ["get-1"], "and not get-1k");
        assert_eq!(names("pubsub"), ["pubsub-1", "pubsub-100", "pubsub-1000"]);
        assert_eq!(named(&[]).len(), ALL.len());
        let words = words();
        assert!(words.contains(&"get") && words.contains(&"connect") && words.contains(&"idle"), "{words:?}");
        assert!((1..words.len()).all(|at| !words[at..].contains(&words[at - 1])), "each once: {words:?}");
    }
}
