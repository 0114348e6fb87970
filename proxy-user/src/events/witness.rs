//! Reads in discovery's observations who said what about a change of master. Pure; decides nothing: the
//! election does that from the same observations, and may be of another opinion.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

use super::record::Stage;
use crate::{
    discovery::{role_word, word},
    election::{NodeReport, Observation, SentinelView, Sign, SignKind, Target, canonical},
};

/// Something worth a mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Testimony {
    pub(super) stage: Stage,
    pub(super) who: SocketAddr,
    pub(super) what: String,
    /// What an event is called that begins with it; None: it begins none.
    pub(super) cause: Option<&'static str>,
    /// It is about the master that is followed already, and belongs to the switch that led there.
    pub(super) late: bool,
}

#[derive(Debug, Default)]
pub(super) struct Witness {
    known: BTreeSet<SocketAddr>,
    views: BTreeMap<SocketAddr, SentinelView>,
    /// What each node last said it is.
    roles: BTreeMap<SocketAddr, &'static str>,
}

impl Witness {
    /// Takes one observation in; `master` is who was last followed.
    pub(super) fn saw(&mut self, observation: &Observation, master: Option<&Target>) -> Vec<Testimony> {
        match observation {
            Observation::Sentinels(known) => {
                self.known = known.iter().copied().map(canonical).collect();
                self.views.retain(|addr, _| self.known.contains(addr));
            }
            Observation::SentinelLost(from, _) => drop(self.views.remove(&canonical(*from))),
            Observation::Nodes(known) => {
                let known: BTreeSet<_> = known.iter().copied().map(canonical).collect();
                self.roles.retain(|addr, _| known.contains(addr));
            }
            Observation::View(from, view) if self.known.contains(&canonical(*from)) => {
                let view = SentinelView { master: canonical(view.master), ..view.clone() };
                return self.view(canonical(*from), &view, master);
            }
            Observation::Sign(from, sign) if self.known.contains(&canonical(*from)) => {
                return announced(canonical(*from), sign, master);
            }
            // Whoever is none of the group's Sentinels has no word in this.
            Observation::View(..) | Observation::Sign(..) => {}
            Observation::Node(from, report) => {
                return self.node(canonical(*from), report, master).into_iter().collect();
            }
            Observation::NodeLost(..) => {}
        }
        Vec::new()
    }

    fn view(&mut self, from: SocketAddr, view: &SentinelView, master: Option<&Target>) -> Vec<Testimony> {
        let before = self.views.insert(from, view.clone());
        let mut heard = Vec::new();
        let news = |stage, what, cause| Testimony { stage, who: from, what, cause, late: false };
        let was_down = before.as_ref().is_some_and(|before| before.master_down);
        let of_ours = master.is_some_and(|master| master.addr == view.master);
        if of_ours && view.master_down && !was_down {
            heard.push(news(Stage::FirstSign, "thinks the master down".to_owned(), Some("failover")));
        }
        let renamed = before.is_none_or(|before| (before.master, before.epoch) != (view.master, view.epoch));
        if !renamed {
            return heard;
        }
        let newer = master.is_none_or(|master| view.epoch > master.epoch);
        if master.is_some() && newer {
            let what = format!("names {} in epoch {}", view.master, view.epoch);
            heard.push(news(Stage::FirstSign, what.clone(), Some("failover")));
            heard.push(news(Stage::Said, what, None));
        }
        let agree = self.views.values().filter(|it| (it.master, it.epoch) == (view.master, view.epoch)).count();
        let late = master.is_some_and(|master| (master.addr, master.epoch) == (view.master, view.epoch));
        // The vote that makes it one; later votes add nothing.
        if (newer || late) && agree == self.known.len() / 2 + 1 {
            let what = format!("{agree} of {} name {} in epoch {}", self.known.len(), view.master, view.epoch);
            heard.push(Testimony { late, ..news(Stage::Majority, what, None) });
        }
        heard
    }

    fn node(&mut self, from: SocketAddr, report: &NodeReport, master: Option<&Target>) -> Option<Testimony> {
        let role = role_word(&report.role);
        let before = self.roles.insert(from, role)?;
        let of_ours = master?.addr == from;
        // A node that was loading had no role yet; a deposed master that turns replica is no news.
        let cause = match (of_ours, before, role) {
            (true, "master", "replica" | "loading") => "role-lost",
            (false, "replica", "master") => "failover",
            _ => return None,
        };
        let what = format!("says {role}, said {before}");
        Some(Testimony { stage: Stage::RoleChange, who: from, what, cause: Some(cause), late: false })
    }
}

/// What a Sentinel published of the master that is followed; of another one it is old news.
fn announced(from: SocketAddr, sign: &Sign, master: Option<&Target>) -> Vec<Testimony> {
    if master.is_none_or(|master| master.addr != canonical(sign.master)) {
        return Vec::new();
    }
    // That a failover was given up concerns only an event that has begun.
    let cause = (sign.kind != SignKind::Aborted).then_some("failover");
    let said = Testimony { stage: Stage::Said, who: from, what: published(sign), cause, late: false };
    match cause {
        Some(_) => vec![Testimony { stage: Stage::FirstSign, ..said.clone() }, said],
        None => vec![said],
    }
}

/// As the Sentinel puts it.
fn published(sign: &Sign) -> String {
    let mut what = sign.channel.to_owned();
    if let Some(replica) = sign.replica {
        let _infallible = write!(what, " {replica}");
    }
    if let Some(epoch) = sign.epoch {
        let _infallible = write!(what, " epoch {epoch}");
    }
    what
}

/// Whose word an observation is, and which.
pub(super) fn source(observation: &Observation) -> Option<(SocketAddr, String)> {
    Some(match observation {
        Observation::View(from, view) => (*from, format!("names {} in epoch {}", view.master, view.epoch)),
        Observation::Sign(from, sign) => (*from, published(sign)),
        Observation::Node(from, report) => (*from, format!("says {}", role_word(&report.role))),
        Observation::SentinelLost(from, failure) | Observation::NodeLost(from, failure) => {
            (*from, word(*failure).to_owned())
        }
        Observation::Sentinels(_) | Observation::Nodes(_) => return None,
    })
}
