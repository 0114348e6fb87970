//! Every reason to free a flow, at its limit and just before it.

use proxy_ebpf::nat::{Flow, flow};

use super::{
    super::fate::{Fate::*, Reason::*, *},
    open,
};

const NOW: u32 = 1_000_000;
const FIN: u8 = 0x01;
const RST: u8 = 0x04;
const LINGERS: Lingers = Lingers { closed: 8, closing: 400, half_closed: 2000, reset: 7, half_open: 450, severed: 15 };

fn judge(flow: &Flow, standing: Standing) -> Fate {
    fate(flow, NOW, &LINGERS, standing)
}

/// Frees for `reason` once both ends were silent for `linger`, and not a tick before; nor while one still speaks.
fn check(name: &str, flow: Flow, standing: Standing, reason: Reason, linger: u32) {
    let silent = |client: u32, node: u32| {
        let mut flow = flow;
        (flow.client.seen, flow.node.seen) = (NOW - client, NOW - node);
        judge(&flow, standing)
    };
    assert_eq!(silent(linger, linger), Free(reason), "{name}");
    assert_eq!(silent(linger - 1, linger - 1), Keep, "{name}, just before");
    assert_eq!(silent(linger - 1, linger + 9), Keep, "{name}, the client speaks");
    if reason != HalfOpen {
        assert_eq!(silent(linger + 9, linger - 1), Keep, "{name}, the node speaks");
    }
}

fn said(client: u8, node: u8) -> Flow {
    let mut flow = open(NOW);
    flow.client_flags |= client;
    flow.node_flags |= node;
    flow
}

#[test]
fn what_has_ended_is_freed_when_it_has_been_silent() {
    let none = Standing::default();
    let idle = Standing { idle_timeout: Some(5000), ..none };
    let half = |flow: Flow| Flow { state: flow::NEXT | flow::HALF, ..flow };
    check("closed by both", said(FIN, FIN), none, Closed, LINGERS.closed);
    check("reset by the client", said(RST, 0), none, Reset, LINGERS.reset);
    check("reset by the node after both closed", said(FIN, FIN | RST), none, Reset, LINGERS.reset);
    check("refused by the node", half(said(0, RST)), none, Reset, LINGERS.reset);
    check("closed by the client alone", said(FIN, 0), none, HalfClosed, LINGERS.half_closed);
    check("closed by the node alone", said(0, FIN), idle, HalfClosed, LINGERS.half_closed);
    check("a handshake", half(said(0, 0)), none, HalfOpen, LINGERS.half_open);
    check("idle", said(0, 0), idle, Idle, 5000);
}

#[test]
fn a_fin_that_is_not_acknowledged_keeps_the_flow_for_its_repetitions() {
    for unacknowledged in [0, 1] {
        let mut flow = said(FIN, FIN);
        [&mut flow.client, &mut flow.node][unacknowledged].acked -= 1;
        check("closing", flow, Standing::default(), Closed, LINGERS.closing);
    }
    // Sequence numbers wrap.
    let mut flow = said(FIN, FIN);
    (flow.client.next, flow.node.acked) = (u32::MAX, 1);
    check("closed", flow, Standing::default(), Closed, LINGERS.closed);
    (flow.client.next, flow.node.acked) = (1, u32::MAX);
    check("closing", flow, Standing::default(), Closed, LINGERS.closing);
}

#[test]
fn silence_alone_ends_nothing() {
    let mut flow = open(NOW);
    (flow.client.seen, flow.node.seen) = (NOW.wrapping_sub(i32::MAX as u32), NOW.wrapping_sub(i32::MAX as u32));
    assert_eq!(judge(&flow, Standing::default()), Keep);
}

#[test]
fn a_node_that_repeats_its_syn_ack_keeps_no_handshake_open() {
    let mut flow = Flow { state: flow::NEXT | flow::HALF, ..open(NOW) };
    flow.client.seen = NOW - LINGERS.half_open;
    assert_eq!(judge(&flow, Standing::default()), Free(HalfOpen));
}

#[test]
fn a_severed_generation_is_freed_whatever_its_ends_say() {
    let severed = |through, ago| Standing { severed: Some(Severing { through, at: NOW - ago }), idle_timeout: None };
    let of = |generation| Flow { generation, ..open(NOW) };
    assert_eq!(judge(&of(5), severed(5, 15)), Free(Severed));
    assert_eq!(judge(&of(4), severed(5, 15)), Free(Severed));
    assert_eq!(judge(&of(5), severed(5, 14)), Keep, "just severed");
    assert_eq!(judge(&of(6), severed(5, 99)), Keep, "it lives");
    assert_eq!(judge(&of(u32::MAX), severed(3, 15)), Free(Severed), "over the wrap");
    assert_eq!(judge(&of(3), severed(u32::MAX, 15)), Keep, "over the wrap");
    // The table knows a generation from the kernel before it hears of it from the switch: it lives.
    assert_eq!(judge(&of(7), severed(5, 99)), Keep);
}

#[test]
fn times_survive_the_wrap_of_the_clock() {
    let mut flow = said(RST, 0);
    (flow.client.seen, flow.node.seen) = (u32::MAX - 2, u32::MAX - 3);
    assert_eq!(fate(&flow, LINGERS.reset - 4, &LINGERS, Standing::default()), Keep);
    assert_eq!(fate(&flow, LINGERS.reset - 3, &LINGERS, Standing::default()), Free(Reset));
    // A packet that came in after the clock was read.
    flow.client.seen = 3;
    assert_eq!(fate(&flow, 1, &LINGERS, Standing::default()), Keep);
}

#[test]
fn reasons_have_names_in_their_order() {
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
        assert!(!reason.name().is_empty());
    }
}
