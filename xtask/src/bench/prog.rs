//! `cargo xtask bench prog`: what a packet program costs by itself, without a network: the kernel runs it over
//! a prepared packet again and again (BPF_PROG_TEST_RUN) and says how long a run took, beside a program that
//! only says where the packet goes.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use crate::need_root;

#[derive(Debug, Args)]
pub(crate) struct Arguments {}

pub(super) fn run(_arguments: &Arguments) -> Result<ExitCode> {
    need_root("running kernel programs")?;
    bail!("not in this build: the packet programs (datapaths tc and xdp)");
}
