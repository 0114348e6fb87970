//! One Sentinel: a connection that polls it and a connection that listens to it, each repaired on its
//! own. Events only ever lead to a poll: they carry no config-epoch, and none is made up.
//! Needs +sentinel and +ping; +psubscribe or +subscribe makes it quick.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _};
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{
    Ground,
    backoff::{Backoff, jittered},
    dial::{Peer, refusal},
    events::{self, Hearing, Signal},
    fault::Fault,
    meter::Allowance,
    pace::Pace,
    reply::Written,
    report::{Outlet, What},
    rhythm::{GAP, GAP_AFTER_FAILURE, Rhythm},
    sentinel_poll::Asker,
};
use crate::election::{Failure, Sign};

/// Every so many polls the other Sentinels and the replicas are asked for too, event or not.
const DEEP_EVERY: u32 = 3;
/// The same in a hurry, when polls are many.
const DEEP_EVERY_IN_A_HURRY: u32 = 30;
/// A subscription that is silent this long is tested.
const SILENCE: Duration = Duration::from_secs(2);

/// What looking a name up may hold a sign up.
const LOOKUP: Duration = Duration::from_millis(20);

/// Runs until it is dropped.
pub(super) async fn run(ground: Arc<Ground>, peer: Peer, rhythm: Rhythm, outlet: Outlet) {
    let nudge = Arc::clone(rhythm.nudge());
    tokio::join!(poll_forever(&ground, &peer, rhythm, &outlet), listen_forever(&ground, &peer, &nudge, &outlet));
}

async fn poll_forever(ground: &Ground, peer: &Peer, mut rhythm: Rhythm, outlet: &Outlet) {
    let mut backoff = Backoff::default();
    loop {
        let fault = match Asker::open(ground, peer).await {
            Ok(asker) => poll_until_failure(ground, asker, &mut rhythm, outlet, &mut backoff).await,
            Err(fault) => fault,
        };
        outlet.send(What::Polled(Err(fault))).await;
        if let Some(host) = &peer.host {
            ground.resolver.doubt(host);
        }
        let wait = backoff.next(rand::random());
        rhythm.rest(Instant::now(), GAP_AFTER_FAILURE, |_| wait).await;
    }
}

async fn poll_until_failure(
    ground: &Ground,
    mut asker: Asker,
    rhythm: &mut Rhythm,
    outlet: &Outlet,
    backoff: &mut Backoff,
) -> Fault {
    let mut deep = true;
    let mut polls = 0u32;
    loop {
        let started = Instant::now();
        match asker.poll(ground, deep).await {
            Ok(poll) => outlet.send(What::Polled(Ok(poll))).await,
            Err(fault) => return fault,
        }
        backoff.reset();
        let chance = rand::random();
        let nudged = rhythm.rest(started, GAP, |pace| match pace {
            Pace::Steady => jittered(pace.polling(&ground.check), chance),
            pace => pace.polling(&ground.check),
        });
        polls = polls.wrapping_add(1);
        let nudged = nudged.await;
        let every = if rhythm.pace() == Pace::Hurry { DEEP_EVERY_IN_A_HURRY } else { DEEP_EVERY };
        deep = nudged || polls.is_multiple_of(every);
    }
}

async fn listen_forever(ground: &Ground, peer: &Peer, nudge: &Notify, outlet: &Outlet) {
    let mut backoff = Backoff::default();
    loop {
        let fault = match subscribe(ground, peer).await {
            Ok((pubsub, allowance)) => {
                outlet.send(What::Subscription(Ok(()))).await;
                // Whatever was published while nobody listened shows in a poll.
                nudge.notify_one();
                let opened = Instant::now();
                let (sink, stream) = pubsub.split();
                let fault = tokio::select! {
                    fault = hear(stream, &allowance, ground, nudge, outlet) => fault,
                    fault = keep_alive(sink, ground.sentinels.limit()) => fault,
                };
                if opened.elapsed() > SILENCE {
                    backoff.reset();
                }
                fault
            }
            Err(fault) => fault,
        };
        outlet.send(What::Subscription(Err(fault))).await;
        sleep(backoff.next(rand::random())).await;
    }
}

