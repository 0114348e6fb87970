//! How each interface does in the self-test of xdp, without a program's being attached to any: some drivers say no only then.

use super::datapaths::Interfaces;
use crate::nat::{
    egress::Host,
    native::{Facts, Families, survey},
};

pub(super) fn look() -> Interfaces {
    let host = Host::read().map_err(|error| error.to_string())?;
    let facts = survey(&host).map_err(|error| error.to_string())?;
    Ok(facts.iter().map(|facts| (facts.interface.name.clone(), judge(facts))).collect())
}

/// One family is enough: which of them a route needs its configuration says.
fn judge(facts: &Facts) -> Result<(), String> {
    let v4 = facts.fit(Families { v4: true, v6: false });
    v4.or_else(|unfit| facts.fit(Families { v4: false, v6: true }).map_err(|_same| unfit.to_string()))
}
