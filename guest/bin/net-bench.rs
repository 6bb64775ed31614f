//! net-bench: how fast frames go from one machine to another, or to its host, measured from inside.
//!
//! Prepares the device in ring 0 and works in ring 3, where every KVM runs at full speed, by looking at the used rings: no interrupt.
//! Words: `answer` is one machine; the other is `small COUNT` (frames of 64 bytes), `bulk MIB` (frames as long as the device takes
//! them: TCP that it cuts itself, or 1514 bytes) or `round COUNT` (a frame there and back, one at a time). `user PORT BYTES COUNT` sends
//! frames of so many bytes, UDP, to a port of the host behind a router at 10.0.2.2, where somebody answers as a machine would. `bell
//! COUNT` needs nobody: what a kick takes, and the device until it gives a frame back that is none. A sender has a window of frames that
//! are not yet acknowledged, so nothing is lost for want of room, and kicks for all that it may send at a time, as drivers do. Both power
//! off at the end; exit with 1 (status 3) where there is no device, or nothing comes any more.
//! Sources: virtio 1.2 §5.1.6 (frames and their header), §2.7.7 (EVENT_IDX); RFC 9293 §3.1 (TCP); RFC 791 §3.1 (IPv4); RFC 768 (UDP).

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
/// Queues, and entries of each.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
const ENTRIES: usize = 256;

/// Room for the longest frame; the buffers begin behind this program.
const BUFFER_BYTES: u64 = 68 << 10;
const COMING: u64 = 32 << 20;
const GOING: u64 = 64 << 20;
/// Buffers of each queue, and those of a sender of long frames: more would only take more of the processor's cache.
const BUFFERS: u16 = 256;
const BUFFERS_BULK: u16 = 64;
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
/// Where the headers of IPv4 and UDP begin in a frame, and the port that datagrams come from.
const IPV4: u64 = 14;
const UDP: u64 = 34;
const OWN_PORT: u16 = 7000;

/// Frames that may be on their way, and bytes; an acknowledgement comes after half of them. To the host, as many as wait in a
/// socket that nobody reads for a while.
const WINDOW: u32 = 192;
const WINDOW_BYTES: u64 = 384 << 10;
const WINDOW_TO_HOST: u32 = 48;
/// Cycles without anything new after which the other machine is given up: seconds.
const PATIENCE: u64 = 1 << 34;
/// How often somebody is called who has not come yet, in cycles.
const CALL_EVERY: u64 = 1 << 26;
/// Cycles in which a device that has nothing to do falls asleep.
const DOZE: u64 = 1 << 18;

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
    coming: Queue<ENTRIES>,
    going: Queue<ENTRIES>,
    /// Where a kick goes.
    kick: u64,
    /// The device's own address, and that of the other machine, in the low bytes.
    own: u64,
    other: u64,
    /// The port of the host that frames go to; 0: to a machine.
    port: u16,
    /// Whether the device cuts TCP into segments.
    cuts: bool,
    /// Buffers for what goes, frames that were put into the transmit queue, those of them that were kicked for where that was wanted,
    /// and those that the device still has.
    buffers: u16,
    sent: u16,
    told: u16,
    in_queue: u16,
    /// What is to be sent: length and number of frames, and how many may be on their way.
    bytes: u64,
    count: u32,
    window: u32,
    cycles: u64,
    /// Of these, those of kicks.
    kicking: u64,
    failed: bool,
}

