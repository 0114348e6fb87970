//! The thread that hears of readers who must be told once more that there is something to read: see the program `bypass_remind`.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    sync::mpsc::Sender,
    thread,
};

use aya::maps::{MapData, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::pipe,
};

use super::keeper::Order;

/// Ends the thread when it is dropped.
#[derive(Debug)]
pub(super) struct Hurry(Option<(OwnedFd, thread::JoinHandle<()>)>);

impl Hurry {
    /// The keeper is told of whatever comes.
    pub(super) fn start(mut ring: RingBuf<MapData>, keeper: Sender<Order>) -> io::Result<Self> {
        let (until, held) = pipe()?;
        let run = move || {
            while goes_on(&ring, until.as_fd()) {
                let mut came = false;
                while ring.next().is_some() {
                    came = true;
                }
                if came && keeper.send(Order::Remind).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("bypass-hurry".to_owned()).spawn(run)?;
        Ok(Self(Some((held, thread))))
    }
}

/// Waits for an entry. False: for the end of the daemon.
fn goes_on(ring: &RingBuf<MapData>, until: BorrowedFd<'_>) -> bool {
    // SAFETY: the ring has its descriptor for as long as it lives.
    let ring = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
    let mut fds = [PollFd::new(ring, PollFlags::POLLIN), PollFd::new(until, PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => fds[1].revents().is_some_and(|events| events.is_empty()),
        Err(error) => error == Errno::EINTR,
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some((held, thread)) = self.0.take() {
            drop(held);
            // What it panicked of is in the log.
            let _ended = thread.join();
        }
    }
}
