//! virtio-net: answers ARP and ping, or pings, by hand.
//!
//! The guest keeps buffers in the receive queue, into which the device puts frames, and sends by putting frames into the transmit
//! queue. Between frames it sleeps until the device interrupts. Words: its own address (10.0.0.1), and `ping ADDRESS`, which asks
//! three times. End of input powers off, or the third answer; exits with 1 (status 3) where there is no device or no answer.
//! Sources: virtio 1.2 §5.1.6 (frames and their header); RFC 826 (ARP); RFC 791 §3.1 (IPv4); RFC 792 (echo); RFC 1071 (checksum).

#![no_std]
#![no_main]

use core::ptr::addr_of;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use guest::interrupt::{self, Frame};
use guest::start_info::StartInfo;
use guest::virtio::{Device, NETWORK, Queue, Shared};
use guest::words::Words;
use guest::{apic, cpu, power, print, serial, typed};

/// Queues of a network device.
const RECEIVE: u32 = 0;
const TRANSMIT: u32 = 1;
/// Feature: the configuration begins with the device's MAC address.
const MAC: u64 = 1 << 5;
/// What stands before each frame: which checksums and cuts are left to the other side. All zeroes: none.
const HEADER_BYTES: usize = 12;
/// Buffers for frames that come, and the bytes of each: a header and the longest frame of an Ethernet.
const BUFFERS: u16 = 4;
const BUFFER_BYTES: usize = 1536;

/// Vectors of the device and of the timer, and how often the timer ticks.
const CARD: u8 = interrupt::FIRST_FREE;
const TIMER: u8 = interrupt::FIRST_FREE + 1;
const TICK_MS: u32 = 100;
/// Ticks without an answer after which nobody is expected to be there, and answers to ask for.
const PATIENCE: u32 = 100;
const ASKED: u8 = 3;

/// Types of a frame, at 12.
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// An ARP packet up to its operation, at 14: Ethernet addresses of 6 bytes for IPv4 ones of 4. Then the operation.
const ARP_HEAD: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];
const REQUEST: [u8; 2] = [0, 1];
const REPLY: [u8; 2] = [0, 2];
/// The first byte of an IPv4 header without options, and the protocol ICMP, at 23.
const IPV4_PLAIN: u8 = 0x45;
const ICMP: u8 = 1;
/// Types of an ICMP message, at 34.
const ECHO: u8 = 8;
const ECHO_REPLY: u8 = 0;
/// The IPv4 header of an echo without data, up to its addresses: 28 bytes, 64 hops, ICMP.
const ECHO_HEAD: [u8; 12] = [IPV4_PLAIN, 0, 0, 28, 0, 0, 0, 0, 64, ICMP, 0, 0];
/// Bytes of an ARP frame, and of an echo's headers.
const ARP_BYTES: usize = 42;
const ECHO_BYTES: usize = 42;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static TICKS: AtomicU32 = AtomicU32::new(0);
static COMING: Shared<Queue<4>> = Shared::new(Queue::new());
static GOING: Shared<Queue<4>> = Shared::new(Queue::new());
static BUFFER: Shared<[[u8; BUFFER_BYTES]; BUFFERS as usize]> = Shared::new([[0; BUFFER_BYTES]; BUFFERS as usize]);
static FRAME: Shared<[u8; BUFFER_BYTES]> = Shared::new([0; BUFFER_BYTES]);

/// The network device, and who this machine is.
struct Card {
    device: Device,
    coming: &'static mut Queue<4>,
    going: &'static mut Queue<4>,
    buffers: &'static mut [[u8; BUFFER_BYTES]; BUFFERS as usize],
    /// The frame that is sent.
    frame: &'static mut [u8; BUFFER_BYTES],
    mac: [u8; 6],
    address: [u8; 4],
}

/// What a frame was.
enum Came {
    /// A question, which has been answered, or nothing for us.
    Nothing,
    /// Whose MAC address is asked for is there.
    Neighbour([u8; 6]),
    /// The answer to an echo of this number.
    Echo(u8),
}

#[unsafe(no_mangle)]
extern "C" fn guest_main(boot_information: u64) -> ! {
    interrupt::init();
    apic::enable();
    let Some(device) = Device::find(NETWORK) else {
        print!("no network device; --transport mmio --net switch:NAME gives one\n");
        power::exit(1)
    };
    let mut words = Words::of(StartInfo::at(boot_information).command_line());
    let address = words.next().and_then(parse).unwrap_or([10, 0, 0, 1]);
    let asks = words.next().is_some_and(|word| word == b"ping");
    let mut card = Card::new(device, address);
    print!("this is ");
    show(address);
    match words.next().and_then(parse).filter(|_| asks) {
        None => card.answer(),
        Some(other) => card.ping(other),
    }
}

