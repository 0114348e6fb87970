//! Connections to Sentinels and nodes: TCP with time limits and keepalive, TLS, AUTH, and a metered
//! reader. Promises that every step and every request ends within the limit, and that nothing but AUTH
//! is sent to set a connection up, so that old servers and narrow ACLs do not mind.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Cmd, RedisConnectionInfo, Value,
    aio::{MultiplexedConnection, PubSub},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    fault::Fault,
    meter::{Allowance, Metered},
    tls::TlsDialer,
};
use crate::{config::Access, election::Failure};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A server to dial: where it is, and the name it goes by, which TLS checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) addr: SocketAddr,
    pub(super) host: Option<Arc<str>>,
}

impl Peer {
    pub(super) fn name(&self) -> String {
        self.host.as_ref().map_or_else(|| self.addr.ip().to_string(), ToString::to_string)
    }
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Reply {
    Value(Value),
    /// An error reply: its code (`NOPERM`, `ERR`, ...) and its text.
    Refused {
        code: String,
        text: String,
    },
}

#[derive(Debug)]
pub(super) struct Dialer {
    access: Access,
    limit: Duration,
    tls: Option<TlsDialer>,
}

impl Dialer {
    pub(super) fn new(access: &Access, limit: Duration) -> Self {
        Self { access: access.clone(), limit, tls: access.tls.clone().map(TlsDialer::new) }
    }

    /// A connection for commands.
    pub(super) async fn session(&self, peer: &Peer) -> Result<Session, Fault> {
        let (stream, allowance) = self.stream(peer).await?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let identity = self.identity();
        let opening = MultiplexedConnection::new_with_config(&identity, stream, config);
        let (connection, driver) = timeout(self.limit, opening)
            .await
            .map_err(|_| Fault::timed_out("logging in", self.limit))?
            .map_err(|error| Fault::conversation(&error))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(Session { connection, allowance, limit: self.limit, _driver: driver })
    }

    /// A connection for subscriptions. Its owner refills the allowance whenever it has read everything.
    pub(super) async fn subscription(&self, peer: &Peer) -> Result<(PubSub, Allowance), Fault> {
        let (stream, allowance) = self.stream(peer).await?;
        let pubsub = timeout(self.limit, PubSub::new(&self.identity(), stream))
            .await
            .map_err(|_| Fault::timed_out("logging in", self.limit))?
            .map_err(|error| Fault::conversation(&error))?;
        Ok((pubsub, allowance))
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    async fn stream(&self, peer: &Peer) -> Result<(Metered<Box<dyn Stream>>, Allowance), Fault> {
        let tcp = timeout(self.limit, TcpStream::connect(peer.addr))
            .await
            .map_err(|_| Fault::timed_out("connecting", self.limit))?
            .map_err(|error| Fault::connect(&error))?;
        prepare(&tcp).map_err(|error| Fault::connect(&error))?;
        // TCP's simultaneous open lets a socket meet itself where nobody listens on an ephemeral port.
        if tcp.local_addr().ok() == tcp.peer_addr().ok() {
            return Err(Fault::new(Failure::Unreachable, "cannot connect: nobody listens there"));
        }
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(
                timeout(self.limit, tls.wrap(tcp, peer))
                    .await
                    .map_err(|_| Fault::timed_out("the TLS handshake", self.limit))??,
            ),
        };
        Ok(Metered::new(stream))
    }

    fn identity(&self) -> RedisConnectionInfo {
        let mut identity = RedisConnectionInfo::default().set_skip_set_lib_name();
        if let Some(username) = &self.access.username {
            identity = identity.set_username(username);
        }
        if let Some(password) = &self.access.password {
            identity = identity.set_password(password.expose());
        }
        identity
    }
}

fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(3);
    SockRef::from(tcp).set_tcp_keepalive(&keepalive)
}

/// One connection for commands. A request that fails or times out leaves it unusable: drop it.
#[derive(Debug)]
pub(super) struct Session {
    connection: MultiplexedConnection,
    allowance: Allowance,
    limit: Duration,
    // Ends the connection with the session, even if the server never answers.
    _driver: AbortOnDropHandle<()>,
}

impl Session {
    /// Everything that was asked before is answered: the next replies may be as large as one may be.
    pub(super) fn refill(&self) {
        self.allowance.refill();
    }

    /// Asks one thing. Several may be asked at once; the server sees them in the order of their first poll.
    pub(super) async fn ask(&self, words: &[&str]) -> Result<Reply, Fault> {
        let mut command = Cmd::new();
        for word in words {
            command.arg(*word);
        }
        let mut connection = self.connection.clone();
        let answer = timeout(self.limit, connection.send_packed_command(&command))
            .await
            .map_err(|_| Fault::timed_out("the answer", self.limit))?
            .and_then(Value::extract_error);
        match answer {
            Ok(value) => Ok(Reply::Value(value)),
            Err(error) => refusal(&error).ok_or_else(|| Fault::conversation(&error)),
        }
    }
}

/// The server's own error reply, if it is one.
pub(super) fn refusal(error: &redis::RedisError) -> Option<Reply> {
    let code = error.code()?.to_owned();
    let detail = error.detail().unwrap_or_default();
    Some(Reply::Refused { text: format!("{code} {detail}"), code })
}
