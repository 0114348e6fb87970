//! What Sentinels publish, sorted by what it means for one group. Pure. Names are compared whole, so
//! `cache` never hears of `cache-2`. An event is a reason to ask, and may be a sign of a failover; it never
//! says who is master.

use super::reply::Written;
use crate::election::SignKind;

/// What an event of our group says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Another master, as this Sentinel sees it.
    Switched,
    /// The master is thought down, or no longer so.
    Health,
    /// A failover makes progress, or is given up.
    Failover,
    /// A Sentinel or a replica came, went, or changed.
    Membership,
}

/// A sign of a failover, its addresses as the Sentinel writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signal {
    pub(super) kind: SignKind,
    pub(super) epoch: Option<u64>,
    pub(super) master: Written,
    pub(super) replica: Option<Written>,
    pub(super) channel: &'static str,
}

/// Channels to ask for one by one where the ACL forbids the pattern `*`.
pub(super) const CHANNELS: [&str; 27] = [
    "+new-epoch",
    "+switch-master",
    "+sdown",
    "-sdown",
    "+odown",
    "-odown",
    "+try-failover",
    "+elected-leader",
    "+failover-state-select-slave",
    "+selected-slave",
    "+failover-state-send-slaveof-noone",
    "+failover-state-wait-promotion",
    "+promoted-slave",
    "+failover-state-reconf-slaves",
    "+failover-end",
    "+failover-end-for-timeout",
    "-failover-abort-no-good-slave",
    "-failover-abort-not-elected",
    "-failover-abort-slave-timeout",
    "-failover-abort-master-is-slave",
    "+config-update-from",
    "+convert-to-slave",
    "+slave",
    "+sentinel",
    "+reset-master",
    "+monitor",
    "-monitor",
];

/// One subscription, in the order it is published: what was said before gives a failover its epoch.
#[derive(Debug)]
pub(super) struct Hearing<'a> {
    group: &'a str,
    /// The last epoch that the Sentinel announced, for whichever group.
    newest: Option<u64>,
    /// That of the group's failover which the Sentinel has begun.
    failover: Option<u64>,
}

impl<'a> Hearing<'a> {
    pub(super) fn new(group: &'a str) -> Self {
        Self { group, newest: None, failover: None }
    }

    /// The event in `payload`, if it is about the group.
    pub(super) fn hear(&mut self, channel: &str, payload: &str) -> Option<(Event, Option<Signal>)> {
        if channel == "+new-epoch" {
            self.newest = payload.parse().ok();
            return None;
        }
        let about = about(channel, payload).filter(|about| about.group == self.group)?;
        if channel == "+try-failover" {
            // The Sentinel raises its epoch, says so, and begins, in one step (sentinelStartFailover).
            self.failover = self.newest;
        }
        let epoch = self.failover;
        if matches!(channel, "+switch-master" | "+failover-end") || channel.starts_with("-failover-abort") {
            self.failover = None;
        }
        let signal = kind_of(channel).zip(written(about.master)).map(|(kind, master)| Signal {
            kind,
            epoch,
            master,
            replica: about.replica.and_then(written),
            channel: CHANNELS.into_iter().find(|known| *known == channel).unwrap_or("-failover-abort"),
        });
        Some((event_of(channel), signal))
    }
}

fn event_of(channel: &str) -> Event {
    match channel {
        "+switch-master" | "+config-update-from" => Event::Switched,
        "+sdown" | "-sdown" | "+odown" | "-odown" => Event::Health,
        "+try-failover" | "+elected-leader" | "+selected-slave" | "+promoted-slave" => Event::Failover,
        _ if channel.contains("failover") => Event::Failover,
        _ => Event::Membership,
    }
}