impl Card {
    /// Starts the device, with all buffers given to it.
    fn new(device: Device, address: [u8; 4]) -> Card {
        let (coming, going, buffers) = (COMING.take(), GOING.take(), BUFFER.take());
        device.begin(MAC);
        device.set_queue(RECEIVE, coming);
        device.set_queue(TRANSMIT, going);
        interrupt::on(CARD, wake);
        apic::route(device.input(), CARD);
        device.ready();
        for index in 0..BUFFERS {
            coming.describe_writable(index, addr_of!(buffers[usize::from(index)]) as u64, BUFFER_BYTES as u32);
            coming.offer(index);
        }
        device.kick(RECEIVE);
        let (low, high) = (device.config(0).to_le_bytes(), device.config(4).to_le_bytes());
        let mac = [low[0], low[1], low[2], low[3], high[0], high[1]];
        Card { device, coming, going, buffers, frame: FRAME.take(), mac, address }
    }

    /// Answers until the input ends.
    fn answer(&mut self) -> ! {
        print!(" and answers ARP and ping; end of input ends\n");
        typed::init();
        loop {
            self.receive();
            if serial::read() == Some(typed::END_OF_INPUT) {
                power::off();
            }
            cpu::wait_for_interrupt();
        }
    }

    /// Asks `other` three times, each time when the last answer has come, and again with each tick until it comes.
    fn ping(&mut self, other: [u8; 4]) -> ! {
        print!(" and pings ");
        show(other);
        print!("\n");
        interrupt::on(TIMER, tick);
        apic::start_timer(TIMER, TICK_MS);
        let (mut neighbour, mut answers, mut asked_at) = (None, 0, u32::MAX);
        loop {
            let now = TICKS.load(Ordering::Relaxed);
            if now > PATIENCE {
                print!("no answer\n");
                power::exit(1);
            }
            if asked_at != now {
                asked_at = now;
                match neighbour {
                    None => self.ask_for(other),
                    Some(mac) => self.send_echo(mac, other, answers + 1),
                }
            }
            match self.receive() {
                Came::Neighbour(mac) if neighbour.is_none() => (neighbour, asked_at) = (Some(mac), u32::MAX),
                Came::Echo(number) if number == answers + 1 => {
                    print!("answer ", u64::from(number), " of ", u64::from(ASKED), "\n");
                    if number == ASKED {
                        power::off();
                    }
                    (answers, asked_at) = (number, u32::MAX);
                }
                _ => cpu::wait_for_interrupt(),
            }
        }
    }

    /// Looks at the frames that have come, up to one that answers something. Buffers go back to the device.
    fn receive(&mut self) -> Came {
        if INTERRUPTED.swap(false, Ordering::Relaxed) {
            // Before the look at the queue: what comes behind it interrupts again.
            self.device.acknowledge();
        }
        while let Some((head, bytes)) = self.coming.used() {
            let index = usize::from(head % BUFFERS);
            let bytes = (bytes as usize).clamp(HEADER_BYTES, BUFFER_BYTES);
            // A copy, for the answer is made of the question.
            self.frame[..bytes].copy_from_slice(&self.buffers[index][..bytes]);
            self.coming.offer(head);
            self.device.kick(RECEIVE);
            let came = self.handle(bytes - HEADER_BYTES);
            if !matches!(came, Came::Nothing) {
                return came;
            }
        }
        Came::Nothing
    }

    /// Answers the frame of so many bytes, if it asks for something that this machine knows.
    fn handle(&mut self, bytes: usize) -> Came {
        let address = self.address;
        let packet = &mut self.frame[HEADER_BYTES..][..bytes];
        if bytes >= ARP_BYTES && packet[12..14] == ARP && packet[14..20] == ARP_HEAD && packet[38..42] == address {
            if packet[20..22] == REPLY {
                return Came::Neighbour(six(&packet[22..28]));
            }
            print!("ARP: who is this?\n");
            // The asker becomes the target, and we the sender.
            packet.copy_within(22..32, 32);
            packet[20..22].copy_from_slice(&REPLY);
            packet[22..28].copy_from_slice(&self.mac);
            packet[28..32].copy_from_slice(&address);
            let to = six(&packet[32..38]);
            self.send(to, ARP_BYTES);
        } else if bytes >= ECHO_BYTES
            && packet[12..15] == [IPV4[0], IPV4[1], IPV4_PLAIN]
            && packet[23] == ICMP
            && packet[30..34] == address
        {
            let total = usize::from(u16::from_be_bytes([packet[16], packet[17]])) + 14;
            if packet[34] == ECHO_REPLY {
                return Came::Echo(packet[41]);
            }
            if packet[34] == ECHO && (ECHO_BYTES..=bytes).contains(&total) {
                print!("ping ", u64::from(u16::from_be_bytes([packet[40], packet[41]])), "\n");
                packet.copy_within(26..30, 30);
                packet[26..30].copy_from_slice(&address);
                packet[34] = ECHO_REPLY;
                set_checksum(&mut packet[34..total], 2);
                let to = six(&packet[6..12]);
                self.send(to, total);
            }
        }
        Came::Nothing
    }

