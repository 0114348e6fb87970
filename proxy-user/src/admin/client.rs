//! Asks a running daemon: the commands `status` and `events`. Bounded in time and size.

use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

pub use super::follow::{Events, EventsError, events};
use super::{listener::Stream, status::Status, table::table};

/// Where `[admin] listen` is by convention.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:9180";

pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// 256 nodes and 64 Sentinels in each of some hundred groups fit.
const MAX_BODY: usize = 64 * 1024 * 1024;

/// Where the daemon's admin server is: `host:port`, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    Tcp(String),
    Unix(PathBuf),
}

#[derive(Debug, Error)]
#[error("`{0}` is no admin address; write host:port, [ipv6]:port or unix:/path")]
pub struct NoEndpoint(String);

impl FromStr for Endpoint {
    type Err = NoEndpoint;

    fn from_str(text: &str) -> Result<Self, NoEndpoint> {
        let wrong = || NoEndpoint(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) };
        }
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let (host, port) = plain.rsplit_once(':').ok_or_else(wrong)?;
        let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        if host.is_empty() || bare_ipv6 || host.contains('/') || port.parse::<u16>().is_err() {
            return Err(wrong());
        }
        Ok(Self::Tcp(plain.to_owned()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => f.write_str(addr),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[derive(Debug, Error)]
pub enum FetchError {
    #[error(
        "no switchmaster answers on {0}: {1}; is it running, with this address as `listen` of [admin]? Another one: --admin ADDR"
    )]
    Unreachable(Endpoint, #[source] io::Error),
    #[error("{0} did not answer within {seconds} s", seconds = .1.as_secs())]
    TimedOut(Endpoint, Duration),
    #[error("{0} does not speak HTTP as a switchmaster does: {1}")]
    Http(Endpoint, #[source] hyper::Error),
    #[error("{0} answered {1}: something else listens there, or a switchmaster of another version")]
    Refused(Endpoint, StatusCode),
    #[error("the answer of {0} cannot be read: {1}")]
    Unreadable(Endpoint, String),
}

/// The status as text for a person, or as the daemon's own JSON.
pub async fn show(endpoint: &Endpoint, json: bool) -> Result<String, FetchError> {
    let body = fetch(endpoint, "/api/v1/status", PATIENCE).await?;
    let unreadable = |error: serde_json::Error| FetchError::Unreadable(endpoint.clone(), error.to_string());
    if json {
        let value: serde_json::Value = serde_json::from_slice(&body).map_err(unreadable)?;
        return Ok(format!("{value:#}\n"));
    }
    let status: Status = serde_json::from_slice(&body).map_err(unreadable)?;
    Ok(table(&status))
}

pub(super) async fn fetch(endpoint: &Endpoint, path: &str, patience: Duration) -> Result<Bytes, FetchError> {
    timeout(patience, ask(endpoint, path)).await.map_err(|_| FetchError::TimedOut(endpoint.clone(), patience))?
}

async fn ask(endpoint: &Endpoint, path: &str) -> Result<Bytes, FetchError> {
    let http = |error| FetchError::Http(endpoint.clone(), error);
    let unreadable = |error: String| FetchError::Unreadable(endpoint.clone(), error);
    let stream = connect(endpoint).await.map_err(|error| FetchError::Unreachable(endpoint.clone(), error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let host = match endpoint {
        Endpoint::Tcp(addr) => addr,
        Endpoint::Unix(_) => "localhost",
    };
    let request = Request::get(path)
        .header(header::HOST, host)
        .header(header::ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| unreadable(error.to_string()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(http)?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Refused(endpoint.clone(), response.status()));
        }
        let body = Limited::<Incoming>::new(response.into_body(), MAX_BODY);
        Ok(body.collect().await.map_err(|error| unreadable(error.to_string()))?.to_bytes())
    };
    // The connection moves the bytes of the exchange; its own end says nothing that the exchange does not.
    tokio::pin!(connection);
    tokio::pin!(exchange);
    let mut ended = false;
    loop {
        tokio::select! {
            result = &mut exchange => return result,
            _ = &mut connection, if !ended => ended = true,
        }
    }
}

async fn connect(endpoint: &Endpoint) -> io::Result<Box<dyn Stream>> {
    Ok(match endpoint {
        Endpoint::Tcp(addr) => Box::new(TcpStream::connect(addr).await?),
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}
