//! From wherever a world stands it heals, as far as rule 3 lets it: what is said when all is well, at epochs that grew, that
//! stayed, and that were forgotten.

use super::walk::{SENTINELS, Step, World, server};
use crate::election::{Reason, Way};

impl World {
    /// From wherever it stands: once all agree and the node agrees too, the way opens. A failover makes epochs grow;
    /// Sentinels that only find together again have the epochs they had, and no decision is above the highest of them.
    pub(super) fn heals(&self, master: u8) -> Result<(), String> {
        for epoch in self.epochs()? {
            let mut world = self.clone();
            world.play(&cure(master, epoch))?;
            world.is_well(master).map_err(|broken| format!("all at epoch {epoch}: {broken}"))?;
        }
        self.keeps_its_floor(master)
    }

    /// The highest epoch that was decided, or is spoken of now, and the next one.
    pub(crate) fn epochs(&self) -> Result<[u8; 2], String> {
        let highest = u8::try_from(self.model.floor()).map_err(|_| "epochs ran away")?;
        Ok([highest, highest + 1])
    }

    /// Rule 3: Sentinels that all speak of a lower epoch than was decided may keep the master in force, but nobody is
    /// followed on their word, however healthy the world; and a failover heals it.
    fn keeps_its_floor(&self, master: u8) -> Result<(), String> {
        let Some(below) = self.model.decided().checked_sub(1) else { return Ok(()) };
        let mut world = self.clone();
        world.play(&CALM)?;
        world.play(&reports(master))?;
        let before = world.election.verdict().master.clone();
        world.play(&views(master, below as u8))?;
        world.play(&reports(master))?;
        let after = world.election.verdict();
        let lawful = match before {
            Some(_) => (after.way, &after.master) == (Way::Open, &before),
            None => (after.way, after.reason) == (Way::Closed, Reason::StaleEpoch),
        };
        if !lawful {
            return Err(format!("below the epoch that was decided {before:?} became {after:?}"));
        }
        let [_, next] = world.epochs()?;
        world.play(&views(master, next))?;
        world.play(&reports(master))?;
        world.is_well(master)
    }

    fn play(&mut self, steps: &[Step]) -> Result<(), String> {
        steps.iter().try_for_each(|step| self.step(step).map_err(|broken| format!("{broken}, at the cure's {step:?}")))
    }

    pub(crate) fn is_well(&self, master: u8) -> Result<(), String> {
        let verdict = self.election.verdict();
        let target = verdict.master.as_ref().map(|target| target.addr);
        if (verdict.way, target) != (Way::Open, Some(server(master))) {
            return Err(format!("a healthy world does not open: {verdict:?}"));
        }
        match verdict.replicas.iter().filter(|replica| replica.sound && replica.keep).count() {
            3 => Ok(()),
            sound => Err(format!("{sound} of 3 healthy replicas are sound")),
        }
    }
}

/// What makes the world healthy, its Sentinels being at this epoch.
pub(crate) fn cure(master: u8, epoch: u8) -> Vec<Step> {
    [&CALM, &views(master, epoch)[..], &reports(master)].concat()
}

/// Everybody is known, and a pause or a credit that goes on ends by time.
const CALM: [Step; 4] = [Step::Sentinels(0b11111), Step::Nodes(0b1111), Step::Wait(30_000), Step::Wait(30_000)];

fn views(master: u8, epoch: u8) -> Vec<Step> {
    (0..SENTINELS).map(|from| Step::View(from, master, epoch, false)).collect()
}

/// As often as any node has to say it to be believed.
fn reports(master: u8) -> Vec<Step> {
    (0..16).map(|nth| Step::Node(nth % 4, if nth % 4 == master % 4 { 0 } else { 4 }, 7)).collect()
}
