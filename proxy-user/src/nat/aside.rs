//! The way of parked SYNs between the kernel and the listeners: out of the ring buffer, to the listener of their route,
//! and in again where they came in. Promises: none is kept here; whoever nobody takes goes to the listener's socket.
//! Needs the maps `parked` and `syn_turns`, the object `release`, and a runtime.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
    programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions},
};
use proxy_ebpf::parking::{Parked, mark, names, turn};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{Receiver, Sender, channel},
    task::JoinHandle,
};

use super::syn::read;
use crate::{
    datapath::{Arrival, Onward, Syn, SynError, SynGate, Syns, Turn},
    kernel::{Mapping, MappingError},
};

/// SYNs between the ring and a listener; behind them the ring fills, which is much larger.
const UNDER_WAY: usize = 256;

/// `struct __sk_buff` up to the last word that a test run is told: all others have to be zero.
const CONTEXT: usize = 11;
const MARK: usize = 2;
const IFINDEX: usize = 10;

#[derive(Debug, thiserror::Error)]
pub enum AsideError {
    #[error("the kernel refuses the program that sends SYNs on: {0}")]
    Program(#[from] ProgramError),
    #[error("the object has no program `{}`; the daemon was built wrongly", names::RELEASE)]
    Missing,
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error("the ring of SYNs cannot be waited for: {0}")]
    Ring(#[from] io::Error),
}

/// All routes' SYNs. Dropped, nobody reads the ring any more.
#[derive(Debug)]
pub struct Aside {
    kernel: Arc<Kernel>,
    /// Of the routes whose listener has not asked yet.
    arrivals: Mutex<HashMap<u16, Receiver<Arrival>>>,
    reader: JoinHandle<()>,
}

impl Aside {
    pub fn start(
        ring: RingBuf<MapData>,
        turns: &MapData,
        mut release: Ebpf,
        routes: impl IntoIterator<Item = u16>,
    ) -> Result<Self, AsideError> {
        let program: &mut SchedClassifier =
            release.program_mut(names::RELEASE).ok_or(AsideError::Missing)?.try_into()?;
        program.load()?;
        let kernel = Arc::new(Kernel { release, turns: Mapping::new(names::SYN_TURNS, turns)? });
        let (listeners, arrivals) = routes
            .into_iter()
            .map(|route| {
                let (to, arrivals) = channel(UNDER_WAY);
                ((route, to), (route, arrivals))
            })
            .unzip();
        // SAFETY: the ring owns its map, and gives out that one descriptor as long as it lives.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)?;
        let reader = tokio::spawn(deliver(ring, listeners, Arc::clone(&kernel)));
        Ok(Self { kernel, arrivals: Mutex::new(arrivals), reader })
    }

    /// The SYNs of a route, for the first who asks.
    pub fn of(&self, route: u16) -> Option<Syns> {
        let arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).remove(&route)?;
        Some(Syns { gate: Arc::new(Route { kernel: Arc::clone(&self.kernel), number: route }), arrivals })
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads the ring for ever. A listener that is behind holds it up, and then SYNs are the listeners' own.
async fn deliver(mut ring: AsyncFd<RingBuf<MapData>>, listeners: HashMap<u16, Sender<Arrival>>, kernel: Arc<Kernel>) {
    loop {
        let Ok(mut ready) = ring.readable_mut().await else {
            return tracing::error!(
                "the ring of SYNs cannot be read any more: who comes in a pause goes to the listener"
            );
        };
        while let Some((route, arrival)) = next(ready.get_inner_mut()) {
            let unheard = match listeners.get(&route) {
                Some(listener) => listener.send(arrival).await.err().map(|unsent| unsent.0),
                None => Some(arrival),
            };
            if let Some(Arrival::Syn(syn)) = unheard {
                // It is as good as dropped where this fails, and its client sends it again.
                let _dropped = kernel.send(&syn, Onward::Listener);
            }
        }
        ready.clear_ready();
    }
}

/// The next record that makes sense; those that make none are dropped.
fn next(ring: &mut RingBuf<MapData>) -> Option<(u16, Arrival)> {
    loop {
        let record: Parked = bytemuck::try_pod_read_unaligned(&ring.next()?).ok()?;
        if let Some(arrival) = read(&record) {
            return Some((record.route, arrival));
        }
    }
}

/// What of the kernel is written to.
struct Kernel {
    release: Ebpf,
    turns: Mapping<AtomicU64>,
}

impl Kernel {
    fn send(&self, syn: &Syn, onward: Onward) -> Result<(), SynError> {
        let mut context = [0_u32; CONTEXT];
        context[IFINDEX] = syn.ifindex;
        context[MARK] = match onward {
            Onward::Node => mark::TO_NODE,
            Onward::Listener => mark::TO_LISTENER,
        };
        let options = TestRunOptions {
            data_in: Some(&syn.frame),
            ctx_in: Some(bytemuck::cast_slice(&context)),
            ..TestRunOptions::default()
        };
        let sent = self.program().and_then(|program| Ok(program.test_run(options)?));
        match sent {
            Ok(result) if result.return_value == 0 => Ok(()),
            Ok(_) => Err(SynError(format!("interface {} is down, or gone", syn.ifindex))),
            Err(error) => Err(SynError(error.to_string())),
        }
    }

    fn program(&self) -> Result<&SchedClassifier, AsideError> {
        Ok(self.release.program(names::RELEASE).ok_or(AsideError::Missing)?.try_into()?)
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Route {
    kernel: Arc<Kernel>,
    number: u16,
}

impl SynGate for Route {
    fn set(&self, turn: Turn) {
        let word = match turn {
            Turn::Free => turn::FREE,
            Turn::Held => turn::HELD,
            Turn::Paced => turn::PACED,
            Turn::Full => turn::FULL,
            Turn::Listener => turn::LISTENER,
        };
        if let Some(entry) = self.kernel.turns.get(usize::from(self.number)) {
            entry.store(word, Ordering::Release);
        }
    }

    fn send(&self, syn: &Syn, onward: Onward) -> Result<(), SynError> {
        self.kernel.send(syn, onward)
    }
}
