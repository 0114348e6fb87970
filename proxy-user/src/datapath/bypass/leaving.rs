//! The thread that takes sockets out of the bypass: those whose connection goes by TCP from its beginning, so that their
//! processes have them as they were. Nothing was handed over to one of these, and nothing is any more.

use std::{io, os::fd::AsFd as _, os::fd::AsRawFd as _, os::fd::BorrowedFd, thread};

use aya::maps::{MapData, RingBuf, SockHash};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe,
};
use proxy_ebpf::bypass::End;

pub(super) struct Leaving {
    ring: RingBuf<MapData>,
    sockets: SockHash<MapData, End>,
}

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub(super) struct Running(Option<(std::os::fd::OwnedFd, thread::JoinHandle<()>)>);

impl Leaving {
    pub(super) fn new(ring: RingBuf<MapData>, sockets: SockHash<MapData, End>) -> Self {
        Self { ring, sockets }
    }

    pub(super) fn start(mut self) -> io::Result<Running> {
        let (until, held) = pipe()?;
        let run = move || {
            while self.wait(until.as_fd()) {
                self.take_out();
            }
        };
        let thread = thread::Builder::new().name("bypass-leaving".to_owned()).spawn(run)?;
        Ok(Running(Some((held, thread))))
    }

    /// For a socket that is to go out. False: for the end of the daemon.
    fn wait(&self, until: BorrowedFd<'_>) -> bool {
        // SAFETY: the ring has its descriptor for as long as it lives.
        let ring = unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) };
        let mut fds = [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(until, PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => fds[1].revents().is_some_and(|events| events.is_empty()),
            Err(error) => error == Errno::EINTR,
        }
    }

    fn take_out(&mut self) {
        while let Some(record) = self.ring.next() {
            let Ok(end) = bytemuck::try_pod_read_unaligned::<End>(&record) else { continue };
            // It may be closed by now, and no other has its name.
            let _is_gone = self.sockets.remove(&end);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some((held, thread)) = self.0.take() {
            drop(held);
            // What it panicked of is in the log.
            let _ended = thread.join();
        }
    }
}
