//! How a frame leaves this host: by an interface that passed the self-test, to the next hop. Whatever is not known at once
//! is left to tc.

use aya_ebpf::bindings::xdp_action::XDP_PASS;
use proxy_ebpf::xdp::{fate, slot};

use super::{Frame, maps};
use crate::kernel::{
    mac::Mac,
    packet::Segment,
    way::{self, Exit, Leg, NoWay, Way},
};

/// Finds the way of a segment that is to go from and to these ends, and makes `XDP_REDIRECT` mean the interface
/// it leaves by. The frame is not touched.
#[inline(always)]
pub(super) fn find(frame: &Frame, segment: &Segment, leg: &Leg<'_>, ifindex: u32) -> Result<Way, u32> {
    let interface = frame.interface(ifindex).ok_or(fate::NO_DEVICE)?;
    if frame.in_pieces(segment) && interface.takes_pieces == 0 {
        return Err(fate::NO_DEVICE);
    }
    let exit = Exit { ifindex, mac: Mac(interface.mac) };
    let way = way::find(frame, segment, leg, exit).map_err(|why| match why {
        NoWay::Elsewhere => fate::NO_DEVICE,
        NoWay::TooBig => fate::TOO_BIG,
        NoWay::Unknown => fate::NO_WAY,
        NoWay::Doubted => fate::DUE,
    })?;
    maps::DEVICES.redirect(slot(ifindex), u64::from(XDP_PASS)).map_err(|_passes| fate::NO_DEVICE)?;
    Ok(way)
}
