//! The files: what a restart finds again, what a crash tears, and that they stay small.

use std::{fs, path::Path, sync::mpsc};

use super::super::disk;
use super::*;

fn event(seq: u64) -> Event {
    Event {
        seq,
        group: "mymaster".into(),
        cause: "failover".into(),
        outcome: Outcome::Switched,
        at: "2026-11-20T10:11:12.345678Z".into(),
        from: None,
        to: Some(Master::from(&target(2, 8))),
        severed: 3,
        stages: vec![Mark { stage: Stage::Flip, offset_us: 7, who: Some("x".into()), what: None }],
    }
}

fn numbers(dir: &Path) -> Vec<u64> {
    let (_, events) = disk::open(dir, MOST_EVENTS).unwrap();
    events.iter().map(|event| event.seq).collect()
}

/// A log on disk whose writer has written everything.
fn written(dir: &Path, events: u64) {
    let (log, writer) = Log::on_disk(dir, Arc::new(Told::default())).unwrap();
    let writer = std::thread::spawn(|| writer.run());
    let timeline = log.timeline("mymaster".into());
    (0..events).for_each(|epoch| flip(&timeline, epoch));
    log.close();
    writer.join().unwrap();
}

#[test]
fn a_restart_finds_every_event_and_numbers_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("deep/state");
    written(&dir, 3);
    let (log, _writer) = Log::on_disk(&dir, Arc::new(Told::default())).unwrap();
    let page = log.page(None, 9);
    assert_eq!((page.events.len(), page.last, page.on_disk), (3, 3, true));
    assert_eq!(page.events[1].to, Some(Master::from(&target(1, 1))));
    drop((log, _writer));
    written(&dir, 2);
    assert_eq!(numbers(&dir), [1, 2, 3, 4, 5]);
}

#[test]
fn a_torn_last_line_costs_only_itself() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), 3);
    let file = folder.path().join("events.jsonl");
    let text = fs::read(&file).unwrap();
    for torn in 1..40 {
        fs::write(&file, &text[..text.len() - torn]).unwrap();
        let (mut disk, events) = disk::open(folder.path(), 9).unwrap();
        // Without its line end alone, the last line is whole.
        assert_eq!(events.len(), if torn == 1 { 3 } else { 2 }, "{torn} bytes");
        disk.append(&event(9)).unwrap();
        drop(disk);
        assert_eq!(*numbers(folder.path()).last().unwrap(), 9, "what comes after it stands on a line of its own");
    }
}

#[test]
fn rubbish_is_skipped() {
    let folder = tempfile::tempdir().unwrap();
    let line = serde_json::to_string(&event(4)).unwrap();
    let rubbish = [
        b"\xff\xfe\0\0\n\n{}\n[1]\n{\"seq\":18446744073709551615,\"group\":\"g\"}\n".as_slice(),
        line.as_bytes(),
        b"\n{\"seq\":",
    ]
    .concat();
    fs::write(folder.path().join("events.jsonl"), rubbish).unwrap();
    assert_eq!(numbers(folder.path()), [4]);
}

#[test]
fn files_stay_small_and_the_older_one_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut disk, _) = disk::open(folder.path(), 9).unwrap();
    let most = 20 * serde_json::to_vec(&event(1)).unwrap().len() as u64;
    disk.limit(most);
    for seq in 1..=100 {
        disk.append(&event(seq)).unwrap();
        disk.sync().unwrap();
    }
    drop(disk);
    let sizes = ["events.jsonl", "events.1.jsonl"].map(|name| fs::metadata(folder.path().join(name)).unwrap().len());
    assert!(sizes.iter().all(|size| *size > 0 && *size <= most), "{sizes:?} of {most}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    let read = numbers(folder.path());
    assert!(read.len() > 20, "{read:?}");
    assert_eq!(read, (101 - read.len() as u64..=100).collect::<Vec<_>>());
    let (_, newest) = disk::open(folder.path(), 5).unwrap();
    assert_eq!(newest.iter().map(|event| event.seq).collect::<Vec<_>>(), [96, 97, 98, 99, 100]);
}

#[test]
fn a_folder_has_one_daemon() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = disk::open(folder.path(), 9).unwrap();
    let error = disk::open(folder.path(), 9).unwrap_err();
    assert!(error.to_string().contains("another switchmaster"), "{error}");
    drop(first);
    disk::open(folder.path(), 9).unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(disk::open(&file, 9), Err(OpenError::Unusable(..))));
}

#[test]
fn a_disk_that_hangs_or_fails_costs_events_and_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let told = Arc::new(Told::default());
    let (log, writer) = Log::on_disk(folder.path(), Arc::clone(&told) as Arc<dyn Tally>).unwrap();
    let timeline = log.timeline("mymaster".into());
    // The writer does not run at all.
    (0..300).for_each(|epoch| flip(&timeline, epoch));
    assert_eq!(log.page(None, MOST_EVENTS).events.len(), 300, "in memory they are");
    assert_eq!(told.unwritten.load(Ordering::Relaxed), 300 - 256);
    log.close();
    writer.run();
    assert_eq!(numbers(folder.path()).len(), 256);
}

/// Rings when an event did not reach the disk.
struct Bell(mpsc::Sender<()>);

impl Tally for Bell {
    fn ended(&self, _: &Event) {}
    fn unwritten(&self) {
        self.0.send(()).unwrap();
    }
}

#[test]
fn a_full_disk_is_survived_and_counted_and_written_to_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.jsonl");
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let (bell, rung) = mpsc::channel();
    let (log, writer) = Log::on_disk(folder.path(), Arc::new(Bell(bell))).unwrap();
    let writer = std::thread::spawn(|| writer.run());
    let timeline = log.timeline("mymaster".into());
    for epoch in 1..=3 {
        flip(&timeline, epoch);
        rung.recv_timeout(Duration::from_secs(5)).expect("it is counted");
    }
    fs::remove_file(&file).unwrap();
    flip(&timeline, 4);
    log.close();
    writer.join().unwrap();
    assert_eq!(numbers(folder.path()), [4]);
    assert_eq!(log.page(None, 9).events.len(), 4);
}

#[test]
fn a_folder_that_vanishes_is_survived() {
    let Ok((mut disk, _)) = disk::open(tempfile::tempdir().unwrap().path(), 9) else { panic!("the folder is there") };
    disk.limit(1);
    disk.append(&event(1)).unwrap();
    disk.append(&event(2)).unwrap_err();
    disk.append(&event(3)).unwrap_err();
}

#[test]
fn only_a_mistake_of_the_configuration_keeps_the_daemon_from_starting() {
    let is_fault = |errno: nix::errno::Errno| {
        OpenError::Unusable("/x".into(), std::io::Error::from_raw_os_error(errno as i32)).is_fault()
    };
    use nix::errno::Errno::{EACCES, EDQUOT, EIO, ENOENT, ENOSPC, ENOTDIR, EROFS, ESTALE};
    assert_eq!([ENOSPC, EDQUOT, EROFS, EIO, ESTALE].map(is_fault), [true; 5]);
    assert_eq!([EACCES, ENOTDIR, ENOENT].map(is_fault), [false; 3]);
    assert!(!OpenError::InUse("/x".into()).is_fault());
}
