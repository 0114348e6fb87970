//! The election, table by table. `script` is the small language that the tables are written in;
//! `rules` has the rules, `peers` what peers got wrong, `walk` a model and random worlds against it.

mod announced;
mod arming;
mod model;
mod nodes;
mod peers;
mod replicas;
mod rules;
mod script;
mod walk;
