//! net-bench: how fast frames go from one machine to another, measured from inside.
//!
//! Prepares the queues in ring 0 and works in ring 3, where every KVM runs at full speed, by looking at the used rings: no interrupt.
//! Words: `answer` is one machine; the other is `small COUNT` (frames of 64 bytes), `bulk MIB` (frames as long as the device takes
//! them: TCP that it cuts itself, or 1514 bytes) or `round COUNT` (a frame there and back, one at a time). A sender has a window
//! of frames that are not yet acknowledged, so nothing is lost for want of room. Both power off at the end; exit with 1 (status 3)
//! where there is no device, or nothing comes any more.
//! Sources: virtio 1.2 §5.1.6 (frames and their header), §2.7.7 (EVENT_IDX); RFC 9293 §3.1 (TCP); RFC 791 §3.1 (IPv4).

#![no_std]
#![no_main]

use core::hint::spin_loop;
use core::ptr::addr_of_mut;

use guest::memory::{GIB, open_to_ring_3, read8, read32, write32, write64};
use guest::start_info::StartInfo;
use guest::virtio::{Device, EVENT_IDX, NETWORK, Queue, Shared};
use guest::words::Words;
use guest::{cpu, interrupt, power, print, ring3};

/// Features: the device has an address, forms checksums, cuts TCP over IPv4; and the same for what comes.
const MAC: u64 = 1 << 5;
const CSUM: u64 = 1 << 0;
const GUEST_CSUM: u64 = 1 << 1;
const GUEST_TSO4: u64 = 1 << 7;
const HOST_TSO4: u64 = 1 << 11;
/// Queues.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;

/// Buffers of each queue, each with room for the longest frame; they begin behind this program.
const BUFFERS: u16 = 64;
const BUFFER_BYTES: u64 = 68 << 10;
const COMING: u64 = 32 << 20;
const GOING: u64 = 64 << 20;
/// The header before a frame; in the frame: who sends, what kind it is, and its number.
const HEADER_BYTES: u64 = 12;
const SOURCE: u64 = HEADER_BYTES + 6;
const KIND: u64 = HEADER_BYTES + 54;
const NUMBER: u64 = HEADER_BYTES + 56;
/// Lengths of frames: small ones, those of an Ethernet, and TCP that is cut.
const SMALL: u64 = 64;
const ETHERNET: u64 = 1514;
const LONG: u64 = 65_226;
/// Payload of a segment.
const SEGMENT: u64 = 1448;

/// Frames that may be on their way, and bytes; an acknowledgement comes after a quarter of them.
const WINDOW: u32 = 48;
const WINDOW_BYTES: u64 = 768 << 10;
/// Cycles without anything new after which the other machine is given up: seconds.
const PATIENCE: u64 = 1 << 34;
/// How often somebody is called who has not come yet, in cycles.
const CALL_EVERY: u64 = 1 << 26;

/// Kinds of frames.
const CALL: u8 = 1;
const HERE: u8 = 2;
const DATA: u8 = 3;
const ACKNOWLEDGE: u8 = 4;
const THERE: u8 = 5;
const BACK: u8 = 6;
const END: u8 = 7;

/// What ring 3 works on.
struct Work {
    coming: Queue<64>,
    going: Queue<64>,
    /// Where a kick goes.
    kick: u64,
    /// The device's own address, and that of the other machine, in the low bytes.
    own: u64,
    other: u64,
    /// Whether the device cuts TCP into segments.
    cuts: bool,
    /// Frames that were put into the transmit queue, and those of them that the device still has.
    sent: u16,
    in_queue: u16,
    /// What is to be sent: length and number of frames, and how many may be on their way.
    bytes: u64,
    count: u32,
    window: u32,
    cycles: u64,
    failed: bool,
}

