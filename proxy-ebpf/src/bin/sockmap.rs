//! The in-kernel splice: every segment that arrives on a spliced socket goes out on its peer.
//! Promises: no byte moves unless the target's gate is open for the socket's generation, and no
//! more than the daemon's credit waits for a slow peer. What it may not redirect it leaves on the
//! socket, in order, for the daemon. Every byte goes on once: a segment that does not continue the stream
//! ends the connection. Needs sk_skb verdicts without a parser (5.10) and ring buffers (5.8).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{HashMap, PerCpuArray, RingBuf, SockHash},
    helpers::{bpf_get_socket_cookie, bpf_probe_read_kernel},
    macros::{btf_map, stream_verdict},
    programs::SkBuffContext,
};
use proxy_ebpf::{CHARGE_PER_SEGMENT, Cookie, Event, Link, Meter, Target, TargetKey, counter, event, sequence};

// Sizes are the least that loads; the daemon sets them from the configuration.
#[btf_map(name = "targets")]
static TARGETS: HashMap<TargetKey, Target, 1024> = HashMap::new();
#[btf_map(name = "links")]
static LINKS: HashMap<Cookie, Link, 1024> = HashMap::new();
#[btf_map(name = "meters")]
static METERS: HashMap<Cookie, Meter, 1024> = HashMap::new();
#[btf_map(name = "peers")]
static PEERS: SockHash<Cookie, 1024> = SockHash::new();
#[btf_map(name = "spliced")]
static SPLICED: SockHash<Cookie, 1024> = SockHash::new();
#[btf_map(name = "events")]
static EVENTS: RingBuf<Event, 262144> = RingBuf::new();
#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, { counter::COUNT as usize }> = PerCpuArray::new();

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;

/// Why a segment stays on its socket.
struct Pass {
    counter: u32,
}

/// The stream cannot be continued with this segment.
struct Broken {
    gap: i32,
}

#[stream_verdict]
#[expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]
fn verdict(ctx: SkBuffContext) -> u32 {
    if ctx.len() == 0 {
        return drop_fin();
    }
    // SAFETY: the context is the kernel's own, valid for the whole call.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(meter) = METERS.get_ptr_mut(cookie) else {
        count(counter::PASSED_NOT_LINKED, 1);
        return SK_PASS;
    };
    // SAFETY: a socket's segments are judged under its lock, so this program is the only writer.
    let meter = unsafe { &mut *meter };
    if let Err(Broken { gap }) = continues(&ctx, meter) {
        meter.sequence = sequence::BROKEN;
        count(counter::BROKEN, 1);
        tell(meter, cookie, event::BROKEN, gap);
        return SK_DROP;
    }
    if ctx.len() == 0 {
        return drop_fin();
    }
    if let Err(Pass { counter }) = redirect(&ctx, cookie, meter) {
        count(counter, 1);
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&ctx, "a segment of {} bytes is passed to the daemon: counter {}", ctx.len(), counter);
    }
    // With a redirect chosen by the helper SK_PASS carries it out; without one the segment stays.
    SK_PASS
}

/// A FIN without a byte to go on, which the socket's state has already taken in. Queued for anybody it would
/// be a send of no bytes, which the kernel's worker takes for a broken pipe (sk_psock_backlog).
fn drop_fin() -> u32 {
    count(counter::DROPPED_FIN, 1);
    SK_DROP
}