/// `-odown` is no sign: a failover that has begun goes on (sentinelFailoverStateMachine does not ask).
fn kind_of(channel: &str) -> Option<SignKind> {
    Some(match channel {
        "+odown" | "+try-failover" | "+elected-leader" | "+failover-state-select-slave" => SignKind::Stirring,
        "+selected-slave" | "+failover-state-send-slaveof-noone" | "+failover-state-wait-promotion" => SignKind::Chosen,
        "+promoted-slave" | "+failover-state-reconf-slaves" | "+switch-master" => SignKind::Promoted,
        _ if channel.starts_with("-failover-abort") => SignKind::Aborted,
        _ => return None,
    })
}

/// Host and port.
type Words<'a> = (&'a str, &'a str);

struct About<'a> {
    group: &'a str,
    master: Words<'a>,
    replica: Option<Words<'a>>,
}

/// Whom an event is about. Payloads have one of three forms:
/// `NAME OLD-IP OLD-PORT NEW-IP NEW-PORT` (`+switch-master`), `master NAME IP PORT ...`, and
/// `KIND ID IP PORT @ NAME IP PORT`, a kind of `slave` or `sentinel`.
fn about<'a>(channel: &str, payload: &'a str) -> Option<About<'a>> {
    let words: Vec<&str> = payload.split(' ').take(9).collect();
    let (group, master, replica) = match *words.as_slice() {
        [name, ip, port, new_ip, new_port] if channel == "+switch-master" => {
            (name, (ip, port), Some((new_ip, new_port)))
        }
        _ if channel == "+switch-master" => return None,
        ["master", name, ip, port, ..] => (name, (ip, port), None),
        ["slave", _, ip, port, "@", name, master_ip, master_port, ..] => {
            (name, (master_ip, master_port), Some((ip, port)))
        }
        ["sentinel", _, _, _, "@", name, ip, port, ..] => (name, (ip, port), None),
        _ => return None,
    };
    Some(About { group, master, replica })
}