async fn subscribe(ground: &Ground, peer: &Peer) -> Result<(PubSub, Allowance), Fault> {
    let limit = ground.sentinels.limit();
    let (mut pubsub, allowance) = ground.sentinels.subscription(peer).await?;
    let late = |_| Fault::timed_out("subscribing", limit);
    let Err(error) = timeout(limit, pubsub.psubscribe("*")).await.map_err(late)? else {
        return Ok((pubsub, allowance));
    };
    if error.code() != Some("NOPERM") {
        return Err(Fault::conversation(&error));
    }
    // An ACL that names channels refuses the pattern, and a list with one forbidden name: ask one by one.
    let mut heard = 0;
    for channel in events::CHANNELS {
        match timeout(limit, pubsub.subscribe(channel)).await.map_err(late)? {
            Ok(()) => heard += 1,
            Err(error) if refusal(&error).is_some() => {}
            Err(error) => return Err(Fault::conversation(&error)),
        }
    }
    if heard == 0 {
        return Err(Fault::new(Failure::Denied, "no channel may be subscribed to"));
    }
    Ok((pubsub, allowance))
}

/// Passes on what is published about the group, until the connection ends.
async fn hear(
    mut stream: PubSubStream,
    allowance: &Allowance,
    ground: &Ground,
    nudge: &Notify,
    outlet: &Outlet,
) -> Fault {
    let mut hearing = Hearing::new(&ground.group);
    loop {
        let message = match stream.next().now_or_never() {
            Some(message) => message,
            None => {
                // All that was read is dealt with; what a busy publisher sends beyond the allowance ends it.
                allowance.refill();
                stream.next().await
            }
        };
        let Some(message) = message else {
            return Fault::new(Failure::Unreachable, "the subscription ended");
        };
        let payload = std::str::from_utf8(message.get_payload_bytes()).unwrap_or_default();
        if let Some((event, signal)) = hearing.hear(message.get_channel_name(), payload) {
            nudge.notify_one();
            tracing::debug!(group = %ground.group, channel = message.get_channel_name(), payload, "Sentinel event");
            let sign = match signal {
                Some(signal) => locate(ground, signal).await,
                None => None,
            };
            outlet.send(What::Event(event, sign)).await;
        }
    }
}

/// The sign with addresses for names: there is no time for a resolver that is slow, or knows a dead master's name no more.
async fn locate(ground: &Ground, signal: Signal) -> Option<Sign> {
    let Signal { kind, epoch, master, replica, channel } = signal;
    let one = |(host, port): Written| async move { ground.resolver.one_at_once(&host, port, LOOKUP).await };
    let replica = match replica {
        Some(replica) => one(replica).await,
        None => None,
    };
    Some(Sign { kind, epoch, master: one(master).await?, replica, channel })
}

/// Finds a half-open connection, which never says a word again.
async fn keep_alive(mut sink: PubSubSink, limit: Duration) -> Fault {
    loop {
        sleep(SILENCE).await;
        match timeout(limit, sink.ping::<redis::Value>()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if refusal(&error).is_some() => {}
            Ok(Err(error)) => return Fault::conversation(&error),
            Err(_) => return Fault::timed_out("the answer to a subscription's PING", limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Source, discovery::tests::group, election::SignKind};

    #[tokio::test(start_paused = true)]
    async fn a_sign_is_passed_on_though_its_replica_cannot_be_found() {
        let ground = Ground::new(&group(Source::Sentinels(Vec::new())));
        let _hanging = ground.resolver.stall().await;
        let signal = Signal {
            kind: SignKind::Chosen,
            epoch: Some(7),
            master: ("10.0.0.1".to_owned(), 6379),
            replica: Some(("redis.svc".to_owned(), 6379)),
            channel: "+selected-slave",
        };
        let asked = Instant::now();
        let sign = locate(&ground, signal).await.expect("the master is known");
        assert_eq!((sign.kind, sign.epoch, sign.replica), (SignKind::Chosen, Some(7), None));
        assert!(asked.elapsed() < 2 * LOOKUP, "it waited for {:?}", asked.elapsed());
    }
}
