//! The report as a person reads it: what works first, then what was looked at, remedies below.

use std::fmt;

use super::{Report, State, Verdict};

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Datapaths")?;
        for it in &self.datapaths {
            line(f, word(it.verdict), it.name, &it.reason, &it.remedy)?;
        }
        writeln!(f, "\nThis machine")?;
        for it in &self.checks {
            let mark = match it.state {
                State::Ok => "ok",
                State::Warn => "warn",
                State::No => "no",
                State::Unknown => "?",
            };
            line(f, mark, it.name, &it.found, &it.remedy)?;
        }
        Ok(())
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Yes => "yes",
        Verdict::MissingPrivilege | Verdict::No => "no",
    }
}

fn line(f: &mut fmt::Formatter<'_>, mark: &str, name: &str, found: &str, remedy: &str) -> fmt::Result {
    writeln!(f, "  {mark:<5} {name:<22} {found}")?;
    if remedy.is_empty() { Ok(()) } else { writeln!(f, "{:31}remedy: {remedy}", "") }
}
