//! A retransmission may begin with bytes that have arrived already: TCP merges small segments that it
//! sends again (tcp_retrans_try_collapse), and the receiver skips what it knows. sockmap hands the
//! program the whole segment.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::wait;

use crate::{
    on_each_datapath,
    order::echo,
    pattern::Pattern,
    stage::{self, Stage},
};

on_each_datapath!(a_retransmission_that_begins_with_old_bytes);
on_each_datapath!(an_end_that_comes_with_old_bytes_only);

const PIECE: usize = 64;
/// Long enough for a few retransmission time-outs (200 ms and twice as much each time).
const TIMEOUTS: Duration = Duration::from_millis(1500);

fn a_retransmission_that_begins_with_old_bytes(datapath: &str) {
    after_a_loss(datapath, |stream, pattern| (0..3).try_for_each(|_| send(stream, pattern, PIECE)));
}

fn an_end_that_comes_with_old_bytes_only(datapath: &str) {
    after_a_loss(datapath, |stream, _| stream.shutdown(Shutdown::Write).context("finish"));
}

/// A piece arrives whose acknowledgement does not; what `lost` sends after it does not arrive, and comes again with it.
fn after_a_loss(datapath: &str, lost: impl Fn(&mut TcpStream, &mut Pattern) -> Result<()>) {
    stage::check(Stage::new(datapath, echo), |stage| {
        let (client, proxy) = (stage.world.client()?, stage.world.proxy()?);
        for number in 0..4 {
            let mut stream = stage.connect_as(number)?;
            let mut pattern = Pattern::new(number as u64 + 1);
            send(&mut stream, &mut pattern, PIECE)?;
            stream.read_exact(&mut [0; PIECE]).context("the first piece comes back")?;
            client.ignore(proxy)?;
            send(&mut stream, &mut pattern, PIECE)?;
            wait::pause(Duration::from_millis(50));
            proxy.ignore(client)?;
            lost(&mut stream, &mut pattern)?;
            wait::pause(Duration::from_millis(50));
            proxy.listen_to(client)?;
            wait::pause(TIMEOUTS);
            client.listen_to(proxy)?;
            // Refused where that was what had been lost, and has been heard.
            let _finished_already = stream.shutdown(Shutdown::Write);
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).context("read to the end")?;
            let mut expected = Pattern::new(number as u64 + 1);
            expected.at = PIECE as u64;
            expected.check(&rest)?;
            ensure!(expected.at == pattern.at, "{} bytes came back, {} were sent", expected.at, pattern.at);
        }
        Ok(())
    });
}

fn send(stream: &mut TcpStream, pattern: &mut Pattern, len: usize) -> Result<()> {
    stream.write_all(pattern.peek(len)).context("send")?;
    pattern.at += len as u64;
    Ok(())
}
