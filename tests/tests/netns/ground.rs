//! The traffic suite's ground: a world whose namespaces reach each other, in which bytes pass unchanged.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, World};

const LIMIT: Duration = Duration::from_secs(2);

fn listen(namespace: &Namespace, at: SocketAddr) -> Result<TcpListener> {
    namespace.enter(|| TcpListener::bind(at))?.context("bind")
}

fn echo(mut stream: TcpStream) -> Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

fn exchange(world: &World, at: SocketAddr) -> Result<()> {
    let listener = listen(world.db()?, at)?;
    let server = thread::spawn(move || echo(listener.accept()?.0));
    let mut stream = world.client()?.connect(at, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello")?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply)?;
    ensure!(reply == b"hello", "got {reply:?}");
    server.join().ok().context("the server panicked")?
}

#[test]
fn echo_across_the_router_over_ipv4_and_ipv6() -> Result<()> {
    let world = World::new()?;
    exchange(&world, world.db()?.address(7000))?;
    exchange(&world, world.db()?.address6(7000))
}

#[test]
fn a_cut_is_silent_and_heals() -> Result<()> {
    let world = World::new()?;
    let (client, db, proxy) = (world.client()?, world.db()?, world.proxy()?);
    let _listener = listen(db, db.address(7000))?;
    client.cut(db)?;
    let error = client.connect(db.address(7000), Duration::from_millis(300)).err().context("the cut leaks")?;
    let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    ensure!(kind == Some(std::io::ErrorKind::TimedOut), "a cut should be silence, not {error:#}");
    proxy.connect(db.address(7000), LIMIT).context("proxy is not cut off")?;
    client.heal(db)?;
    client.connect(db.address(7000), LIMIT).context("healed")?;
    Ok(())
}

#[test]
fn a_world_leaves_nothing_behind() -> Result<()> {
    let world = World::new()?;
    let (name, directory) = (world.name().to_owned(), world.directory().to_owned());
    drop(world);
    ensure!(!directory.exists(), "{} is still there", directory.display());
    for entry in std::fs::read_dir("/run/netns")? {
        let entry = entry?.file_name();
        ensure!(!entry.to_string_lossy().starts_with(&format!("{name}-")), "{} is still there", entry.display());
    }
    let mounts = std::fs::read_to_string("/proc/mounts")?;
    ensure!(!mounts.contains(&directory.display().to_string()), "a mount is still there");
    Ok(())
}

#[test]
fn programs_see_the_names_of_the_world() -> Result<()> {
    let world = World::new()?;
    let found = world.client()?.run("getent", &["ahosts", "db"])?;
    ensure!(found.contains(&world.db()?.ipv4().to_string()), "{found}");
    world.set_host("db", world.proxy()?.ipv4())?;
    let found = world.client()?.run("getent", &["ahosts", "db"])?;
    ensure!(found.contains(&world.proxy()?.ipv4().to_string()), "{found}");
    Ok(())
}
