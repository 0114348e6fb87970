//! The switch, moment by moment, from the blow on.

use std::time::Instant;

use super::{Blow, pulse::ms, round::Round, screen::Screen};

pub(super) fn print(round: &Round, screen: &mut Screen) {
    let blow = match round.blow {
        Blow::Kill => format!("SIGKILL to {}", round.old),
        Blow::Planned => format!("SENTINEL FAILOVER ordered, the master is {}", round.old),
    };
    screen.say("  the switch, in ms");
    let (before, after): (Vec<_>, Vec<_>) = round.marks.iter().partition(|(at, _)| *at < round.at);
    for (at, what) in before {
        screen.say(line(round.at, *at, what));
    }
    screen.say(line(round.at, round.at, &blow));
    for (at, what) in after {
        screen.say(line(round.at, *at, what));
    }
    screen.say("");
}

fn line(zero: Instant, at: Instant, what: &str) -> String {
    let offset = match at.checked_duration_since(zero) {
        Some(after) => ms(after),
        None => -ms(zero.duration_since(at)),
    };
    format!("  {offset:>9.1}  {what}")
}