static WORK: Shared<Work> = Shared::new(Work {
    coming: Queue::new(),
    going: Queue::new(),
    kick: 0,
    own: 0,
    other: 0,
    cuts: false,
    sent: 0,
    in_queue: 0,
    bytes: 0,
    count: 0,
    window: 0,
    cycles: 0,
    failed: false,
});

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    interrupt::init();
    ring3::init();
    let Some(card) = Device::find(NETWORK) else {
        print!("no network device; --transport mmio --net switch:NAME gives one\n");
        power::exit(1)
    };
    open_to_ring_3(3 * GIB);
    let work = WORK.take();
    begin(work, card);
    let mut words = Words::of(StartInfo::at(boot_information).command_line());
    let (main, what): (extern "C" fn(u64), &str) = match words.next() {
        Some(b"answer") => (answer, "answered"),
        Some(b"small") => {
            (work.bytes, work.count) = (SMALL, words.number().unwrap_or(100_000) as u32);
            (stream, "small")
        }
        Some(b"bulk") => {
            work.bytes = if work.cuts { LONG } else { ETHERNET };
            work.count = ((words.number().unwrap_or(64) << 20) / work.bytes) as u32;
            (stream, "bulk")
        }
        Some(b"round") => {
            (work.bytes, work.count) = (SMALL, words.number().unwrap_or(1000) as u32);
            (round, "round")
        }
        _ => {
            print!("words: answer, small COUNT, bulk MIB or round COUNT\n");
            power::exit(1)
        }
    };
    let bytes = WINDOW_BYTES / work.bytes.max(1);
    work.window = if bytes < u64::from(WINDOW) { bytes as u32 } else { WINDOW };
    ring3::run(main, addr_of_mut!(*work) as u64);
    if work.failed {
        print!("nothing comes any more\n");
        power::exit(1)
    }
    print!(what, ": ", u64::from(work.count), " frames of ", work.bytes, " bytes in ", work.cycles, " cycles\n");
    power::off()
}

/// Starts the device and gives it the buffers for what comes.
fn begin(work: &mut Work, card: Device) {
    let features = card.begin(EVENT_IDX | MAC | CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4);
    assert!(features & EVENT_IDX != 0, "the device has no event indices");
    work.cuts = features & (HOST_TSO4 | CSUM) == HOST_TSO4 | CSUM;
    card.set_queue(RECEIVE, &work.coming);
    card.set_queue(TRANSMIT, &work.going);
    card.ready();
    (work.kick, work.own) = (card.kick_address(), u64::from(card.config(0)) | u64::from(card.config(4) & 0xffff) << 32);
    work.other = 0xffff_ffff_ffff;
    for index in 0..BUFFERS {
        work.coming.describe_writable(index, coming(index), BUFFER_BYTES as u32);
        work.coming.offer(index);
        write_frame(work, going(index));
    }
    card.kick(RECEIVE);
}

/// Address of a buffer for what comes.
fn coming(index: u16) -> u64 {
    COMING + u64::from(index % BUFFERS) * BUFFER_BYTES
}

/// Address of a frame to be sent, with its header.
fn going(index: u16) -> u64 {
    GOING + u64::from(index % BUFFERS) * BUFFER_BYTES
}

/// A frame that is TCP over IPv4 as far as somebody looks who cuts it.
fn write_frame(work: &Work, at: u64) {
    let byte = |offset: u64, value: u8| write8(at + HEADER_BYTES + offset, value);
    (0..6).for_each(|index| byte(6 + index, (work.own >> (8 * index)) as u8));
    for (offset, value) in
        [(12, 0x08), (14, 0x45), (22, 64), (23, 6), (26, 10), (29, 1), (30, 10), (33, 2), (46, 0x50), (47, 0x10)]
    {
        byte(offset, value);
    }
}

fn write8(address: u64, value: u8) {
    // SAFETY: a byte of a buffer, which nothing else uses.
    unsafe { (address as *mut u8).write_volatile(value) };
}

/// Puts a frame into the queue; waits until there is room.
fn send(work: &mut Work, kind: u8, number: u32, bytes: u64) {
    while work.in_queue == BUFFERS {
        take_back(work);
    }
    let index = work.sent % BUFFERS;
    let at = going(index);
    // The header: nothing, or a sum from the TCP header on and segments.
    let cut = bytes > ETHERNET;
    write64(at, if cut { 1 | 1 << 8 | 54 << 16 | SEGMENT << 32 | 34 << 48 } else { 0 });
    write32(at + 8, if cut { 16 } else { 0 });
    (0..6).for_each(|byte| write8(at + HEADER_BYTES + byte, (work.other >> (8 * byte)) as u8));
    let total = (bytes - 14) as u16;
    write8(at + HEADER_BYTES + 16, (total >> 8) as u8);
    write8(at + HEADER_BYTES + 17, total as u8);
    write8(at + KIND, kind);
    write32(at + NUMBER, number);
    work.going.describe(index, at, (HEADER_BYTES + bytes) as u32);
    let before = work.going.offered();
    work.going.keep_quiet();
    work.going.offer(index);
    (work.sent, work.in_queue) = (work.sent.wrapping_add(1), work.in_queue + 1);
    if work.going.wants_kick(before) {
        write32(work.kick, TRANSMIT);
    }
}

