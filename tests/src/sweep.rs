//! What is left when a world ends: namespaces, mounts, directories. Removes them at the end, on SIGINT
//! and SIGTERM, and those of test processes that were killed when the next one starts.
//! Everything a world makes is called `smt-PID-N[-PART]`, so that a name tells whose it was.

use std::{
    env, fs,
    io::Read as _,
    os::fd::{IntoRawFd as _, RawFd},
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction},
};

use crate::process::kill_all;

const PREFIX: &str = "smt-";
const NETNS: &str = "/run/netns";

static WORLDS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static CLOSING: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU32 = AtomicU32::new(0);
static BELL: AtomicI32 = AtomicI32::new(-1);

/// A name no other world has. The first call of a process sweeps what dead ones left.
pub(crate) fn register() -> Result<String> {
    static START: Once = Once::new();
    START.call_once(|| {
        stale();
        if let Err(error) = watch_signals() {
            eprintln!("an interrupted test will leave its namespaces to the next one: {error:#}");
        }
    });
    ensure!(!CLOSING.load(Ordering::SeqCst), "interrupted");
    let name = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    WORLDS.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
    Ok(name)
}

/// Whether SIGINT or SIGTERM has come: what fails from then on fails because everything is taken down.
pub fn interrupted() -> bool {
    CLOSING.load(Ordering::SeqCst)
}

pub(crate) fn unregister(world: &str) {
    WORLDS.lock().unwrap_or_else(PoisonError::into_inner).retain(|name| name != world);
    remove(world);
}

/// Where a world keeps its files.
pub(crate) fn directory(world: &str) -> PathBuf {
    env::temp_dir().join(world)
}

pub(crate) fn bpffs(directory: &Path) -> PathBuf {
    directory.join("bpf")
}

/// Removes everything of one world. Best effort: what is gone already is no error.
fn remove(world: &str) {
    for namespace in names(NETNS).filter(|name| name.starts_with(&format!("{world}-"))) {
        let _gone = Command::new("ip").args(["netns", "delete", &namespace]).output();
    }
    let directory = directory(world);
    let _gone = umount2(&bpffs(&directory), MntFlags::MNT_DETACH);
    let _gone = fs::remove_dir_all(&directory);
}

/// Removes the worlds of processes that no longer exist.
fn stale() {
    let temp = env::temp_dir();
    let dead = |name: &String| {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    };
    let mut worlds: Vec<String> = names(NETNS)
        .chain(names(&temp))
        .filter(dead)
        .map(|name| name.splitn(4, '-').take(3).collect::<Vec<_>>().join("-"))
        .collect();
    worlds.sort();
    worlds.dedup();
    for world in &worlds {
        remove(world);
    }
}

fn names(directory: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with(PREFIX))
}

/// On SIGINT or SIGTERM: kill, remove, then die of the signal as if it had not been caught.
fn watch_signals() -> Result<()> {
    let (mut heard, bell) = std::io::pipe().context("pipe")?;
    BELL.store(bell.into_raw_fd(), Ordering::SeqCst);
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let action = SigAction::new(SigHandler::Handler(ring), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler only calls write(2), which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.context("sigaction")?;
    }
    thread::spawn(move || {
        let mut byte = [0];
        if heard.read_exact(&mut byte).is_ok() {
            CLOSING.store(true, Ordering::SeqCst);
            kill_all();
            let worlds = WORLDS.lock().unwrap_or_else(PoisonError::into_inner).clone();
            worlds.iter().for_each(|world| remove(world));
            die(Signal::try_from(i32::from(byte[0])).unwrap_or(Signal::SIGTERM));
        }
    });
    Ok(())
}

fn die(signal: Signal) -> ! {
    let action = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: the default action runs no code of ours.
    if unsafe { sigaction(signal, &action) }.is_ok() {
        let _dead = raise(signal);
    }
    process::exit(128 + signal as i32)
}

extern "C" fn ring(signal: libc::c_int) {
    let fd: RawFd = BELL.load(Ordering::SeqCst);
    let byte = u8::try_from(signal).unwrap_or_default();
    // SAFETY: one byte from the stack to a pipe that is never closed; the result does not matter.
    unsafe { libc::write(fd, (&raw const byte).cast(), 1) };
}
