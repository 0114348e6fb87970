//! Events on disk: one JSON object a line, appended to `events.jsonl`, which becomes `events.1.jsonl`
//! when it is full. What a crash tore is skipped, never lost with it. A disk that is full, slow or
//! gone costs events, never the switch: the writer has a thread of its own behind a bounded queue.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::errno::Errno;
use thiserror::Error;
use tokio::sync::mpsc;

use super::{log::Tally, record::Event};

const NEW: &str = "events.jsonl";
const OLD: &str = "events.1.jsonl";
/// Of each of the two files. An event has one kilobyte or two.
pub(super) const MOST_BYTES: u64 = 4 << 20;

#[derive(Debug, Error)]
pub enum OpenError {
    #[error("cannot keep events in state_dir {dir}: {1}; make it writable for this user, or leave state_dir out", dir = .0.display())]
    Unusable(PathBuf, #[source] io::Error),
    #[error("state_dir {dir} belongs to another switchmaster that runs now; give each daemon a folder of its own", dir = .0.display())]
    InUse(PathBuf),
}

impl OpenError {
    /// The disk's own trouble and not a mistake of the configuration: no reason not to serve clients.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Unusable(_, error) if is_fault(error))
    }
}

fn is_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StaleNetworkFileHandle, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem | StaleNetworkFileHandle)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}

#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    /// Also holds the lock on the folder.
    folder: File,
    file: Option<(File, u64)>,
    most_bytes: u64,
}

/// Makes the folder ours, and reads the newest `most` events in it.
pub(super) fn open(dir: &Path, most: usize) -> Result<(Disk, Vec<Event>), OpenError> {
    let unusable = |error| OpenError::Unusable(dir.to_owned(), error);
    fs::DirBuilder::new().recursive(true).mode(0o750).create(dir).map_err(unusable)?;
    let folder = File::open(dir).map_err(unusable)?;
    folder.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => OpenError::InUse(dir.to_owned()),
        TryLockError::Error(error) => unusable(error),
    })?;
    let mut events = read(&dir.join(OLD)).map_err(unusable)?;
    events.extend(read(&dir.join(NEW)).map_err(unusable)?);
    events.drain(..events.len().saturating_sub(most));
    let mut disk = Disk { dir: dir.to_owned(), folder, file: None, most_bytes: MOST_BYTES };
    match disk.file() {
        // The writer tries again with each event.
        Err(error) if is_fault(&error) => {
            tracing::warn!(%error, state_dir = %dir.display(), "events cannot be written for now");
        }
        other => drop(other.map_err(unusable)?),
    }
    Ok((disk, events))
}

/// The events of a file; lines that are none are skipped and logged. Reads a bounded part, from its end.
fn read(path: &Path) -> io::Result<Vec<Event>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let start = file.metadata()?.len().saturating_sub(2 * MOST_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let (mut events, mut unreadable) = (Vec::new(), 0);
    for line in BufReader::new(file.take(2 * MOST_BYTES)).split(b'\n') {
        let line = line?;
        match serde_json::from_slice::<Event>(&line) {
            // There is room for numbers after it.
            Ok(event) if event.seq < u64::MAX / 2 => events.push(event),
            Err(_) if line.is_empty() => {}
            _ => unreadable += 1,
        }
    }
    if unreadable > 0 {
        tracing::warn!(file = %path.display(), lines = unreadable, "lines that are no events, as a crash leaves them, are skipped");
    }
    Ok(events)
}

impl Disk {
    /// The file to append to. What a crash or a full disk tore is closed by a line end first.
    fn file(&mut self) -> io::Result<&mut (File, u64)> {
        if self.file.is_none() {
            let mut options = OpenOptions::new();
            let mut file = options.read(true).append(true).create(true).mode(0o640).open(self.dir.join(NEW))?;
            let mut size = file.metadata()?.len();
            if size > 0 {
                let mut last = [0];
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
                if last != *b"\n" {
                    file.write_all(b"\n")?;
                    size += 1;
                }
            }
            self.file = Some((file, size));
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let most = self.most_bytes;
        let (_, size) = self.file()?;
        if *size > 0 && *size + line.len() as u64 > most {
            self.rotate()?;
        }
        let (file, size) = self.file()?;
        let written = file.write_all(&line);
        *size += line.len() as u64;
        if written.is_err() {
            // Part of the line may be there: the next one looks.
            self.file = None;
        }
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        self.file = None;
        fs::rename(self.dir.join(NEW), self.dir.join(OLD))?;
        self.file()?;
        self.folder.sync_all()
    }

    /// After this, what was appended survives a crash of the machine.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |(file, _)| file.sync_data())
    }

    #[cfg(test)]
    pub(super) fn limit(&mut self, most_bytes: u64) {
        self.most_bytes = most_bytes;
    }
}

/// Writes what is published. Synchronised when nothing waits any more: one event a failover, so that
/// is each event by itself, and in a storm it is once for many.
pub struct Writer {
    disk: Disk,
    events: mpsc::Receiver<Arc<Event>>,
    tally: Arc<dyn Tally>,
    failing: bool,
}

impl Writer {
    pub(super) fn new(disk: Disk, events: mpsc::Receiver<Arc<Event>>, tally: Arc<dyn Tally>) -> Self {
        Self { disk, events, tally, failing: false }
    }

    /// Runs until the log is closed. Waits for the disk: give it a thread of its own.
    pub fn run(mut self) {
        while let Some(event) = self.events.blocking_recv() {
            let appended = self.disk.append(&event);
            let done = if self.events.is_empty() { appended.and_then(|()| self.disk.sync()) } else { appended };
            match done {
                Ok(()) => self.failing = false,
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Logged once, until it works again.
    fn failed(&mut self, error: &io::Error) {
        self.tally.unwritten();
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(%error, state_dir = %self.disk.dir.display(), "events cannot be written; they are kept in memory only");
        }
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("disk", &self.disk).finish_non_exhaustive()
    }
}
