//! Where the admin server listens. A unix socket is made with mode 0660 from its first instant; a
//! stale one is replaced only if nobody listens on it, and ours is removed when we end.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
        net::UnixStream as BlockingUnixStream,
    },
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
};

use crate::{config::AdminListen, listener::remedy};

#[derive(Debug, Error)]
pub enum BindError {
    #[error("cannot listen on {0} for [admin]: {1}{remedy}", remedy = remedy(*.0, .1))]
    Tcp(SocketAddr, #[source] io::Error),
    #[error("cannot listen on unix:{path} for [admin]: {1}", path = .0.display())]
    Unix(PathBuf, #[source] io::Error),
    #[error("cannot listen on unix:{path} for [admin]: another process listens there; stop it, or choose another path", path = .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on unix:{path} for [admin]: a file is there that is no socket; remove it, or choose another path", path = .0.display())]
    NoSocket(PathBuf),
}

#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: OwnPath },
}

/// Both kinds of connection, behind one type.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Listener {
    /// Needs a tokio runtime.
    pub fn bind(listen: &AdminListen) -> Result<Self, BindError> {
        match listen {
            AdminListen::Tcp(addr) => {
                bind_tcp(*addr).map(|it| Self(Kind::Tcp(it))).map_err(|error| BindError::Tcp(*addr, error))
            }
            AdminListen::Unix(path) => bind_unix(path),
        }
    }

    /// The address in force, for port 0; None for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Unix { .. } => None,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match &self.0 {
            Kind::Tcp(listener) => Box::new(listener.accept().await?.0),
            Kind::Unix { listener, .. } => Box::new(listener.accept().await?.0),
        })
    }
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(addr)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

fn bind_unix(path: &Path) -> Result<Listener, BindError> {
    let failed = |error| BindError::Unix(path.to_owned(), error);
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None).map_err(failed)?;
    // Linux makes the file with the socket's own mode less the umask (unix_bind), so it is never
    // wider than this, not even for an instant; the later call takes the umask out again.
    let mode = Mode::from_bits_truncate(0o660);
    fchmod(&socket, mode).map_err(|errno| failed(errno.into()))?;
    socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
    let file = OwnPath::of(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode.bits())).map_err(failed)?;
    socket.listen(128).map_err(failed)?;
    let listener = UnixListener::from_std(socket.into()).map_err(failed)?;
    Ok(Listener(Kind::Unix { listener, _file: file }))
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |error| BindError::Unix(path.to_owned(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(BindError::NoSocket(path.to_owned())),
        Ok(_) => {}
    }
    match BlockingUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        // Not ours to judge: its owner may be alive behind permissions we lack.
        Err(error) => Err(failed(error)),
        Ok(_) => Err(BindError::InUse(path.to_owned())),
    }
}

/// Removes the socket file when dropped, unless another one took its place.
#[derive(Debug)]
struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl OwnPath {
    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: meta.dev(), inode: meta.ino() })
    }
}

impl Drop for OwnPath {
    fn drop(&mut self) {
        let ours = |it: &fs::Metadata| (it.dev(), it.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).as_ref().is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the admin socket");
        }
    }
}