/// Where the kernel keeps a segment's first and last sequence number while TCP has it: the head of
/// `tcp_skb_cb`, which lies at `sk_buff.cb` (include/linux/skbuff.h, include/net/tcp.h, 64-bit). Should
/// another kernel have it elsewhere, the two will not fit the length, and the self-test fails.
const CONTROL_BLOCK: usize = 40;
/// Where it has the socket that a segment belongs to (`sk_buff.sk`, 64-bit).
const SOCKET: usize = 24;
/// Where a socket has the number of the first byte that nobody has read (`tcp_sock.copied_seq`). The daemon writes it, from the
/// running kernel's own types.
#[unsafe(no_mangle)]
static COPIED_SEQ: u32 = 0;
/// What one call of the helper can cut off (sk_skb_adjust_room), and how often it takes, before the last, for the longest that TCP may have
/// made of segments that came out of order (tcp_ooo_try_coalesce): 17 fragments (MAX_SKB_FRAGS) of 32 KiB each, and a head.
const MOST_CUT: u32 = 0xfff;
const CUTS: u32 = 160;

/// Makes the segment begin with the next byte of the stream. TCP takes in a retransmission whose head
/// has come before (its own readers skip it), but tcp_read_skb hands it over whole; of one that is new by
/// its FIN only, nothing is left.
#[inline(always)]
fn continues(ctx: &SkBuffContext, meter: &mut Meter) -> Result<(), Broken> {
    let len = ctx.len();
    let block = ctx.skb.skb.cast::<u8>().wrapping_add(CONTROL_BLOCK).cast::<[u32; 2]>();
    // SAFETY: the helper checks the address itself; the value is two integers.
    let [first, end] = unsafe { bpf_probe_read_kernel(block) }.unwrap_or([meter.next; 2]);
    if meter.sequence == sequence::UNKNOWN {
        meter.next = next_unread(ctx).ok_or(Broken { gap: 0 })?;
    }
    let known = meter.next.wrapping_sub(first);
    let broken = Broken { gap: known.wrapping_neg() as i32 };
    // A FIN takes a number of its own.
    let numbers = end.wrapping_sub(first);
    if !matches!(numbers.wrapping_sub(len), 0 | 1) || meter.sequence == sequence::BROKEN {
        return Err(broken);
    }
    if known != 0 {
        // A gap before it looks like a number that is far too large.
        if known >= numbers || segment_cut(ctx.skb.skb, known) == 0 {
            return Err(broken);
        }
        count(counter::TRIMMED, 1);
    }
    meter.next = first.wrapping_add(len);
    meter.sequence = sequence::KNOWN;
    Ok(())
}

/// The number of the first byte that nobody has read: the daemon may have read those before it.
#[inline(always)]
fn next_unread(ctx: &SkBuffContext) -> Option<u32> {
    let place = ctx.skb.skb.cast::<u8>().wrapping_add(SOCKET).cast::<u64>();
    // SAFETY: the helper checks the address itself; so it does below.
    let socket = unsafe { bpf_probe_read_kernel(place) }.ok()?;
    // SAFETY: a constant, but not to the compiler.
    let offset = unsafe { (&raw const COPIED_SEQ).read_volatile() };
    // SAFETY: as above; the value is an integer.
    unsafe { bpf_probe_read_kernel((socket + u64::from(offset)) as *const u32) }.ok()
}

/// Cuts `known` bytes off the segment's head; 0 if it could not. By itself for the verifier, which else looks at all that
/// follows once for each turn.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment_cut(skb: *mut __sk_buff, mut known: u32) -> u32 {
    let ctx = SkBuffContext::new(skb);
    for _ in 0..CUTS {
        if known <= MOST_CUT {
            break;
        }
        if ctx.adjust_room(-(MOST_CUT as i32), 0, 0).is_err() {
            return 0;
        }
        known -= MOST_CUT;
    }
    u32::from(known <= MOST_CUT && ctx.adjust_room(-(known as i32), 0, 0).is_ok())
}

