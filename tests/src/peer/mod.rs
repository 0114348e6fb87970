//! What people put in front of Redis today, to compare with. Each is a plain forwarder to one server,
//! runs in `proxy`, is known to carry a connection when it is handed out, and is gone when it is dropped.

mod haproxy;
mod nftables;
mod nginx;
mod twemproxy;

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

pub use self::{
    haproxy::{HaProxy, Style},
    nftables::Nat,
    nginx::Nginx,
    twemproxy::Twemproxy,
};
use crate::{
    Client,
    netns::{Namespace, World},
    process::{Process, tail},
    wait,
};

const START: Duration = Duration::from_secs(10);

/// The folder of a peer that listens on this port.
fn directory(world: &World, name: &str, port: u16) -> Result<PathBuf> {
    let directory = world.directory().join(format!("{name}-{port}"));
    fs::create_dir_all(&directory).with_context(|| format!("the folder of {name}"))?;
    Ok(directory)
}

/// Waits until a connection from `namespace` through `listen` reaches a server.
fn wait_serving(namespace: &Namespace, listen: SocketAddr, name: &str) -> Result<()> {
    wait::until(START, format_args!("{name} to serve"), || {
        let mut client = Client::connect_within(namespace, listen, Duration::from_secs(1))?;
        client.send(&redis::cmd("PING"))?;
        // A server that wants a password first has been reached all the same.
        match client.receive()? {
            redis::Value::Nil => bail!("no answer"),
            _ => Ok(()),
        }
    })
}

/// The same for a peer that is a program: one that has ended will not serve any more.
fn wait_program(process: &mut Process, namespace: &Namespace, listen: SocketAddr) -> Result<()> {
    let name = process.name().to_owned();
    wait::until(START, format_args!("{name} to listen"), || {
        ensure!(process.ended()?.is_none(), "it has ended");
        namespace.connect(listen, Duration::from_secs(1)).map(drop)
    })
    .and_then(|()| wait_serving(namespace, listen, &name))
    .with_context(|| tail(&process.log()))
}
