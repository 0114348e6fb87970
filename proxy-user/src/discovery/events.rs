//! What Sentinels publish, sorted by what it means for one group. Pure. Names are compared whole, so
//! `cache` never hears of `cache-2`. An event is only ever a reason to ask: it decides nothing.

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

/// Channels to ask for one by one where the ACL forbids the pattern `*`.
pub(super) const CHANNELS: [&str; 26] = [
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

/// The event in `payload`, if it is about `group`.
pub(super) fn parse(channel: &str, payload: &str, group: &str) -> Option<Event> {
    if group_of(channel, payload)? != group {
        return None;
    }
    let event = match channel {
        "+switch-master" | "+config-update-from" => Event::Switched,
        "+sdown" | "-sdown" | "+odown" | "-odown" => Event::Health,
        "+try-failover" | "+elected-leader" | "+selected-slave" | "+promoted-slave" => Event::Failover,
        _ if channel.contains("failover") => Event::Failover,
        _ => Event::Membership,
    };
    Some(event)
}

/// The master name an event is about. Payloads have one of three forms:
/// `NAME OLD-IP OLD-PORT NEW-IP NEW-PORT` (`+switch-master`), `master NAME IP PORT ...`, and
/// `KIND ID IP PORT @ NAME IP PORT`, a kind of `slave` or `sentinel`.
fn group_of<'a>(channel: &str, payload: &'a str) -> Option<&'a str> {
    let words: Vec<&str> = payload.split(' ').take(9).collect();
    match words.as_slice() {
        [name, _, _, _, _] if channel == "+switch-master" => Some(name),
        _ if channel == "+switch-master" => None,
        ["master", name, _, _, ..] => Some(name),
        ["slave" | "sentinel", _, _, _, "@", name, _, _, ..] => Some(name),
        _ => None,
    }
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
            assert_eq!(parse(channel, payload, "cache"), expected, "{channel} {payload}");
        }
    }

    #[test]
    fn a_huge_payload_costs_nothing() {
        assert_eq!(parse("+sdown", &"a ".repeat(1 << 20), "cache"), None);
    }
}
