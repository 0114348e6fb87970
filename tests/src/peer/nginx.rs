//! nginx as a forwarder of TCP connections: Debian's package with its stream module.

use std::{fs, net::SocketAddr};

use anyhow::{Context as _, Result};

use super::{directory, wait_program};
use crate::{netns::World, process::Process};

/// Where Debian's libnginx-mod-stream has it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

#[derive(Debug)]
pub struct Nginx {
    process: Process,
}

impl Nginx {
    /// To one server, with two workers.
    pub fn plain(world: &World, listen: SocketAddr, server: SocketAddr) -> Result<Self> {
        let directory = directory(world, "nginx", listen.port())?;
        let file = directory.join("nginx.conf");
        let text = format!(
            "load_module {MODULE};\nuser root;\ndaemon off;\nworker_processes 2;\nworker_rlimit_nofile 20000;\n\
             pid {0}/pid;\nerror_log {0}/log warn;\nevents {{ worker_connections 8192; }}\n\
             stream {{ server {{ listen {listen} backlog=4096; proxy_pass {server};\n \
             proxy_connect_timeout 3s; proxy_timeout 7d; }} }}\n",
            directory.display()
        );
        fs::write(&file, text).context("nginx.conf")?;
        // Workers whose master is killed live on. They do not if it was the first process of a PID namespace.
        let mut command = world.proxy()?.command("unshare");
        command.args(["--fork", "--pid", "--kill-child=SIGKILL", "nginx"]);
        command.arg("-p").arg(&directory).arg("-c").arg(&file).arg("-e").arg(directory.join("log"));
        let mut process = Process::start("nginx", command, directory.join("log"))?;
        wait_program(&mut process, world.proxy()?, listen)?;
        Ok(Self { process })
    }

    /// What started the master, which started the workers.
    pub fn process(&self) -> &Process {
        &self.process
    }
}
