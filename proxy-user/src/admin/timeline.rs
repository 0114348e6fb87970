//! An event as a person reads it: what came of it on the first line, then each stage with its time after
//! the first sign, whose word it was, and the word.

use std::time::Duration;

use super::table::{aligned, loud};
use crate::events::{Event, Mark, Master, Outcome, Page};

/// Ends with a newline. Control characters from the wire never reach the terminal.
pub(super) fn event(event: &Event) -> String {
    let mut text = aligned(&[vec![head(event)]], 0);
    text.push_str(&aligned(&event.stages.iter().map(stage_row).collect::<Vec<_>>(), 2));
    text
}

/// What is going on now; a word if nothing ever happened.
pub(super) fn open(page: &Page) -> String {
    if page.events.is_empty() && page.open.is_empty() {
        return "no events yet\n".to_owned();
    }
    page.open.iter().map(event).collect()
}

fn head(event: &Event) -> String {
    let number = if event.seq == 0 { "now".to_owned() } else { format!("#{}", event.seq) };
    let took = event.stages.last().map_or(0, |last| last.offset_us);
    let outcome = match event.outcome {
        good @ (Outcome::Switched | Outcome::Opened | Outcome::Reopened | Outcome::Aborted) => good.word().to_owned(),
        other => loud(other.word(), ""),
    };
    let masters = match (&event.from, &event.to) {
        (None, None) => "no master".to_owned(),
        (Some(from), None) => format!("from {}", master(from)),
        (None, Some(to)) => format!("to {}", master(to)),
        (Some(from), Some(to)) if from == to => format!("at {}", master(to)),
        (Some(from), Some(to)) => format!("from {} to {}", master(from), master(to)),
    };
    let severed = if event.severed == 0 { String::new() } else { format!(", {} severed", event.severed) };
    format!(
        "{number}  {}  group {}: {outcome} in {} ms ({}), {masters}{severed}",
        event.at,
        event.group,
        milliseconds(took),
        event.cause
    )
}

fn master(master: &Master) -> String {
    format!("{} epoch {}", master.addr, master.epoch)
}

fn stage_row(mark: &Mark) -> Vec<String> {
    vec![
        format!("+ {:>10} ms", milliseconds(mark.offset_us)),
        mark.stage.word().replace('-', " "),
        mark.who.as_ref().map_or_else(String::new, |who| format!("by {who}")),
        mark.what.clone().unwrap_or_default(),
    ]
}

fn milliseconds(micros: u64) -> String {
    format!("{:.1}", Duration::from_micros(micros).as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Stage;

    #[test]
    fn golden() {
        let mark = |stage, offset_us, who: &str, what: &str| Mark {
            stage,
            offset_us,
            who: (!who.is_empty()).then(|| who.to_owned()),
            what: (!what.is_empty()).then(|| what.to_owned()),
        };
        let master = |last, epoch| Some(Master { addr: ([10, 0, 0, last], 6379).into(), epoch, id: None });
        let switched = Event {
            seq: 12,
            group: "mymaster".into(),
            cause: "failover".into(),
            outcome: Outcome::Switched,
            at: "2026-11-20T10:11:12.345678Z".into(),
            from: master(1, 7),
            to: master(2, 8),
            severed: 13,
            stages: vec![
                mark(Stage::FirstSign, 0, "10.0.0.10:26379", "+try-failover"),
                mark(Stage::Fenced, 63_240, "10.0.0.10:26379", "+selected-slave"),
                mark(Stage::Flip, 1_163_240, "", "to 10.0.0.2:6379\u{1b}[2J"),
                mark(Stage::FirstConnection, 1_163_900, "writes", ""),
            ],
        };
        let expected = "\
#12  2026-11-20T10:11:12.345678Z  group mymaster: switched in 1163.9 ms (failover), \
from 10.0.0.1:6379 epoch 7 to 10.0.0.2:6379 epoch 8, 13 severed
  +        0.0 ms  first sign        by 10.0.0.10:26379  +try-failover
  +       63.2 ms  fenced            by 10.0.0.10:26379  +selected-slave
  +     1163.2 ms  flip                                  to 10.0.0.2:6379?[2J
  +     1163.9 ms  first connection  by writes
";
        assert_eq!(event(&switched), expected);
        let ongoing = Event { seq: 0, outcome: Outcome::Ongoing, to: None, severed: 0, stages: Vec::new(), ..switched };
        let page = Page { open: vec![ongoing], ..Page::default() };
        assert_eq!(
            open(&page),
            "now  2026-11-20T10:11:12.345678Z  group mymaster: ONGOING in 0.0 ms (failover), from 10.0.0.1:6379 epoch 7\n"
        );
        assert_eq!(open(&Page::default()), "no events yet\n");
    }
}