fn redirect(ctx: &SkBuffContext, cookie: Cookie, meter: &mut Meter) -> Result<(), Pass> {
    let len = u64::from(ctx.len());
    let Some(link) = link_of(cookie).or_else(|| link_of(cookie)) else {
        return Err(pass(meter, cookie, len, counter::PASSED_NOT_LINKED));
    };
    let charged = meter.charged + len + CHARGE_PER_SEGMENT;
    if let Some(counter) = reason_to_pass(&link, meter, charged) {
        return Err(pass(meter, cookie, len, counter));
    }
    if PEERS.redirect_skb(ctx, cookie, 0) == 0 {
        return Err(pass(meter, cookie, len, counter::PASSED_NO_PEER));
    }
    meter.bytes += len;
    meter.charged = charged;
    if charged >= link.notify_at && (meter.notified == 0 || meter.notified_at != link.notify_at) {
        meter.notified = 1;
        meter.notified_at = link.notify_at;
        tell(meter, cookie, event::CREDIT_LOW, 0);
    }
    count(counter::REDIRECTED, 1);
    count(counter::REDIRECTED_BYTES, len);
    Ok(())
}

/// One whole entry of `links`, or none: see [`Link::cookie`].
fn link_of(cookie: Cookie) -> Option<Link> {
    let entry = LINKS.get_ptr(cookie)?;
    // SAFETY: the pointer is to a map value, which stays readable memory whatever becomes of it; the
    // values are integers; volatile keeps the order, which is what the check relies on.
    let link = unsafe { entry.read_volatile() };
    // SAFETY: as above; a `Link` begins with its cookie.
    let owner = unsafe { entry.cast::<Cookie>().read_volatile() };
    (owner == cookie).then_some(link)
}

fn reason_to_pass(link: &Link, meter: &mut Meter, charged: u64) -> Option<u32> {
    if meter.passing != 0 && link.resume_at != meter.passed {
        return Some(counter::PASSED_AFTER_PASS);
    }
    // SAFETY: a single word is read. Generations are never used twice, so an entry that became
    // another's cannot look open to this link.
    let gate = unsafe { TARGETS.get(link.target) };
    if gate.is_none_or(|target| target.live != link.generation) {
        return Some(counter::PASSED_GATE_SHUT);
    }
    if charged > link.limit {
        return Some(counter::PASSED_NO_CREDIT);
    }
    meter.passing = 0;
    None
}

fn pass(meter: &mut Meter, cookie: Cookie, len: u64, counter: u32) -> Pass {
    let before = fetch_add(&mut meter.passed, len);
    if meter.passing == 0 {
        meter.passing = 1;
        tell(meter, cookie, event::PASSING, 0);
    } else if link_of(cookie).is_none_or(|link| link.resume_at == before) {
        // The daemon may have looked at `passed` just before this, and now believes that nothing was
        // passed behind its back. It wrote `resume_at` before it looked and we look after we wrote, so
        // one of the two sees the other.
        tell(meter, cookie, event::PASSING, 0);
    }
    Pass { counter }
}

/// Adds in one step that nothing may be moved across, in either direction. Core offers no atomic
/// addition for this target, though the processor has one (BPF_ATOMIC, 5.12).
#[cfg(target_arch = "bpf")]
fn fetch_add(word: &mut u64, by: u64) -> u64 {
    let before;
    // SAFETY: the instruction reads and writes the one word that is borrowed.
    unsafe {
        core::arch::asm!(
            "{by} = atomic_fetch_add((u64 *)({word} + 0), {by})",
            word = in(reg) core::ptr::from_mut(word),
            by = inout(reg) by => before,
        );
    }
    before
}

/// On the host the crate is only linted.
#[cfg(not(target_arch = "bpf"))]
fn fetch_add(word: &mut u64, by: u64) -> u64 {
    let before = *word;
    *word += by;
    before
}

fn tell(meter: &Meter, cookie: Cookie, kind: u32, gap: i32) {
    let event = Event { cookie, kind, worker: meter.worker, token: meter.token, gap };
    if EVENTS.output(event, 0).is_err() {
        count(counter::EVENT_LOST, 1);
    }
}

fn count(index: u32, by: u64) {
    if let Some(value) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *value += by };
    }
}

proxy_ebpf::complete_object!();
