//! Twemproxy (Debian calls it nutcracker) with one server: it speaks Redis itself, puts all clients'
//! requests on one connection, and refuses publish/subscribe.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};

use super::{directory, wait_program};
use crate::{netns::World, process::Process};

#[derive(Debug)]
pub struct Twemproxy {
    process: Process,
}

impl Twemproxy {
    pub fn plain(world: &World, listen: SocketAddr, server: SocketAddr) -> Result<Self> {
        let directory = directory(world, "twemproxy", listen.port())?;
        let file = directory.join("nutcracker.yml");
        let text = format!(
            "pool:\n  listen: {listen}\n  redis: true\n  backlog: 4096\n  preconnect: true\n  servers:\n   - {server}:1\n"
        );
        fs::write(&file, text).context("nutcracker.yml")?;
        let mut command = world.proxy()?.command("nutcracker");
        // Its statistics have a port of their own, which must be no route's.
        let statistics = listen.port().checked_add(10_000).context("no port for Twemproxy's statistics")?;
        command.arg("-c").arg(&file).args(["-a", "127.0.0.1", "-s", &statistics.to_string()]);
        let mut process = Process::start("nutcracker", command, directory.join("log"))?;
        wait_program(&mut process, world.proxy()?, listen)?;
        Ok(Self { process })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}