/// All zeroes, so that it takes no room in the file.
static WORK: Shared<Work> = Shared::new(Work {
    coming: Queue::new(),
    going: Queue::new(),
    kick: 0,
    own: 0,
    other: 0,
    port: 0,
    cuts: false,
    buffers: 0,
    sent: 0,
    told: 0,
    in_queue: 0,
    bytes: 0,
    count: 0,
    window: 0,
    cycles: 0,
    kicking: 0,
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
    let Some((main, what)) = task(work, &mut words) else {
        print!("words: answer, small COUNT, bulk MIB, round COUNT, user PORT BYTES COUNT or bell COUNT\n");
        power::exit(1)
    };
    ring3::run(main, addr_of_mut!(*work) as u64);
    if work.failed {
        print!("nothing comes any more\n");
        power::exit(1)
    }
    print!(what, ": ", u64::from(work.count), " frames of ", work.bytes, " bytes in ", work.cycles, " cycles");
    if work.kicking > 0 {
        print!(", ", work.kicking, " of them for kicks");
    }
    print!("\n");
    power::off()
}

/// What the words ask for: what ring 3 does, and its name.
fn task(work: &mut Work, words: &mut Words) -> Option<(extern "C" fn(u64), &'static str)> {
    let word = words.next()?;
    (work.bytes, work.buffers) = (SMALL, BUFFERS);
    let mut count = |otherwise| words.number().unwrap_or(otherwise);
    let task: (extern "C" fn(u64), &str) = match word {
        b"answer" => (answer, "answered"),
        b"small" => {
            work.count = count(100_000) as u32;
            (stream, "small")
        }
        b"bulk" => {
            work.bytes = if work.cuts { LONG } else { ETHERNET };
            work.count = ((count(64) << 20) / work.bytes) as u32;
            work.buffers = BUFFERS_BULK;
            (stream, "bulk")
        }
        b"round" => {
            work.count = count(1000) as u32;
            (round, "round")
        }
        b"user" => {
            work.port = count(0) as u16;
            work.bytes = count(SMALL).clamp(SMALL, ETHERNET);
            work.count = count(10_000) as u32;
            (stream, "user")
        }
        b"bell" => {
            work.count = count(1000) as u32;
            (bell, "bell")
        }
        _ => return None,
    };
    let (frames, bytes) = (if work.port == 0 { WINDOW } else { WINDOW_TO_HOST }, WINDOW_BYTES / work.bytes);
    work.window = if bytes < u64::from(frames) { bytes as u32 } else { frames };
    Some(task)
}

/// Starts the device.
fn begin(work: &mut Work, card: Device) {
    let features = card.begin(EVENT_IDX | MAC | CSUM | GUEST_CSUM | GUEST_TSO4 | HOST_TSO4);
    assert!(features & EVENT_IDX != 0, "the device has no event indices");
    work.cuts = features & (HOST_TSO4 | CSUM) == HOST_TSO4 | CSUM;
    card.set_queue(RECEIVE, &work.coming);
    card.set_queue(TRANSMIT, &work.going);
    card.ready();
    (work.kick, work.own) = (card.kick_address(), u64::from(card.config(0)) | u64::from(card.config(4) & 0xffff) << 32);
    work.other = 0xffff_ffff_ffff;
}

/// In ring 3: gives the device buffers for what comes, and prepares those for what goes.
fn prepare(work: &mut Work) {
    for index in 0..BUFFERS {
        work.coming.describe_writable(index, coming(index), BUFFER_BYTES as u32);
        work.coming.offer(index);
    }
    write32(work.kick, RECEIVE);
    (0..work.buffers).for_each(|index| write_frame(work, going(index)));
}

/// Address of a buffer for what comes.
fn coming(index: u16) -> u64 {
    COMING + u64::from(index) * BUFFER_BYTES
}

/// Address of a frame to be sent, with its header.
fn going(index: u16) -> u64 {
    GOING + u64::from(index) * BUFFER_BYTES
}

/// A frame that is TCP over IPv4 as far as somebody looks who cuts it; to the host, UDP.
fn write_frame(work: &Work, at: u64) {
    let at = at + HEADER_BYTES;
    let byte = |offset: u64, value: u8| write8(at + offset, value);
    (0..6).for_each(|index| byte(6 + index, (work.own >> (8 * index)) as u8));
    for (offset, value) in
        [(12, 0x08), (14, 0x45), (22, 64), (23, 6), (26, 10), (29, 1), (30, 10), (33, 2), (46, 0x50), (47, 0x10)]
    {
        byte(offset, value);
    }
    if work.port == 0 {
        return;
    }
    // From 10.0.2.15 to 10.0.2.2.
    for (offset, value) in [(23, 17), (28, 2), (29, 15), (32, 2)] {
        byte(offset, value);
    }
    for (offset, value) in
        [(16, (work.bytes - IPV4) as u16), (34, OWN_PORT), (36, work.port), (38, (work.bytes - UDP) as u16)]
    {
        write16(at + offset, value);
    }
    // The header's sum (RFC 1071). UDP may go without one.
    let words =
        (IPV4..UDP).step_by(2).map(|offset| u32::from(read8(at + offset)) << 8 | u32::from(read8(at + offset + 1)));
    let sum: u32 = words.sum();
    write16(at + 24, !((sum & 0xffff) + (sum >> 16)) as u16);
}

fn write8(address: u64, value: u8) {
    // SAFETY: a byte of a buffer, which nothing else uses.
    unsafe { (address as *mut u8).write_volatile(value) };
}

/// Writes a number as it stands in headers, big-endian.
fn write16(address: u64, value: u16) {
    write8(address, (value >> 8) as u8);
    write8(address + 1, value as u8);
}

/// Puts a frame into the queue; waits until there is room.
fn put(work: &mut Work, kind: u8, number: u32, bytes: u64) {
    let at = going(work.sent % work.buffers);
    while work.in_queue == work.buffers {
        tell(work);
        take_back(work);
    }
    // The header: nothing, or a sum from the TCP header on and segments.
    let cut = bytes > ETHERNET;
    write64(at, if cut { 1 | 1 << 8 | 54 << 16 | SEGMENT << 32 | 34 << 48 } else { 0 });
    write32(at + 8, if cut { 16 } else { 0 });
    (0..6).for_each(|byte| write8(at + HEADER_BYTES + byte, (work.other >> (8 * byte)) as u8));
    write16(at + HEADER_BYTES + 16, (bytes - IPV4) as u16);
    write8(at + KIND, kind);
    write32(at + NUMBER, number);
    offer(work, at, (HEADER_BYTES + bytes) as u32);
}

/// Puts `bytes` into the queue; there is room.
fn offer(work: &mut Work, at: u64, bytes: u32) {
    let index = work.sent % work.buffers;
    work.going.describe(index, at, bytes);
    work.going.keep_quiet();
    work.going.offer(index);
    (work.sent, work.in_queue) = (work.sent.wrapping_add(1), work.in_queue + 1);
}

/// Kicks for what was put into the queue, where the device wants that.
fn tell(work: &mut Work) {
    if work.told != work.sent && work.going.wants_kick(work.told) {
        write32(work.kick, TRANSMIT);
    }
    work.told = work.sent;
}

/// Sends a frame; waits until there is room.
fn send(work: &mut Work, kind: u8, number: u32, bytes: u64) {
    put(work, kind, number, bytes);
    tell(work);
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
    let at = coming(head % BUFFERS);
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

/// A short frame; all frames to the host have one length.
fn short(work: &Work) -> u64 {
    if work.port == 0 { SMALL } else { work.bytes }
}

/// In ring 3: prepares, and finds the other machine.
fn find(work: &mut Work) {
    prepare(work);
    wait_for(work, HERE, |work| send(work, CALL, 0, short(work)));
}

/// In ring 3: tells the other machine that it is done.
fn end(work: &mut Work) {
    wait_for(work, END, |work| send(work, END, 0, short(work)));
}

/// In ring 3: sends frames, as many as the window lets, until all are acknowledged.
extern "C" fn stream(work: u64) {
    // SAFETY: the address of WORK, which ring 0 leaves alone until this returns.
    let work = unsafe { &mut *(work as *mut Work) };
    find(work);
    let start = cpu::time_stamp();
    let (mut sent, mut acknowledged) = (0, 0);
    // The other machine acknowledges each half of a window, which the number tells it.
    while acknowledged < work.count && !work.failed {
        while sent < work.count && sent - acknowledged < work.window {
            sent += 1;
            let asks = sent % (work.window / 2) == 0 || sent == work.count;
            put(work, DATA, sent << 1 | u32::from(asks), work.bytes);
        }
        tell(work);
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

/// In ring 3: has a device that sleeps give back a header without a frame, and so on.
extern "C" fn bell(work: u64) {
    // SAFETY: as in `stream`.
    let work = unsafe { &mut *(work as *mut Work) };
    prepare(work);
    for _ in 0..work.count {
        let idle = cpu::time_stamp();
        while cpu::time_stamp() - idle < DOZE {
            spin_loop();
        }
        offer(work, going(work.sent % work.buffers), HEADER_BYTES as u32);
        let start = cpu::time_stamp();
        tell(work);
        work.kicking += cpu::time_stamp() - start;
        while work.in_queue > 0 {
            take_back(work);
        }
        work.cycles += cpu::time_stamp() - start;
    }
}

/// In ring 3: the other machine.
extern "C" fn answer(work: u64) {
    // SAFETY: as in `stream`.
    let work = unsafe { &mut *(work as *mut Work) };
    prepare(work);
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
