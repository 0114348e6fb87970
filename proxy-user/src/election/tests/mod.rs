//! The election, table by table. `script` is the small language that the tables are written in;
//! `rules` has the rules, `peers` what peers got wrong, `walk` a model and random worlds against it,
//! `healing` what heals any of them, `orders` every order of the events of one failover.

mod announced;
mod arming;
mod early;
pub(crate) mod healing;
mod inherited;
mod model;
mod nodes;
pub(crate) mod orders;
mod peers;
mod replicas;
mod rules;
pub(crate) mod script;
pub(crate) mod walk;
