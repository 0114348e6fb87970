//! Clients as people have them, unmodified, on the daemon's host: what they hear of each other through the route to the master.

use anyhow::{Result, ensure};
use redis::ConnectionLike as _;
use switchmaster_tests::Lab;

/// By the redis crate, redis-cli and redis-py, with time limits and without, one after the other.
pub(crate) fn each_works(lab: &Lab) -> Result<()> {
    redis_crate(lab)?;
    redis_cli(lab)?;
    redis_py(lab, "")?;
    redis_py(lab, "socket_timeout=5")
}

/// Two connections.
pub(crate) fn redis_crate(lab: &Lab) -> Result<()> {
    let to = lab.writes_address()?;
    let heard = lab.world.proxy()?.enter(|| -> Result<String> {
        let client = redis::Client::open(format!("redis://{to}/"))?;
        let (mut publisher, mut subscriber) = (client.get_connection()?, client.get_connection()?);
        let mut channel = subscriber.as_pubsub();
        channel.subscribe("news")?;
        ensure!(publisher.req_command(redis::cmd("PUBLISH").arg("news").arg("hello"))? == redis::Value::Int(1));
        Ok(channel.get_message()?.get_payload()?)
    })??;
    ensure!(heard == "hello", "{heard}");
    Ok(())
}

/// One connection.
pub(crate) fn redis_cli(lab: &Lab) -> Result<()> {
    let to = lab.writes_address()?;
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let said = lab.world.proxy()?.run("redis-cli", &["-h", &host, "-p", &port, "role"])?;
    ensure!(said.starts_with("master"), "{said}");
    Ok(())
}

/// Two connections, with these options.
pub(crate) fn redis_py(lab: &Lab, options: &str) -> Result<()> {
    let to = lab.writes_address()?;
    let script = format!(
        "import redis\n\
         r = redis.Redis('{}', {}, {options})\n\
         p = r.pubsub()\n\
         p.subscribe('news')\n\
         assert p.get_message(timeout=5)['type'] == 'subscribe'\n\
         assert r.publish('news', 'hello') == 1\n\
         print(p.get_message(timeout=5)['data'].decode(), r.set('key', 'v' * 100000), len(r.get('key')))\n",
        to.ip(),
        to.port()
    );
    let said = lab.world.proxy()?.run("/usr/bin/python3", &["-c", &script])?;
    ensure!(said.trim() == "hello True 100000", "{said}");
    Ok(())
}
