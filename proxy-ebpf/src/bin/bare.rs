//! What the packet programs are measured beside. `cargo xtask bench`: one at XDP that sends frames on by another link, with the next hop's address and no other change.
//! `cargo xtask bench prog`: one that does nothing, one that
//! only finds the headers and lets the packet go, and one that looks at a record beside, as large as a flow's. And how: a test-run does not put the packet back that a
//! program has changed, so `again` restores its headers, makes it the next segment of its connection, or of another one, and
//! calls the program that is measured. Those at XDP take frames in several pieces, as that one does: else the kernel lets none
//! call the other.
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signatures that the macros want")]

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, ProgramArray},
    helpers::bpf_redirect,
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Ethernet, IPv4 and TCP, all without options.
const HEADERS: usize = 14 + 20 + 20;
const ETHER_TYPE: usize = 12;
const VERSION: usize = 14;
const PROTOCOL: usize = 23;

/// The headers as they were, and whose packets they begin.
#[repr(C)]
struct Headers {
    _pad: u16,
    /// The receiver's MAC address, and after it the rest, in such pieces that whatever a program reads lies in one of them: a processor
    /// that reads as a word what it has just written in parts waits, and that would count as the measured program's own time.
    receiver: u16,
    receivers_rest: u32,
    words: [u64; 6],
    /// Of the first of the connections.
    port: u16,
    _pad_after_port: u16,
    client: u32,
    /// Of each of them.
    sequence: u32,
    payload: u32,
    /// There are so many of them, as a power of two, and their packets come in an order that no cache foresees.
    flows: u32,
    /// How many packets there were so far.
    packets: u64,
}

/// Odd: its multiples are a permutation of the numbers below any power of two.
const STRIDE: u32 = 0x9e37_79b1;
/// Connections from one address, as a power of two.
const PORTS: u32 = 14;
/// So many there are at most.
const MOST: u32 = 1 << 20;

/// How frames go on that came in by an interface.
#[repr(C)]
struct Onward {
    /// 0: not at all.
    ifindex: u32,
    to: [u16; 3],
    from: [u16; 3],
}

/// By the lowest bits of the interface's number.
const LINKS: u32 = 4096;

#[btf_map(name = "onward")]
static ONWARD: Array<Onward, { LINKS as usize }> = Array::new();
/// One for each of the connections that packets are of.
#[btf_map(name = "records")]
static RECORDS: Array<[u64; 16], 1> = Array::new();
#[btf_map(name = "headers")]
static SAVED: Array<Headers, 1> = Array::new();
#[btf_map(name = "measured_tc")]
static MEASURED_TC: ProgramArray<1> = ProgramArray::new();
#[btf_map(name = "measured_xdp")]
static MEASURED_XDP: ProgramArray<1> = ProgramArray::new();

#[classifier]
fn empty_tc(_ctx: TcContext) -> i32 {
    TC_ACT_OK
}

#[classifier]
fn bare_tc(ctx: TcContext) -> i32 {
    if is_tcp(ctx.data(), ctx.data_end()) { TC_ACT_OK } else { TC_ACT_SHOT }
}

#[classifier]
fn record_tc(ctx: TcContext) -> i32 {
    if is_known(ctx.data(), ctx.data_end()) { TC_ACT_OK } else { TC_ACT_SHOT }
}

#[classifier]
fn again_tc(ctx: TcContext) -> i32 {
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is left to be dropped.
        unsafe { MEASURED_TC.tail_call(&ctx, 0) };
    }
    TC_ACT_SHOT
}

#[xdp(frags)]
fn empty_xdp(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_TX
}

#[xdp(frags)]
fn bare_xdp(ctx: XdpContext) -> u32 {
    if is_tcp(ctx.data(), ctx.data_end()) { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

#[xdp(frags)]
fn record_xdp(ctx: XdpContext) -> u32 {
    if is_known(ctx.data(), ctx.data_end()) { xdp_action::XDP_TX } else { xdp_action::XDP_DROP }
}

#[xdp(frags)]
fn again_xdp(ctx: XdpContext) -> u32 {
    if restore(ctx.data(), ctx.data_end()).is_some() {
        // SAFETY: nothing is left to be dropped.
        unsafe { MEASURED_XDP.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_DROP
}

#[xdp(frags)]
fn route_xdp(ctx: XdpContext) -> u32 {
    route(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn route(ctx: &XdpContext) -> Option<u32> {
    let data = ctx.data();
    if !is_tcp(data, ctx.data_end()) {
        return None;
    }
    let onward = ONWARD.get(ctx.ingress_ifindex() as u32 & (LINKS - 1)).filter(|onward| onward.ifindex != 0)?;
    for (at, half) in onward.to.into_iter().chain(onward.from).enumerate() {
        // SAFETY: within the headers, which are there.
        unsafe { *((data + 2 * at) as *mut u16) = half };
    }
    // SAFETY: no pointers.
    Some(unsafe { bpf_redirect(onward.ifindex, 0) } as u32)
}

#[inline(always)]
fn is_tcp(data: usize, end: usize) -> bool {
    if data + HEADERS > end {
        return false;
    }
    // SAFETY: all of these lie within the headers, which are there.
    let byte = |at: usize| unsafe { *((data + at) as *const u8) };
    byte(ETHER_TYPE) == 8 && byte(ETHER_TYPE + 1) == 0 && byte(VERSION) == 0x45 && byte(PROTOCOL) == 6
}

/// Whether the record of the packet's connection is there, found without a search.
#[inline(always)]
fn is_known(data: usize, end: usize) -> bool {
    if !is_tcp(data, end) {
        return false;
    }
    // SAFETY: within the headers, which are there.
    let client = u32::from_be(unsafe { *((data + 26) as *const u32) });
    // SAFETY: as above.
    let port = u16::from_be(unsafe { *((data + 34) as *const u16) });
    let place = (client << PORTS).wrapping_add(u32::from(port)) & (MOST - 1);
    RECORDS.get(place).is_some_and(|record| record[0] == 0)
}

#[inline(always)]
fn restore(data: usize, end: usize) -> Option<()> {
    // SAFETY: there is one test-run at a time.
    let saved = unsafe { &mut *SAVED.get_ptr_mut(0)? };
    if data + HEADERS > end {
        return None;
    }
    let bits = saved.flows & 31;
    let which = (saved.packets as u32).wrapping_mul(STRIDE) & ((1 << bits) - 1);
    let before = (saved.packets >> bits) as u32;
    saved.packets += 1;
    let client = saved.client.wrapping_add(which >> PORTS).to_be();
    let port = saved.port.wrapping_add(which as u16 & ((1 << PORTS) - 1)).to_be();
    let sequence = saved.sequence.wrapping_add(before.wrapping_mul(saved.payload)).to_be();
    let [a, b, c, d, e, f] = saved.words;
    let words = [
        a,
        b,
        low(c) | u64::from(client) << 32,
        d & !(0xffff << 32) | u64::from(port) << 32,
        e & !low(u64::MAX) | u64::from(sequence),
        f,
    ];
    // SAFETY: within the headers, which are there; packets begin two bytes before a word.
    unsafe { *(data as *mut u16) = saved.receiver };
    // SAFETY: as above.
    unsafe { *((data + 2) as *mut u32) = saved.receivers_rest };
    for (index, word) in words.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe { *((data + 6 + 8 * index) as *mut u64) = word };
    }
    Some(())
}

#[inline(always)]
const fn low(word: u64) -> u64 {
    word & 0xffff_ffff
}

proxy_ebpf::complete_object!();