    /// Asks everybody who has `other`.
    fn ask_for(&mut self, other: [u8; 4]) {
        let packet = &mut self.frame[HEADER_BYTES..];
        packet[12..14].copy_from_slice(&ARP);
        packet[14..20].copy_from_slice(&ARP_HEAD);
        packet[20..22].copy_from_slice(&REQUEST);
        packet[22..28].copy_from_slice(&self.mac);
        packet[28..32].copy_from_slice(&self.address);
        packet[32..38].fill(0);
        packet[38..42].copy_from_slice(&other);
        self.send([0xff; 6], ARP_BYTES);
    }

    /// Sends echo `number`, without data.
    fn send_echo(&mut self, mac: [u8; 6], other: [u8; 4], number: u8) {
        let packet = &mut self.frame[HEADER_BYTES..];
        packet[12..14].copy_from_slice(&IPV4);
        packet[14..26].copy_from_slice(&ECHO_HEAD);
        packet[26..30].copy_from_slice(&self.address);
        packet[30..34].copy_from_slice(&other);
        set_checksum(&mut packet[14..34], 10);
        packet[34..ECHO_BYTES].copy_from_slice(&[ECHO, 0, 0, 0, 0, 0, 0, number]);
        set_checksum(&mut packet[34..ECHO_BYTES], 2);
        self.send(mac, ECHO_BYTES);
    }

    /// Sends the first bytes of the frame to `to`, and waits until they have gone.
    fn send(&mut self, to: [u8; 6], bytes: usize) {
        self.frame[..HEADER_BYTES].fill(0);
        self.frame[HEADER_BYTES..][..6].copy_from_slice(&to);
        self.frame[HEADER_BYTES + 6..][..6].copy_from_slice(&self.mac);
        self.going.describe(0, addr_of!(*self.frame) as u64, (HEADER_BYTES + bytes) as u32);
        self.going.offer(0);
        self.device.kick(TRANSMIT);
        while self.going.used().is_none() {}
    }
}

/// The device's interrupt only wakes: what it is about stands in the queues.
fn wake(_: &mut Frame) {
    INTERRUPTED.store(true, Ordering::Relaxed);
    apic::end_of_interrupt();
}

fn tick(_: &mut Frame) {
    TICKS.fetch_add(1, Ordering::Relaxed);
    apic::end_of_interrupt();
}

/// Sets the checksum at `at` of `bytes`: with it, the sum of all 16-bit words is 0xffff.
fn set_checksum(bytes: &mut [u8], at: usize) {
    bytes[at..at + 2].fill(0);
    let mut sum = 0u32;
    for word in bytes.chunks(2) {
        sum += u32::from(word[0]) << 8 | u32::from(word.get(1).copied().unwrap_or(0));
    }
    sum = (sum >> 16) + (sum & 0xffff);
    sum += sum >> 16;
    bytes[at..at + 2].copy_from_slice(&(!sum as u16).to_be_bytes());
}

/// Six bytes as an address.
fn six(bytes: &[u8]) -> [u8; 6] {
    let mut address = [0; 6];
    address.copy_from_slice(bytes);
    address
}

/// An address as it is written: four numbers with dots between.
fn parse(word: &[u8]) -> Option<[u8; 4]> {
    let mut address = [0; 4];
    let mut parts = word.split(|&byte| byte == b'.');
    for byte in &mut address {
        *byte = u8::try_from(Words::of(parts.next()?).number()?).ok()?;
    }
    parts.next().is_none().then_some(address)
}

fn show(address: [u8; 4]) {
    let mut dot = "";
    for byte in address {
        print!(dot, u64::from(byte));
        dot = ".";
    }
}
