//! Reads in discovery's observations who said what about a change of master. Pure; decides nothing: the
//! election does that from the same observations, and may be of another opinion.

use std::{collections::BTreeMap, net::SocketAddr};

use super::record::Stage;
use crate::{
    discovery::role_word,
    election::{NodeReport, Observation, SentinelView, Target},
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
    known: usize,
    views: BTreeMap<SocketAddr, SentinelView>,
    /// What each node last said it is.
    roles: BTreeMap<SocketAddr, &'static str>,
}

impl Witness {
    /// Takes one observation in; `master` is who was last followed.
    pub(super) fn saw(&mut self, observation: &Observation, master: Option<&Target>) -> Vec<Testimony> {
        match observation {
            Observation::Sentinels(known) => {
                self.known = known.len();
                self.views.retain(|addr, _| known.contains(addr));
            }
            Observation::SentinelLost(from, _) => drop(self.views.remove(from)),
            Observation::Nodes(known) => self.roles.retain(|addr, _| known.contains(addr)),
            Observation::View(from, view) => return self.view(*from, view, master),
            Observation::Node(from, report) => return self.node(*from, report, master).into_iter().collect(),
            Observation::NodeLost(..) | Observation::Sign(..) => {}
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
        if (newer || late) && agree == self.known / 2 + 1 {
            let what = format!("{agree} of {} name {} in epoch {}", self.known, view.master, view.epoch);
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
