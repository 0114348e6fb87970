//! What happened to a group, stage by stage: first sign, fence, majority, flip, resets. A [`Timeline`]
//! takes marks as they happen and makes an [`Event`] of them; the [`Log`] keeps events, in memory and
//! on disk, and tells followers. Promises: bounded, and nothing here ever waits or holds a switch up.

mod disk;
mod log;
mod record;
mod recording;
#[cfg(test)]
mod tests;
mod timeline;
mod witness;

pub use self::{
    disk::{OpenError, Writer},
    log::{Log, MOST_EVENTS, Page, Tally},
    record::{Event, Mark, Master, Outcome, Stage},
    recording::Aftermath,
    timeline::{Change, Timeline},
};
