//! The programs at their cgroup, by links that are pinned: they outlive the daemon. Those that an earlier daemon left are
//! given this build's programs, without a call in between.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, links::FdLink},
};
use proxy_ebpf::steering::names;

use super::Error;
use crate::kernel::Hooks;

/// In this order: what is led is held back at a switch, and counted, from the first call on.
const PROGRAMS: [&str; 7] =
    [names::RELEASE, names::EGRESS, names::INGRESS, names::PEER4, names::PEER6, names::CONNECT4, names::CONNECT6];

/// From here on nobody is led, by whichever daemon.
pub(super) fn lead_nobody(links: &Path) -> Result<(), Error> {
    let leading = [names::CONNECT4, names::CONNECT6];
    leading.iter().try_for_each(|name| Hooks::remove(links, name)).map_err(Error::Unpin)
}

/// Detaches what is pinned, by whichever daemon.
pub(super) fn remove(links: &Path) -> Result<(), Error> {
    PROGRAMS.iter().try_for_each(|name| Hooks::remove(links, name)).map_err(Error::Unpin)
}

/// Whether any program of an earlier daemon is attached; at another cgroup than this, if one is given.
pub(super) fn is_left(links: &Path, cgroup: Option<&Path>) -> Result<bool, Error> {
    let Some(cgroup) = cgroup else { return Ok(PROGRAMS.iter().any(|name| links.join(name).exists())) };
    let fault = |source| Error::Cgroup { path: cgroup.to_owned(), source };
    let hooks = Hooks::new(links.to_owned(), cgroup).map_err(fault)?;
    Ok(PROGRAMS.iter().any(|name| hooks.is_elsewhere(name)))
}

/// To be done while the object has its maps still.
pub(super) fn load(object: &mut Ebpf) -> Result<(), Error> {
    PROGRAMS.into_iter().try_for_each(|name| {
        let program = object.program_mut(name).ok_or(Error::Missing(name))?;
        let loaded = match program {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        };
        loaded.map_err(|error| Error::Program(name, error))
    })
}

/// The programs of an object that is loaded. True: some were there, of an earlier daemon's.
pub(super) fn attach_all(object: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<bool, Error> {
    attach_these(&PROGRAMS, object, cgroup, links)
}

/// From here on what a node answers is asked for as well.
pub(super) fn hold_answers(object: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<(), Error> {
    attach_these(&[names::INGRESS], object, cgroup, links).map(drop)
}

/// No answer is held back any more.
pub(super) fn let_answers_pass(links: &Path) -> Result<(), Error> {
    Hooks::remove(links, names::INGRESS).map_err(Error::Unpin)
}

fn attach_these(these: &[&'static str], object: &mut Ebpf, cgroup: &Path, links: &Path) -> Result<bool, Error> {
    let fault = |source| Error::Cgroup { path: cgroup.to_owned(), source };
    let hooks = Hooks::new(links.to_owned(), cgroup).map_err(fault)?;
    let folder = File::open(cgroup).map_err(fault)?;
    let mut found = false;
    for &name in these {
        let program = object.program_mut(name).ok_or(Error::Missing(name))?;
        let fd = program.fd().map_err(|error| Error::Program(name, error))?;
        if hooks.take_over(name, fd.as_fd()) {
            found = true;
            continue;
        }
        Hooks::remove(links, name).map_err(Error::Unpin)?;
        hooks.keep(name, attach(name, program, &folder)?)?;
    }
    Ok(found)
}

/// A link has several programs at one place whatever its flags; the kernel takes none (cgroup_bpf_link_attach).
fn attach(name: &'static str, program: &mut Program, cgroup: &File) -> Result<FdLink, Error> {
    let refused = |error| Error::Refused(name, error);
    let mode = CgroupAttachMode::Single;
    Ok(match program {
        Program::CgroupSockAddr(program) => {
            let id = program.attach(cgroup, mode).map_err(refused)?;
            FdLink::try_from(program.take_link(id).map_err(refused)?)?
        }
        Program::CgroupSkb(program) => {
            let place = (*program.expected_attach_type()).unwrap_or(CgroupSkbAttachType::Egress);
            let id = program.attach(cgroup, place, mode).map_err(refused)?;
            FdLink::try_from(program.take_link(id).map_err(refused)?)?
        }
        Program::CgroupSock(program) => {
            let id = program.attach(cgroup, mode).map_err(refused)?;
            FdLink::try_from(program.take_link(id).map_err(refused)?)?
        }
        _ => return Err(refused(ProgramError::UnexpectedProgramType)),
    })
}
