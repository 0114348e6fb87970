//! switchmaster: one address in front of Redis or Valkey; clients reach the current master.
//!
//! Data flows left to right and never back:
//! `discovery` (asks Sentinels and nodes) -> `election` (pure) -> `switch` (writes the targets)
//! -> `listener` and `datapath` (move bytes), `nat` (has the kernel move packets).
//! `admin`, `events`, `metrics` and `doctor` look on.
//! Discovery knows no datapath; a datapath knows no Sentinel; only `daemon` sees everything.

pub mod admin;
pub mod cli;
mod clock;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod discovery;
pub mod doctor;
pub mod election;
pub mod events;
pub mod kernel;
pub mod listener;
pub mod log;
pub mod metrics;
pub mod nat;
pub mod purge;
mod socket;
pub mod switch;
pub mod target;
mod urgent;
