//! One question to the kernel over netlink, and its answers. Bounded: in time, and in how many answers it reads.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use nix::sys::{
    socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
        sockopt::ReceiveTimeout,
    },
    time::TimeVal,
};

const PATIENCE: TimeVal = TimeVal::new(2, 0);
/// The kernel fills at most this much at a time (NLMSG_GOODSIZE and min_dump_alloc are below).
const BUFFER: usize = 64 << 10;
/// A dump that changes while it is read is read again.
const TRIES: usize = 4;
const MOST_ANSWERS: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    #[error("netlink: {0}")]
    Io(#[from] io::Error),
    #[error("the kernel's answer is not understood: {0}")]
    Answer(#[from] netlink_packet_core::DecodeError),
    #[error("the kernel's answer changed each of {TRIES} times that it was asked; it is a busy host: try again")]
    Unsteady,
    #[error("the kernel's answer has more than {MOST_ANSWERS} entries")]
    Endless,
}

impl From<nix::Error> for NetlinkError {
    fn from(error: nix::Error) -> Self {
        Self::Io(error.into())
    }
}

impl NetlinkError {
    /// What the kernel said no with, if it did.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io(error) => error.raw_os_error(),
            _ => None,
        }
    }
}

/// A socket, subscribed to these multicast groups.
pub(crate) fn open(protocol: SockProtocol, flags: SockFlag, groups: u32) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | flags;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Ok(fd)
}

/// The one answer to a question about one thing; `None` if there is none.
pub(crate) fn ask<M>(protocol: SockProtocol, question: &M) -> Result<Option<M>, NetlinkError>
where
    M: NetlinkSerializable + NetlinkDeserializable + Clone + Into<NetlinkPayload<M>>,
{
    let mut answer = None;
    converse(protocol, NLM_F_ACK, question, |message| answer = Some(message))?;
    Ok(answer)
}

/// Every answer that `keep` takes something of.
pub(crate) fn dump<M, T>(
    protocol: SockProtocol,
    question: &M,
    keep: impl Fn(M) -> Option<T>,
) -> Result<Vec<T>, NetlinkError>
where
    M: NetlinkSerializable + NetlinkDeserializable + Clone + Into<NetlinkPayload<M>>,
{
    for _ in 0..TRIES {
        let mut kept = Vec::new();
        if converse(protocol, NLM_F_DUMP, question, |message| kept.extend(keep(message)))? {
            return Ok(kept);
        }
    }
    Err(NetlinkError::Unsteady)
}

/// Puts each question by itself, over one socket, and tells how each ended.
pub(crate) fn ask_each<M>(
    protocol: SockProtocol,
    questions: impl Iterator<Item = M>,
    mut ended: impl FnMut(Result<(), NetlinkError>),
) -> Result<(), NetlinkError>
where
    M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
{
    let mut conversation = Conversation::begin(protocol)?;
    questions.for_each(|question| ended(conversation.hold(NLM_F_ACK, question, |_| {}).map(drop)));
    Ok(())
}

fn converse<M>(protocol: SockProtocol, flags: u16, question: &M, answer: impl FnMut(M)) -> Result<bool, NetlinkError>
where
    M: NetlinkSerializable + NetlinkDeserializable + Clone + Into<NetlinkPayload<M>>,
{
    Conversation::begin(protocol)?.hold(flags, question.clone(), answer)
}

struct Conversation {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Conversation {
    fn begin(protocol: SockProtocol) -> Result<Self, NetlinkError> {
        let fd = open(protocol, SockFlag::empty(), 0)?;
        setsockopt(&fd, ReceiveTimeout, &PATIENCE)?;
        Ok(Self { fd, buffer: vec![0; BUFFER] })
    }

    /// True if what was read fits together.
    fn hold<M>(&mut self, flags: u16, question: M, mut answer: impl FnMut(M)) -> Result<bool, NetlinkError>
    where
        M: NetlinkSerializable + NetlinkDeserializable + Into<NetlinkPayload<M>>,
    {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut message = NetlinkMessage::new(header, question.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        sendto(self.fd.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let (mut steady, mut read) = (true, 0);
        loop {
            let length = recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC)?;
            let mut rest = self.buffer.get(..length).ok_or_else(|| io::Error::from(io::ErrorKind::FileTooLarge))?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<M>::deserialize(rest)?;
                steady &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io().into()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(steady),
                    NetlinkPayload::InnerMessage(inner) => answer(inner),
                    _ => {}
                }
                read += 1;
                if read > MOST_ANSWERS {
                    return Err(NetlinkError::Endless);
                }
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}