fn written((host, port): Words<'_>) -> Option<Written> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty()).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_sorted_and_other_groups_are_not_heard() {
        for (channel, payload, expected) in [
            ("+switch-master", "cache 10.0.0.1 6379 10.0.0.2 6379", Some(Event::Switched)),
            ("+switch-master", "cache fd00::1 6379 redis-1.svc 6379", Some(Event::Switched)),
            ("+switch-master", "cache-2 10.0.0.1 6379 10.0.0.2 6379", None),
            ("+switch-master", "cach 10.0.0.1 6379 10.0.0.2 6379", None),
            ("+switch-master", "cache 10.0.0.1 6379", None),
            ("+sdown", "master cache 10.0.0.1 6379", Some(Event::Health)),
            ("-sdown", "master cache 10.0.0.1 6379", Some(Event::Health)),
            ("+odown", "master cache 10.0.0.1 6379 #quorum 2/2", Some(Event::Health)),
            ("+odown", "master cache-2 10.0.0.1 6379 #quorum 2/2", None),
            ("+sdown", "slave 10.0.0.2:6379 10.0.0.2 6379 @ cache 10.0.0.1 6379", Some(Event::Health)),
            ("+sdown", "sentinel abc 10.0.0.9 26379 @ cache-2 10.0.0.1 6379", None),
            // A group called "master" or "slave", and a replica whose id looks like our name.
            ("+sdown", "slave cache 10.0.0.2 6379 @ other 10.0.0.1 6379", None),
            ("+sdown", "master master 10.0.0.1 6379", None),
            ("+switch-master", "master cache 1 2 3", None),
            ("+try-failover", "master cache 10.0.0.1 6379", Some(Event::Failover)),
            ("+failover-state-select-slave", "master cache 10.0.0.1 6379", Some(Event::Failover)),
            ("-failover-abort-not-elected", "master cache 10.0.0.1 6379", Some(Event::Failover)),
            ("+promoted-slave", "slave a:1 a 1 @ cache 10.0.0.1 6379", Some(Event::Failover)),
            ("+sentinel", "sentinel abc 10.0.0.9 26379 @ cache 10.0.0.1 6379", Some(Event::Membership)),
            ("+slave", "slave a:1 a 1 @ cache 10.0.0.1 6379", Some(Event::Membership)),
            ("+reset-master", "master cache 10.0.0.1 6379", Some(Event::Membership)),
            ("+new-epoch", "12", None),
            ("+tilt", "#tilt mode entered", None),
            ("+vote-for-leader", "abcdef 12", None),
            ("", "", None),
            ("+sdown", "master cache", None),
        ] {
            let heard = Hearing::new("cache").hear(channel, payload).map(|(event, _)| event);
            assert_eq!(heard, expected, "{channel} {payload}");
        }
    }

    #[test]
    fn a_huge_payload_costs_nothing() {
        assert_eq!(Hearing::new("cache").hear("+sdown", &"a ".repeat(1 << 20)), None);
    }

    /// What Redis 7.0 publishes in a planned failover, the leader's own order.
    #[test]
    fn a_failover_has_the_epoch_that_was_announced_just_before_it() {
        let mut hearing = Hearing::new("cache");
        let (old, new) = ("cache 10.0.0.1 6379", "slave 10.0.0.2:6379 10.0.0.2 6379 @ cache 10.0.0.1 6379");
        let mut signs = Vec::new();
        for (channel, payload) in [
            ("+odown", format!("master {old} #quorum 2/2")),
            ("+new-epoch", "7".to_owned()),
            ("+try-failover", format!("master {old}")),
            ("+new-epoch", "8".to_owned()),
            ("+try-failover", "master other 10.0.1.1 6379".to_owned()),
            ("-odown", format!("master {old}")),
            ("+selected-slave", new.to_owned()),
            ("+failover-state-send-slaveof-noone", new.to_owned()),
            ("+promoted-slave", new.to_owned()),
            ("+failover-state-reconf-slaves", format!("master {old}")),
            ("+failover-end", format!("master {old}")),
            ("+switch-master", format!("{old} 10.0.0.2 6379")),
        ] {
            let Some((_, Some(signal))) = hearing.hear(channel, &payload) else { continue };
            assert_eq!(signal.master, ("10.0.0.1".to_owned(), 6379), "{channel}");
            signs.push((signal.kind, signal.epoch, signal.replica.map(|(host, _)| host)));
        }
        let replica = || Some("10.0.0.2".to_owned());
        let expected = [
            (SignKind::Stirring, None, None),
            (SignKind::Stirring, Some(7), None),
            (SignKind::Chosen, Some(7), replica()),
            (SignKind::Chosen, Some(7), replica()),
            (SignKind::Promoted, Some(7), replica()),
            (SignKind::Promoted, Some(7), None),
            (SignKind::Promoted, None, replica()),
        ];
        assert_eq!(signs, expected);
    }

    #[test]
    fn a_failover_whose_beginning_was_not_heard_has_no_epoch() {
        let mut hearing = Hearing::new("cache");
        let mut epoch = |channel, payload| hearing.hear(channel, payload).and_then(|heard| heard.1).map(|it| it.epoch);
        let chosen = "slave a 10.0.0.2 6379 @ cache 10.0.0.1 6379";
        assert_eq!(epoch("+selected-slave", chosen), Some(None));
        assert_eq!(epoch("+new-epoch", "9"), None);
        assert_eq!(epoch("+selected-slave", chosen), Some(None), "another group's, for all we know");
        assert_eq!(epoch("+try-failover", "master cache 10.0.0.1 6379"), Some(Some(9)));
        assert_eq!(epoch("-failover-abort-no-good-slave", "master cache 10.0.0.1 6379"), Some(Some(9)));
        assert_eq!(epoch("+selected-slave", chosen), Some(None), "that failover is over");
        assert_eq!(epoch("+new-epoch", "18446744073709551616"), None);
        assert_eq!(epoch("+try-failover", "master cache 10.0.0.1 6379"), Some(None));
        assert_eq!(epoch("+selected-slave", "slave a 10.0.0.2 0 @ cache 10.0.0.1 x"), None);
    }
}
