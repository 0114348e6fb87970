//! How the rest of the daemon speaks to a worker: a list and an eventfd that wakes it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use nix::sys::eventfd::{EfdFlags, EventFd};
use proxy_ebpf::{Event, TargetKey};

use super::{Call, Connection, Sever};
use crate::urgent::Urgent;

#[derive(Debug)]
pub(super) enum Mail {
    Adopt(Connection),
    Dial(Call),
    Sever(Sever, Urgent),
    /// A pause of this place has ended.
    Resume(TargetKey),
    /// The verdict program has something to say of one of the worker's flows.
    Kernel(Event),
    /// The verdict program could not say something: look at every flow.
    Audit,
    /// Bring the byte counters up to date.
    Refresh,
    Stop,
}

#[derive(Debug, Clone)]
pub(super) struct Mailbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    letters: Mutex<Vec<Mail>>,
    bell: EventFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self { inner: Arc::new(Inner { letters: Mutex::default(), bell }) })
    }

    pub(super) fn send(&self, mail: Mail) {
        let mut letters = self.inner.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.push(mail);
        if letters.len() == 1 {
            // It can only fail when the counter is full, and then the bell rings anyway.
            let _rings = self.inner.bell.write(1);
        }
    }

    pub(super) fn take(&self) -> Vec<Mail> {
        // Nothing to read means somebody rang and was already heard.
        let _silent = self.inner.bell.read();
        std::mem::take(&mut *self.inner.letters.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn bell(&self) -> &EventFd {
        &self.inner.bell
    }
}
