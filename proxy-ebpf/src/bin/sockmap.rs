//! The in-kernel splice: every segment that arrives on a spliced socket goes out on its peer.
//! Promises: no byte moves unless the target's gate is open for the socket's generation, and no
//! more than the daemon's credit waits for a slow peer. What it may not redirect it leaves on the
//! socket, in order, for the daemon. Needs sk_skb verdicts without a parser (5.10) and ring buffers (5.8).
#![no_std]
#![no_main]

use aya_ebpf::{
    btf_maps::{HashMap, PerCpuArray, RingBuf, SockHash},
    helpers::bpf_get_socket_cookie,
    macros::{btf_map, stream_verdict},
    programs::SkBuffContext,
};
use proxy_ebpf::{CHARGE_PER_SEGMENT, Cookie, Event, Link, Meter, Target, TargetKey, counter, event};

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

#[stream_verdict]
#[expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]
fn verdict(ctx: SkBuffContext) -> u32 {
    if ctx.len() == 0 {
        // A FIN of its own, which the socket's state has already taken in. Queued for anybody it would
        // be a send of no bytes, which the kernel's worker takes for a broken pipe (sk_psock_backlog).
        count(counter::DROPPED_FIN, 1);
        return SK_DROP;
    }
    if let Err(Pass { counter }) = redirect(&ctx) {
        count(counter, 1);
        #[cfg(feature = "log")]
        aya_log_ebpf::debug!(&ctx, "a segment of {} bytes is passed to the daemon: counter {}", ctx.len(), counter);
    }
    // With a redirect chosen by the helper SK_PASS carries it out; without one the segment stays.
    SK_PASS
}

fn redirect(ctx: &SkBuffContext) -> Result<(), Pass> {
    // SAFETY: the context is the kernel's own, valid for the whole call.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let Some(meter) = METERS.get_ptr_mut(cookie) else {
        return Err(Pass { counter: counter::PASSED_NOT_LINKED });
    };
    // SAFETY: a socket's segments are judged under its lock, so this program is the only writer.
    let meter = unsafe { &mut *meter };
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
        tell(meter, cookie, event::CREDIT_LOW);
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
    meter.passed += len;
    if meter.passing == 0 {
        meter.passing = 1;
        tell(meter, cookie, event::PASSING);
    }
    Pass { counter }
}

fn tell(meter: &Meter, cookie: Cookie, kind: u32) {
    let event = Event { cookie, kind, worker: meter.worker, token: meter.token, _pad: 0 };
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

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// The kernel's sk_skb helpers are not GPL-only, but cookies and ring buffers may be.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
