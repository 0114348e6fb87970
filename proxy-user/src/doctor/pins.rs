//! What a daemon has pinned, or left behind when it was killed.

use std::path::Path;

use super::{Check, State};
use crate::kernel::{self, BpffsError, PinDir, Pinned};

const NAME: &str = "pins";

pub(super) fn check(folder: &Path) -> Check {
    let at = folder.display();
    match kernel::pinned(folder) {
        Err(error) => Check::bad(NAME, State::Unknown, format!("{at} cannot be read: {error}"), "look as root"),
        Ok(pinned) if pinned == Pinned::default() => Check::ok(NAME, format!("none in {at}")),
        Ok(pinned) => found(&pinned, &at.to_string(), is_used(folder)),
    }
}

/// Whether a daemon runs with them; `None`: this user cannot know.
fn is_used(folder: &Path) -> Option<bool> {
    match PinDir::probe(folder) {
        Ok(()) => Some(false),
        Err(BpffsError::InUse { .. }) => Some(true),
        Err(_) => None,
    }
}

fn found(pinned: &Pinned, at: &str, used: Option<bool>) -> Check {
    let what = format!("{} links and {} maps in {at}", pinned.links.len(), pinned.maps.len());
    match used {
        Some(true) => Check::ok(NAME, format!("{what}, of a daemon that runs")),
        Some(false) => Check::bad(
            NAME,
            State::Warn,
            format!("{what}, left by a daemon that was killed: its connections go on"),
            format!("start it again, and it takes them over; or end them: switchmaster purge --pin-dir {at}"),
        ),
        None => Check::ok(NAME, what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_a_warning_with_two_remedies() {
        let pinned = Pinned { links: vec!["nat_tc-2".into()], maps: vec!["flows".into(), "targets".into()] };
        let left = found(&pinned, "/pins", Some(false));
        assert_eq!((left.state, left.found.contains("1 links and 2 maps in /pins")), (State::Warn, true));
        assert!(left.remedy.contains("purge --pin-dir /pins") && left.remedy.contains("start it again"));
        assert_eq!(found(&pinned, "/pins", Some(true)).state, State::Ok);
        let folder = tempfile::tempdir().unwrap();
        assert!(check(folder.path()).found.starts_with("none"));
    }
}
