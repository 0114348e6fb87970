//! One socket of a connection, as a worker sees it: what epoll said of it, what still waits to be
//! written to it, and how many bytes the daemon itself read and wrote (the kernel counts the rest).

use std::{
    io,
    net::{Shutdown, TcpStream},
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send},
};
use proxy_ebpf::Cookie;

use super::{
    room::Room,
    tcp_info::{self, Progress},
};

/// A peer that goes on sending must not hold up the end.
const MOST_DISCARDS: usize = 16;

#[derive(Debug)]
pub(super) struct End {
    socket: TcpStream,
    /// Unique for the life of the host; the key of the socket in every map. 0 until it is asked for.
    pub(super) cookie: Cookie,
    /// epoll has said so, and no call has said EAGAIN since.
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer will send no more; what it sent may still wait to be read.
    pub(super) hung_up: bool,
    /// Everything it sent was read.
    pub(super) eof: bool,
    /// Bytes the daemon itself has read from, and written to, this socket.
    pub(super) read: u64,
    pub(super) written: u64,
    /// What the kernel's own count of sent bytes was before our first: an active opener counts its SYN.
    sent_before: u64,
    /// Bytes that did not fit into the socket; allocated only while there are any.
    pending: Vec<u8>,
    flushed: usize,
    room: Option<Room>,
}

/// How a read ended.
pub(super) enum Read {
    Bytes(usize),
    Eof,
    Empty,
}

impl End {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            cookie: 0,
            sent_before: 0,
            readable: false,
            writable: true,
            hung_up: false,
            eof: false,
            read: 0,
            written: 0,
            pending: Vec::new(),
            flushed: 0,
            room: None,
        }
    }

    /// What the kernel calls it and counts of it. As long as nobody but the daemon has written to it.
    pub(super) fn identify(&mut self) -> io::Result<()> {
        self.cookie = tcp_info::cookie(&self.socket)?;
        self.sent_before = tcp_info::handed_over(&self.socket)?.saturating_sub(self.written);
        Ok(())
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    pub(super) fn read(&mut self, into: &mut [u8]) -> io::Result<Read> {
        loop {
            match recv(self.socket.as_raw_fd(), into, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => {
                    self.eof = true;
                    return Ok(Read::Eof);
                }
                Ok(n) => {
                    self.read += n as u64;
                    return Ok(Read::Bytes(n));
                }
                Err(Errno::EAGAIN) => {
                    self.readable = false;
                    return Ok(Read::Empty);
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes the kernel look at bytes that arrived before the socket was spliced: on such a socket
    /// recv hands the receive queue to the verdict program first (tcp_bpf_recvmsg_parser, 6.4).
    pub(super) fn kick(&self) -> io::Result<()> {
        let mut byte = [0];
        match recv(self.socket.as_raw_fd(), &mut byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
            // What there is to read is of no use here: passed bytes are announced by the program itself.
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            // Told once only: a reset that is swallowed here would look like an orderly end later.
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what fits and keeps the rest. Must not be called while anything is pending.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.pending.is_empty(), "bytes would overtake each other");
        let sent = self.send(bytes)?;
        if sent < bytes.len() {
            self.pending = bytes[sent..].to_vec();
            self.flushed = 0;
        }
        Ok(())
    }

    /// Keeps bytes for a later [`Self::flush`]. Must not be called while anything is pending.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(self.pending.is_empty(), "bytes would overtake each other");
        self.pending = bytes.to_vec();
        self.flushed = 0;
    }

    /// True once nothing is pending.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if self.pending.is_empty() {
            return Ok(true);
        }
        if !self.writable {
            return Ok(false);
        }
        let pending = std::mem::take(&mut self.pending);
        self.flushed += self.send(&pending[self.flushed..])?;
        if self.flushed < pending.len() {
            self.pending = pending;
        }
        Ok(self.pending.is_empty())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match send(self.socket.as_raw_fd(), &bytes[sent..], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::EAGAIN) => {
                    self.writable = false;
                    break;
                }
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.written += sent as u64;
        Ok(sent)
    }

    /// Something is pending: the socket takes no more.
    pub(super) fn is_full(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Lets the kernel hand over what it has for this socket, whether its peer reads or not.
    pub(super) fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        if self.room.is_none() {
            self.room = Some(Room::make(&self.socket, bytes)?);
        }
        Ok(())
    }

    pub(super) fn give_room_back(&mut self) -> io::Result<()> {
        self.room.take().map_or(Ok(()), |room| room.give_back(&self.socket))
    }

    /// Passes a FIN on.
    pub(super) fn finish(&self) -> io::Result<()> {
        self.socket.shutdown(Shutdown::Write)
    }

    /// How far the socket has come, counted from its first byte, whoever put it there.
    pub(super) fn progress(&self) -> io::Result<Progress> {
        let mut progress = tcp_info::progress(&self.socket)?;
        progress.handed_over = progress.handed_over.saturating_sub(self.sent_before);
        Ok(progress)
    }

    /// Sends the RST that the close would send, and leaves the close for later.
    pub(super) fn reset(&self) {
        let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
        // SAFETY: an address of the given length. A socket that refuses is already gone, and its peer knows.
        unsafe { libc::connect(self.socket.as_raw_fd(), &raw const nobody, size_of_val(&nobody) as libc::socklen_t) };
    }

    pub(super) fn discard(&mut self, scratch: &mut [u8]) {
        for _ in 0..MOST_DISCARDS {
            if !matches!(self.read(scratch), Ok(Read::Bytes(_))) {
                return;
            }
        }
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
