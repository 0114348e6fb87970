//! The worker threads of a datapath, and how connections are dealt out to them.

use std::{
    io,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use nix::unistd::{Pid, gettid};
use proxy_ebpf::TargetKey;

use super::{
    Call, Connection, Sever,
    mailbox::{Mail, Mailbox},
    splice::Splice,
    worker::{KernelEvents, Worker},
};
use crate::urgent::Urgent;

#[derive(Debug)]
pub(super) struct Crew {
    workers: Vec<Hand>,
    next: AtomicUsize,
}

#[derive(Debug)]
struct Hand {
    mailbox: Mailbox,
    thread: JoinHandle<()>,
    id: Pid,
}

impl Crew {
    /// `equip` gives each worker its part in the in-kernel splice, if there is one.
    pub(super) fn start(
        name: &'static str,
        workers: usize,
        mut equip: impl FnMut(&[Mailbox]) -> io::Result<(Option<Splice>, Option<KernelEvents>)>,
    ) -> io::Result<Self> {
        let mailboxes = (0..workers.max(1)).map(|_| Mailbox::new()).collect::<io::Result<Vec<_>>>()?;
        let mut crew = Vec::with_capacity(mailboxes.len());
        for (number, mailbox) in mailboxes.iter().enumerate() {
            let (splice, kernel) = equip(&mailboxes)?;
            let worker = Worker::new(mailbox.clone(), splice, kernel)?;
            let (tell, told) = mpsc::channel();
            let thread = std::thread::Builder::new().name(format!("{name}-{number}")).spawn(move || {
                let _told = tell.send(gettid());
                if let Err(error) = worker.run() {
                    tracing::error!(%error, datapath = name, "a worker has failed");
                    // Its connections are dead; a daemon that goes on would look healthy.
                    std::process::abort();
                }
            })?;
            let id = told.recv().map_err(io::Error::other)?;
            crew.push(Hand { mailbox: mailbox.clone(), thread, id });
        }
        Ok(Self { workers: crew, next: AtomicUsize::new(0) })
    }

    pub(super) fn adopt(&self, connection: Connection) {
        self.next().send(Mail::Adopt(connection));
    }

    pub(super) fn dial(&self, call: Call) {
        self.next().send(Mail::Dial(call));
    }

    fn next(&self) -> &Mailbox {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.workers.len();
        &self.workers[next].mailbox
    }

    /// All workers begin at once: each is urgent before it wakes, and so is who wakes them, since the first would take its place
    /// before the others know.
    pub(super) fn sever(&self, order: &Sever) {
        let _until_all_know = Urgent::here();
        for Hand { mailbox, id, .. } in &self.workers {
            mailbox.send(Mail::Sever(order.clone(), Urgent::of(*id)));
        }
    }

    pub(super) fn resume(&self, key: TargetKey) {
        for Hand { mailbox, .. } in &self.workers {
            mailbox.send(Mail::Resume(key));
        }
    }
}

impl Crew {
    pub(super) fn refresh(&self) {
        for Hand { mailbox, .. } in &self.workers {
            mailbox.send(Mail::Refresh);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for Hand { mailbox, .. } in &self.workers {
            mailbox.send(Mail::Stop);
        }
        for Hand { thread, .. } in self.workers.drain(..) {
            // A worker that failed has aborted the process.
            let _ended = thread.join();
        }
    }
}