/// Takes back what the device has sent.
fn take_back(work: &mut Work) {
    while work.going.used().is_some() {
        work.in_queue -= 1;
    }
}

/// The next frame that has come: its kind and number. Who calls or answers a call is the other machine from then on.
fn receive(work: &mut Work) -> Option<(u8, u32)> {
    work.coming.keep_quiet();
    let (head, _) = work.coming.used()?;
    let at = coming(head);
    let (kind, number) = (read8(at + KIND), read32(at + NUMBER));
    if kind == CALL || kind == HERE {
        work.other = (0..6).fold(0, |mac, byte| mac | u64::from(read8(at + SOURCE + byte)) << (8 * byte));
    }
    let before = work.coming.offered();
    work.coming.offer(head);
    if work.coming.wants_kick(before) {
        write32(work.kick, RECEIVE);
    }
    Some((kind, number))
}

/// Waits for a frame of this kind; its number. `again` is called now and then. 0, and a failure, when none comes.
fn wait_for(work: &mut Work, wanted: u8, again: fn(&mut Work)) -> u32 {
    let (start, mut called) = (cpu::time_stamp(), 0);
    loop {
        match receive(work) {
            Some((kind, number)) if kind == wanted => return number,
            Some(_) => {}
            None => {
                take_back(work);
                let waited = cpu::time_stamp() - start;
                if waited > called {
                    called = waited + CALL_EVERY;
                    again(work);
                }
                if waited > PATIENCE {
                    work.failed = true;
                    return 0;
                }
                spin_loop();
            }
        }
    }
}

/// In ring 3: finds the other machine.
fn find(work: &mut Work) {
    wait_for(work, HERE, |work| send(work, CALL, 0, SMALL));
}

/// In ring 3: tells the other machine that it is done.
fn end(work: &mut Work) {
    wait_for(work, END, |work| send(work, END, 0, SMALL));
}

/// In ring 3: sends frames, as many as the window lets, until all are acknowledged.
extern "C" fn stream(work: u64) {
    // SAFETY: the address of WORK, which ring 0 leaves alone until this returns.
    let work = unsafe { &mut *(work as *mut Work) };
    find(work);
    let start = cpu::time_stamp();
    let (mut sent, mut acknowledged) = (0, 0);
    // The other machine acknowledges each quarter of a window, which the number tells it.
    while acknowledged < work.count && !work.failed {
        while sent < work.count && sent - acknowledged < work.window {
            sent += 1;
            let asks = sent % (work.window / 4) == 0 || sent == work.count;
            send(work, DATA, sent << 1 | u32::from(asks), work.bytes);
        }
        acknowledged = wait_for(work, ACKNOWLEDGE, |_| ());
    }
    work.cycles = cpu::time_stamp() - start;
    end(work);
}

/// In ring 3: sends a frame, waits until it is back, and so on.
extern "C" fn round(work: u64) {
    // SAFETY: as in `stream`.
    let work = unsafe { &mut *(work as *mut Work) };
    find(work);
    let start = cpu::time_stamp();
    for number in 0..work.count {
        send(work, THERE, number, work.bytes);
        wait_for(work, BACK, |_| ());
    }
    work.cycles = cpu::time_stamp() - start;
    end(work);
}

/// In ring 3: the other machine.
extern "C" fn answer(work: u64) {
    // SAFETY: as in `stream`.
    let work = unsafe { &mut *(work as *mut Work) };
    let mut quiet_since = cpu::time_stamp();
    loop {
        let Some((kind, number)) = receive(work) else {
            take_back(work);
            if cpu::time_stamp() - quiet_since > 4 * PATIENCE {
                work.failed = true;
                return;
            }
            spin_loop();
            continue;
        };
        quiet_since = cpu::time_stamp();
        work.count += 1;
        match kind {
            CALL => send(work, HERE, 0, SMALL),
            DATA if number & 1 != 0 => send(work, ACKNOWLEDGE, number >> 1, SMALL),
            THERE => send(work, BACK, number, SMALL),
            END => {
                send(work, END, 0, SMALL);
                while work.in_queue > 0 {
                    take_back(work);
                }
                return;
            }
            _ => {}
        }
    }
}
