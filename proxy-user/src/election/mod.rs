//! Who is master, decided from what Sentinels and nodes say. Pure: a function of (state,
//! observation, time), so that every rule is a table test. Promises: never two targets, never a
//! lower epoch, never a target that did not itself say master, never open without a majority.
//! Never does I/O, and never reads a clock.

mod observation;
mod verdict;

pub use self::{
    observation::{Failure, NodeReport, Observation, ReplicaLink, Role, SentinelView},
    verdict::{Reason, Replica, Target, Verdict, Way},
};
