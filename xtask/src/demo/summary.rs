//! The measured figures of all rounds: medians, and the whole range where there was more than one.

use anyhow::Result;

use super::{Blow, pulse::ms, round::Round, screen::Screen, stage::Stage};
use crate::series::quantile;

pub(super) fn print(rounds: &[Round], blow: Blow, stage: &Stage, screen: &mut Screen) -> Result<()> {
    let status = stage.lab.daemon.status()?;
    let route = status.route("writes")?;
    screen.say(format!("=== {} x {}, datapath {}", rounds.len(), blow.words(), route.datapath));
    let mut figure = |name: &str, unit: &str, value: &dyn Fn(&Round) -> f64| {
        let digits = usize::from(!unit.is_empty());
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        if let (Some(low), Some(median), Some(high)) = (values.first(), quantile(&values, 0.5), values.last()) {
            let range = if values.len() > 1 { format!(" ({low:.digits$} to {high:.digits$})") } else { String::new() };
            screen.say(format!("  {name:<58} {median:>9.digits$} {unit}{range}"));
        }
    };
    figure("last good write to first good write", "ms", &|round| ms(round.gap));
    figure("majority of the Sentinels to first good write", "ms", &|round| round.after_majority_ms);
    figure("acknowledged writes that the new master lacks", "", &|round| round.lost as f64);
    figure("acknowledged writes in the round", "", &|round| round.acked as f64);
    figure("connections that the daemon reset at the switch", "", &|round| round.resets as f64);
    figure("outages that the writer saw", "", &|round| round.outages as f64);
    figure("the daemon's CPU", "% of one core", &|round| round.cpu.as_secs_f64() / round.lasted.as_secs_f64() * 100.0);
    if blow == Blow::Kill {
        screen.say("  A killed master takes with it what it acknowledged and had not replicated; no proxy can bring that back.");
        if rounds.iter().all(|round| round.resets == 0) {
            screen.say("  Its connections ended with it, so the daemon had none left to reset.");
        }
    } else {
        screen.say("  The daemon stops the old master before the roles change, so that it acknowledges nothing that its successor");
        screen.say("  does not have, and lets the writer go on when the majority names that one.");
    }
    Ok(())
}
