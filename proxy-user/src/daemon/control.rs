//! The threads on which servers are asked and elections decided. A group lives on one of them, with all
//! that asks for it: an answer wakes one thread and reaches the switch on it, and clients who come in a
//! crowd, which the daemon's other threads take, are not in its way. What blocks there blocks all groups of the
//! thread.

use std::{
    io,
    thread::{self, JoinHandle},
};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Groups beyond the number of cores share a thread.
#[derive(Debug)]
pub(super) struct Control {
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    runtime: Handle,
    thread: JoinHandle<()>,
    /// Ends the thread, also where the daemon's start fails halfway.
    over: DropGuard,
}

impl Control {
    pub(super) fn start(groups: usize) -> io::Result<Self> {
        let cores = thread::available_parallelism()?.get();
        Ok(Self { threads: (0..groups.min(cores)).map(|_| Thread::start()).collect::<io::Result<_>>()? })
    }

    /// Where the group of this number lives.
    pub(super) fn of(&self, group: usize) -> &Handle {
        &self.threads[group % self.threads.len()].runtime
    }

    pub(super) fn runtimes(&self) -> impl Iterator<Item = Handle> + '_ {
        self.threads.iter().map(|thread| thread.runtime.clone())
    }

    /// Ends what still runs there. Blocks until it did.
    pub(super) fn stop(self) {
        let threads: Vec<_> =
            self.threads.into_iter().map(|Thread { thread, over, .. }| (drop(over), thread)).collect();
        for ((), thread) in threads {
            let _panicked = thread.join();
        }
    }
}

impl Thread {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let (handle, over) = (runtime.handle().clone(), CancellationToken::new());
        let told = over.clone();
        let run = move || {
            runtime.block_on(told.cancelled());
            // A resolver that hangs holds a thread of this runtime; it must not hold the end.
            runtime.shutdown_background();
        };
        let thread = thread::Builder::new().name("control".to_owned()).spawn(run)?;
        Ok(Self { runtime: handle, thread, over: over.drop_guard() })
    }
}
