//! The serial port under any script of a guest and a host: it never panics; a FIFO never holds more than fits; the wire is
//! always at the level that the registers give; a host that was refused is told of room; nothing that was sent is made up.
//! After the script a driver sets the port up, and a byte gets through in both directions.

#![no_main]

use arbitrary::Arbitrary;
use hostel::bus::device::{BusDevice, DeviceState, Lifecycle};
use hostel::bus::irq::RecordedLine;
use hostel::bus::stream::{SerialInput, SerialOutput};
use hostel::devices::serial::Serial;
use hostel_fuzz::knob::Knob;
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, Mutex};

const RBR: u64 = 0;
const THR: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const FCR: u64 = 2;
const LCR: u64 = 3;
const MCR: u64 = 4;
const LSR: u64 = 5;
/// The interrupt of received data.
const IER_DATA: u8 = 0x01;
/// FIFOs on, both cleared.
const FCR_FRESH: u8 = 0x07;
const MCR_OUT2: u8 = 0x08;
const MCR_LOOP: u8 = 0x10;
const LSR_DATA_READY: u8 = 0x01;
const LSR_THRE: u8 = 0x20;
const FIFO_SIZE: usize = 16;

/// Steps of a script that are run: a longer one tells nothing new.
const STEPS_MAX: usize = 200;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Read {
        register: u8,
        offset: Knob<u64>,
        size: Knob<u8>,
    },
    Write {
        register: u8,
        offset: Knob<u64>,
        size: Knob<u8>,
        value: u64,
    },
    Receive(&'a [u8]),
    Break,
    /// The host takes so many bytes from now on, and says so or not.
    Room {
        bytes: u8,
        told: bool,
    },
    Reset,
    SaveAndRestore,
    /// A state from anywhere, for another port.
    Restore(&'a [u8]),
}

/// The host's end: has room for so many bytes, and remembers.
#[derive(Default)]
struct Host {
    room: usize,
    sent: usize,
    last: Option<u8>,
    /// It was refused, and not yet told of room.
    refused: bool,
}

/// What the port sees of it.
#[derive(Clone, Default)]
struct Line(Arc<Mutex<Host>>);

impl Line {
    fn host(&self) -> std::sync::MutexGuard<'_, Host> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl SerialOutput for Line {
    fn put(&mut self, byte: u8) -> bool {
        let mut host = self.host();
        let taken = host.room > 0;
        if taken {
            host.room -= 1;
            host.sent += 1;
            host.last = Some(byte);
        }
        taken
    }

    fn has_room(&self) -> bool {
        self.host().room > 0
    }

    fn input_has_room(&mut self) {
        self.host().refused = false;
    }
}

/// A port, and both of its ends.
struct Port {
    serial: Serial,
    line: Line,
    irq: Arc<RecordedLine>,
}

impl Port {
    fn new() -> Port {
        let (line, irq) = (Line::default(), Arc::new(RecordedLine::default()));
        Port { serial: Serial::new(Box::new(irq.clone()), Box::new(line.clone())), line, irq }
    }

    fn read(&mut self, register: u64) -> u8 {
        self.serial.read(register, 1) as u8
    }

    fn write(&mut self, register: u64, value: u8) {
        self.serial.write(register, 1, value.into());
    }

    fn receive(&mut self, bytes: &[u8]) {
        let taken = self.serial.receive(bytes);
        assert!(taken <= bytes.len().min(FIFO_SIZE));
        self.line.host().refused |= taken < bytes.len();
    }

    /// Does one step; gives the bytes that the guest wrote, to whatever register.
    fn take(&mut self, step: &Step) -> usize {
        match step {
            Step::Read { register, offset, size } => {
                let (offset, size) = place(*register, offset, size);
                self.serial.register_name(offset, false);
                self.serial.read(offset, size);
            }
            Step::Write { register, offset, size, value } => {
                let (offset, size) = place(*register, offset, size);
                self.serial.register_name(offset, true);
                self.serial.write(offset, size, *value);
                return size.into();
            }
            Step::Receive(bytes) => self.receive(bytes),
            Step::Break => self.serial.receive_break(),
            Step::Room { bytes, told } => {
                self.line.host().room = usize::from(*bytes);
                if *told {
                    self.serial.output_has_room();
                }
            }
            Step::Reset => self.serial.reset(),
            Step::SaveAndRestore => {
                let state = self.serial.save();
                self.serial.restore(&state).expect("a port takes its own state");
            }
            Step::Restore(bytes) => {
                let mut other = Port::new();
                let state = DeviceState { kind: self.serial.save().kind, bytes: bytes.to_vec() };
                if other.serial.restore(&state).is_ok() {
                    other.check_level();
                    other.check_that_a_byte_gets_through();
                }
            }
        }
        0
    }

    /// The wire's level is what the registers give; a port restored from this one's state shows them without a side effect.
    fn check_level(&self) {
        let mut twin = Port::new();
        twin.serial.restore(&self.serial.save()).expect("a port takes its own state");
        assert_eq!(twin.irq.level(), self.irq.level(), "a restored port drives the same level");
        let lcr = twin.read(LCR);
        twin.write(LCR, lcr & 0x7f); // to see IER, not the divisor
        let (ier, mcr, pending) = (twin.read(IER), twin.read(MCR), twin.read(IIR) & 1 == 0);
        let open = mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        assert_eq!(self.irq.level(), open && pending, "ier {ier:#x} mcr {mcr:#x}");
        assert!(!pending || ier != 0);
    }

    /// A driver's set-up, then a byte out and a byte in.
    fn check_that_a_byte_gets_through(&mut self) {
        self.write(LCR, 0x03);
        self.write(MCR, MCR_OUT2);
        self.write(IER, IER_DATA);
        let mut held = 0;
        while self.read(LSR) & LSR_DATA_READY != 0 {
            self.read(RBR);
            held += 1;
        }
        assert!(held <= FIFO_SIZE, "the receiver held {held}");
        assert!(!self.line.host().refused, "the host was never told of room");
        self.write(FCR, FCR_FRESH);
        self.line.host().room = 1;
        assert_eq!(self.read(LSR) & LSR_THRE, LSR_THRE);
        self.write(THR, b'o');
        assert_eq!(self.line.host().last, Some(b'o'));
        assert!(!self.irq.level());
        self.receive(b"i");
        assert!(self.irq.level());
        assert_eq!((self.read(LSR) & LSR_DATA_READY, self.read(RBR)), (LSR_DATA_READY, b'i'));
        assert!(!self.irq.level());
    }
}

/// Mostly one of the eight registers, and one byte.
fn place(register: u8, offset: &Knob<u64>, size: &Knob<u8>) -> (u64, u8) {
    (offset.0.unwrap_or(u64::from(register % 8)), size.0.map_or(1, |size| 1 + size % 8))
}

fuzz_target!(|script: Vec<Step>| {
    let mut port = Port::new();
    let mut written = 0;
    for step in script.iter().take(STEPS_MAX) {
        written += port.take(step);
        port.check_level();
        assert!(port.line.host().sent + port.serial.lost() as usize <= written);
    }
    port.check_that_a_byte_gets_through();
});
