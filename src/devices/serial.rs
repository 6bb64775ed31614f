//! 16550A serial port: FIFOs of 16 bytes, interrupts in both directions, loopback.
//!
//! Models PC16550D §8 as a PC wires it: OUT2 opens the way of the interrupt, and a terminal stands at the other end of a
//! null-modem cable (CTS, DSR and DCD asserted). The line has no speed. So a character that the line takes is gone at
//! once, the receiver's timeout (four characters of silence) has always passed, and the divisor is only memory. When the
//! line has no room, characters wait in the transmitter's FIFO and THRE stays low: the guest waits as for a slow line.
//! Characters arrive only while the guest listens ([`super::serial_listener`] has the rule).
//! Left out: DMA modes, parity and framing errors, 5 to 7 bit characters, and a break sent by the guest.

use super::serial_listener::Listener;
use crate::bus::device::{BusDevice, DeviceState, Lifecycle, StateError, read_by_bytes, write_by_bytes};
use crate::bus::irq::IrqLine;
use crate::bus::state::StateReader;
use crate::bus::stream::{SerialInput, SerialOutput};
use std::collections::VecDeque;

/// Characters that a FIFO holds; without FIFOs one is held (PC16550D §8.4).
const FIFO_SIZE: usize = 16;

/// Interrupt enable register: received data, transmitter empty, line status, modem status (§8.7).
mod ier {
    pub const DATA: u8 = 1 << 0;
    pub const THRE: u8 = 1 << 1;
    pub const LINE: u8 = 1 << 2;
    pub const MODEM: u8 = 1 << 3;
    pub const ALL: u8 = DATA | THRE | LINE | MODEM;
}

/// Interrupt identification, highest priority first (§8.6, table IV).
mod iir {
    pub const LINE: u8 = 0x06;
    pub const DATA: u8 = 0x04;
    pub const TIMEOUT: u8 = 0x0c;
    pub const THRE: u8 = 0x02;
    pub const MODEM: u8 = 0x00;
    pub const NONE: u8 = 0x01;
    pub const FIFOS: u8 = 0xc0;
}

/// FIFO control register (§8.5).
mod fcr {
    pub const ENABLE: u8 = 1 << 0;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    pub const CLEAR_TRANSMITTER: u8 = 1 << 2;
    /// Receiver's trigger levels by bits 7:6.
    pub const TRIGGER: [usize; 4] = [1, 4, 8, 14];
}

/// Line control register: divisor latch access (§8.1).
const LCR_DLAB: u8 = 1 << 7;

/// Modem control register (§8.8).
mod mcr {
    pub const DTR: u8 = 1 << 0;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOP: u8 = 1 << 4;
    pub const ALL: u8 = DTR | RTS | OUT1 | OUT2 | LOOP;
}

/// Offset of the line status register.
const LINE_STATUS: u64 = 5;

/// Line status register (§8.3).
mod lsr {
    pub const DATA_READY: u8 = 1 << 0;
    pub const OVERRUN: u8 = 1 << 1;
    pub const BREAK: u8 = 1 << 4;
    pub const THRE: u8 = 1 << 5;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 6;
    pub const ERROR_IN_FIFO: u8 = 1 << 7;
}

/// Modem status register: levels in [7:4], what changed since the last read in [3:0] (§8.9).
mod msr {
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
}

/// Kind of the saved state.
const KIND: &str = "16550a/1";

/// A character in the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Received {
    byte: u8,
    /// It is a break condition; cleared when the guest has read that in the line status.
    is_break: bool,
}

/// What the guest can see or change.
#[derive(Clone, Debug)]
struct Registers {
    ier: u8,
    lcr: u8,
    mcr: u8,
    /// FCR: FIFOs in use, and trigger level (bits 7:6).
    fcr: u8,
    scratch: u8,
    divisor: u16,
    receiver: VecDeque<Received>,
    /// Characters that wait for the line to have room.
    transmitter: VecDeque<u8>,
    /// A character came and found the receiver full.
    overrun: bool,
    /// The transmitter became empty, and neither IIR nor THR told the chip that the guest knows.
    thre_pending: bool,
    /// MSR[3:0].
    modem_changes: u8,
    /// The line was told that the receiver had no room for all it sent.
    input_refused: bool,
    /// Whether the guest polls the receiver.
    listener: Listener,
}

impl Default for Registers {
    fn default() -> Registers {
        Registers {
            ier: 0,
            lcr: 0,
            mcr: 0,
            fcr: 0,
            scratch: 0,
            divisor: 1, // undefined after reset; 115200 baud, as firmware leaves a console
            receiver: VecDeque::with_capacity(FIFO_SIZE),
            transmitter: VecDeque::with_capacity(FIFO_SIZE),
            overrun: false,
            thre_pending: false,
            modem_changes: 0,
            input_refused: false,
            listener: Listener::default(),
        }
    }
}

/// A serial port: eight byte-wide registers.
pub struct Serial {
    // wiring
    interrupt: Box<dyn IrqLine>,
    line: Box<dyn SerialOutput>,
    // book-keeping
    level: bool,
    dropped: u64,
    // what the guest sees
    registers: Registers,
}

impl Serial {
    /// A port after reset, that drives `interrupt` and sends to `line`.
    pub fn new(interrupt: Box<dyn IrqLine>, line: Box<dyn SerialOutput>) -> Serial {
        Serial { interrupt, line, level: false, dropped: 0, registers: Registers::default() }
    }

    /// Characters that the line did not get: written although the transmitter was full, or still waiting in it. A reset does
    /// not clear the first.
    pub fn lost(&self) -> u64 {
        self.dropped + self.registers.transmitter.len() as u64
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        if offset != LINE_STATUS {
            self.registers.listener.other_access();
        }
        let dlab = self.registers.lcr & LCR_DLAB != 0;
        match offset {
            0 if dlab => self.registers.divisor.to_le_bytes()[0],
            1 if dlab => self.registers.divisor.to_le_bytes()[1],
            0 => self.registers.receiver.pop_front().map_or(0, |received| received.byte),
            1 => self.registers.ier,
            2 => self.read_iir_and_clear(),
            3 => self.registers.lcr,
            4 => self.registers.mcr,
            LINE_STATUS => self.read_lsr_and_clear(),
            6 => self.registers.modem_levels() | std::mem::take(&mut self.registers.modem_changes),
            7 => self.registers.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        self.registers.listener.other_access();
        let dlab = self.registers.lcr & LCR_DLAB != 0;
        let [low, high] = self.registers.divisor.to_le_bytes();
        match offset {
            0 if dlab => self.registers.divisor = u16::from_le_bytes([value, high]),
            1 if dlab => self.registers.divisor = u16::from_le_bytes([low, value]),
            0 => self.write_thr(value),
            1 => self.registers.write_ier(value),
            2 => self.registers.write_fcr(value),
            3 => self.registers.lcr = value,
            4 => self.registers.write_mcr(value),
            7 => self.registers.scratch = value,
            _ => {} // LSR and MSR are read only
        }
    }

    fn write_thr(&mut self, byte: u8) {
        // The interrupt falls and rises again: an edge-triggered input must see each "empty" even if nobody read IIR.
        self.registers.thre_pending = false;
        self.drive_interrupt();
        let registers = &mut self.registers;
        if registers.mcr & mcr::LOOP != 0 {
            registers.receive_one(Received { byte, is_break: false });
        } else if registers.transmitter.is_empty() && self.line.has_room() {
            self.dropped += u64::from(!self.line.put(byte));
        } else if registers.transmitter.len() < registers.capacity() {
            registers.transmitter.push_back(byte);
        } else {
            self.dropped += 1;
        }
        self.registers.thre_pending = self.registers.transmitter.is_empty();
    }

    /// Sends what waits, as far as the line has room.
    fn drain_transmitter(&mut self) {
        let registers = &mut self.registers;
        while !registers.transmitter.is_empty() && self.line.has_room() {
            let sent = registers.transmitter.pop_front().is_some_and(|byte| self.line.put(byte));
            self.dropped += u64::from(!sent);
            registers.thre_pending = registers.transmitter.is_empty();
        }
    }

    /// IIR; the transmitter's interrupt, if that is the one shown, is acknowledged by reading it (§8.6).
    fn read_iir_and_clear(&mut self) -> u8 {
        let source = self.registers.interrupt_source();
        if source == iir::THRE {
            self.registers.thre_pending = false;
        }
        source | if self.registers.fifos() { iir::FIFOS } else { 0 }
    }

    /// LSR; its error bits are acknowledged by reading it (§8.4). Asks the line, so that a guest that polls sees room at once.
    fn read_lsr_and_clear(&mut self) -> u8 {
        self.drain_transmitter();
        let value = self.registers.line_status();
        self.registers.listener.line_status_read(value & lsr::THRE != 0);
        self.registers.overrun = false;
        if let Some(first) = self.registers.receiver.front_mut() {
            first.is_break = false;
        }
        value
    }

    /// Ends each access: tells the line about room in the receiver, and the interrupt its level.
    fn settle(&mut self) {
        if self.registers.input_refused && self.registers.room() == self.registers.capacity() {
            self.registers.input_refused = false;
            self.line.input_has_room();
        }
        self.drive_interrupt();
    }

    fn drive_interrupt(&mut self) {
        let level = self.registers.interrupt_level();
        if level != self.level {
            self.level = level;
            self.interrupt.set_level(level);
        }
    }
}

impl Registers {
    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    /// Characters that receiver and transmitter hold each.
    fn capacity(&self) -> usize {
        if self.fifos() { FIFO_SIZE } else { 1 }
    }

    /// Characters that the receiver takes from the line: none while nobody listens, and none in loopback, which cuts the
    /// line off (§8.8.5).
    fn room(&self) -> usize {
        let by_interrupt = self.ier & ier::DATA != 0 && self.mcr & mcr::OUT2 != 0;
        let listens = by_interrupt || self.listener.polls();
        if listens && self.mcr & mcr::LOOP == 0 { self.capacity() - self.receiver.len() } else { 0 }
    }

    fn receive_one(&mut self, received: Received) {
        if self.receiver.len() < self.capacity() {
            self.receiver.push_back(received);
        } else {
            self.overrun = true;
        }
    }

    fn write_ier(&mut self, value: u8) {
        let enabled = value & !self.ier;
        self.ier = value & ier::ALL;
        // Enabling the interrupt of an empty transmitter raises it; Linux' 8250 driver tests for that.
        if enabled & ier::THRE != 0 && self.transmitter.is_empty() {
            self.thre_pending = true;
        }
    }

    /// Switching the FIFOs off empties them. Switching them on leaves the one character that was held without them: Linux
    /// does that right after it began to listen.
    fn write_fcr(&mut self, value: u8) {
        let off = self.fcr & !value & fcr::ENABLE != 0;
        let clears = |bit| off || value & (fcr::ENABLE | bit) == (fcr::ENABLE | bit);
        if clears(fcr::CLEAR_RECEIVER) {
            self.receiver.clear();
            self.listener.receiver_emptied();
        }
        if clears(fcr::CLEAR_TRANSMITTER) && !self.transmitter.is_empty() {
            self.transmitter.clear();
            self.thre_pending = true;
        }
        // The other bits count only together with ENABLE.
        self.fcr = if value & fcr::ENABLE != 0 { value & (0xc0 | fcr::ENABLE) } else { 0 };
    }

    fn write_mcr(&mut self, value: u8) {
        let before = self.modem_levels();
        self.mcr = value & mcr::ALL;
        let now = self.modem_levels();
        // RI counts when it ends (TERI), the others at each change.
        let changed = (before ^ now) & !msr::RI | before & !now & msr::RI;
        self.modem_changes |= changed >> 4;
    }

    /// MSR[7:4]: the terminal's lines, or in loopback our own outputs.
    fn modem_levels(&self) -> u8 {
        if self.mcr & mcr::LOOP == 0 {
            return msr::CTS | msr::DSR | msr::DCD;
        }
        let pairs = [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)];
        pairs.iter().filter(|(output, _)| self.mcr & output != 0).fold(0, |levels, (_, input)| levels | input)
    }

    fn line_status(&self) -> u8 {
        let is_break = |received: &Received| received.is_break;
        let bits = [
            (!self.receiver.is_empty(), lsr::DATA_READY),
            (self.overrun, lsr::OVERRUN),
            (self.receiver.front().is_some_and(is_break), lsr::BREAK),
            (self.transmitter.is_empty(), lsr::THRE | lsr::TRANSMITTER_EMPTY),
            (self.fifos() && self.receiver.iter().any(is_break), lsr::ERROR_IN_FIFO),
        ];
        bits.iter().filter(|(set, _)| *set).fold(0, |status, (_, bit)| status | bit)
    }

    /// IIR[3:0]: the highest interrupt that is enabled and pending.
    fn interrupt_source(&self) -> u8 {
        let enabled = |bit| self.ier & bit != 0;
        let trigger = fcr::TRIGGER[usize::from(self.fcr >> 6)];
        if enabled(ier::LINE) && self.line_status() & (lsr::OVERRUN | lsr::BREAK) != 0 {
            iir::LINE
        } else if enabled(ier::DATA) && self.receiver.len() >= trigger {
            iir::DATA
        } else if enabled(ier::DATA) && !self.receiver.is_empty() {
            iir::TIMEOUT
        } else if enabled(ier::THRE) && self.thre_pending {
            iir::THRE
        } else if enabled(ier::MODEM) && self.modem_changes != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    /// Level of the interrupt behind the PC's gate: OUT2, whose pin is inactive in loopback (§8.8.4, §8.8.5).
    fn interrupt_level(&self) -> bool {
        self.ier != 0 && self.mcr & (mcr::OUT2 | mcr::LOOP) == mcr::OUT2 && self.interrupt_source() != iir::NONE
    }
}

impl SerialInput for Serial {
    fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.registers.room());
        let received = bytes[..taken].iter().map(|&byte| Received { byte, is_break: false });
        self.registers.receiver.extend(received);
        self.registers.input_refused |= taken < bytes.len();
        self.drive_interrupt();
        taken
    }

    fn receive_break(&mut self) {
        if self.registers.mcr & mcr::LOOP == 0 {
            self.registers.receive_one(Received { byte: 0, is_break: true });
        }
        self.drive_interrupt();
    }

    fn output_has_room(&mut self) {
        self.drain_transmitter();
        self.drive_interrupt();
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let value = read_by_bytes(offset, size, |offset| self.read_register(offset));
        self.settle();
        value
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        write_by_bytes(offset, size, value, |offset, byte| self.write_register(offset, byte));
        self.settle();
    }

    fn register_name(&self, offset: u64, write: bool) -> &'static str {
        match (offset, self.registers.lcr & LCR_DLAB != 0, write) {
            (0, true, _) => "DLL",
            (1, true, _) => "DLM",
            (0, false, false) => "RBR",
            (0, false, true) => "THR",
            (1, false, _) => "IER",
            (2, _, false) => "IIR",
            (2, _, true) => "FCR",
            (3, ..) => "LCR",
            (4, ..) => "MCR",
            (5, ..) => "LSR",
            (6, ..) => "MSR",
            (7, ..) => "SCR",
            _ => "",
        }
    }
}

impl Lifecycle for Serial {
    fn reset(&mut self) {
        let Serial { interrupt: _, line: _, level: _, dropped: _, registers } = self;
        let input_refused = registers.input_refused;
        *registers = Registers { input_refused, ..Registers::default() };
        self.settle();
    }

    fn save(&self) -> DeviceState {
        let Registers { ier, lcr, mcr, fcr, scratch, divisor, receiver, transmitter, .. } = &self.registers;
        let Registers { overrun, thre_pending, modem_changes, input_refused, .. } = &self.registers;
        let [low, high] = divisor.to_le_bytes();
        let (polls, asked) = self.registers.listener.saved();
        let flags = [*overrun, *thre_pending, *input_refused, polls].map(u8::from);
        let mut bytes = vec![*ier, *lcr, *mcr, *fcr, *scratch, low, high, *modem_changes];
        bytes.extend(flags);
        bytes.push(asked);
        bytes.push(receiver.len() as u8); // at most FIFO_SIZE, and so below
        bytes.extend(receiver.iter().flat_map(|received| [received.byte, u8::from(received.is_break)]));
        bytes.push(transmitter.len() as u8);
        bytes.extend(transmitter);
        DeviceState { kind: KIND, bytes }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let mut reader = StateReader::open(state, KIND)?;
        let [ier, lcr, mcr, fcr, scratch, low, high, modem_changes] = reader.array()?;
        let (overrun, thre_pending, input_refused) = (reader.flag()?, reader.flag()?, reader.flag()?);
        let listener = Listener::restored(reader.flag()?, reader.u8()?);
        let listener = listener.ok_or_else(|| reader.refuse("more polls in a row than are counted"))?;
        let mut registers =
            Registers { lcr, scratch, overrun, thre_pending, input_refused, listener, ..Registers::default() };
        registers.divisor = u16::from_le_bytes([low, high]);
        if ier & !ier::ALL | mcr & !mcr::ALL | fcr & !(0xc0 | fcr::ENABLE) | modem_changes & 0xf0 != 0 {
            return Err(reader.refuse("a register has bits that the chip has not"));
        }
        (registers.ier, registers.mcr, registers.fcr, registers.modem_changes) = (ier, mcr, fcr, modem_changes);
        for _ in 0..reader.u8()? {
            registers.receiver.push_back(Received { byte: reader.u8()?, is_break: reader.flag()? });
        }
        let waiting = reader.u8()?;
        registers.transmitter.extend(reader.bytes(usize::from(waiting))?);
        if registers.receiver.len().max(registers.transmitter.len()) > registers.capacity() {
            return Err(reader.refuse("a FIFO holds more than fits"));
        }
        reader.end()?;
        self.registers = registers;
        self.drain_transmitter(); // the line that saved may have been full, this one is not
        self.settle();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::serial_listener::IN_A_ROW;
    use super::*;
    use crate::bus::irq::RecordedLine;
    use proptest::prelude::*;
    use std::sync::{Arc, Mutex};

    const THR: u64 = 0;
    const RBR: u64 = 0;
    const IER: u64 = 1;
    const IIR: u64 = 2;
    const FCR: u64 = 2;
    const LCR: u64 = 3;
    const MCR: u64 = 4;
    const LSR: u64 = 5;
    const MSR: u64 = 6;

    /// A host's end that has room for so many characters, and remembers.
    #[derive(Default)]
    struct Host {
        sent: Vec<u8>,
        room: usize,
        input_rooms: usize,
    }

    impl SerialOutput for Arc<Mutex<Host>> {
        fn put(&mut self, byte: u8) -> bool {
            let mut host = self.lock().unwrap();
            let room = host.room.checked_sub(1);
            if let Some(left) = room {
                host.room = left;
                host.sent.push(byte);
            }
            room.is_some()
        }
        fn has_room(&self) -> bool {
            self.lock().unwrap().room > 0
        }
        fn input_has_room(&mut self) {
            self.lock().unwrap().input_rooms += 1;
        }
    }

    struct Rig {
        serial: Serial,
        host: Arc<Mutex<Host>>,
        irq: Arc<RecordedLine>,
    }

    impl Rig {
        fn with_room(room: usize) -> Rig {
            let host = Arc::new(Mutex::new(Host { room, ..Host::default() }));
            let irq = Arc::new(RecordedLine::default());
            Rig { serial: Serial::new(Box::new(irq.clone()), Box::new(host.clone())), host, irq }
        }
        /// With FIFOs, the interrupt's way open and `ier` enabled.
        fn with_interrupts(room: usize, ier: u8) -> Rig {
            let mut rig = Rig::with_room(room);
            rig.write(MCR, mcr::OUT2);
            rig.write(FCR, 0x07);
            rig.write(IER, ier);
            rig
        }
        fn read(&mut self, offset: u64) -> u8 {
            self.serial.read(offset, 1) as u8
        }
        fn write(&mut self, offset: u64, value: u8) {
            self.serial.write(offset, 1, value.into());
        }
        /// Makes the port see a guest that polls for characters.
        fn poll(&mut self) {
            (0..IN_A_ROW).for_each(|_| assert_eq!(self.read(LSR) & lsr::DATA_READY, 0));
        }
        fn sent(&self) -> Vec<u8> {
            self.host.lock().unwrap().sent.clone()
        }
        fn make_room(&mut self, room: usize) {
            self.host.lock().unwrap().room = room;
            self.serial.output_has_room();
        }
    }

    crate::devices::conformance::conformance!(Rig::with_room(usize::MAX).serial, 8);

    #[test]
    fn polled_output_goes_to_the_line() {
        let mut rig = Rig::with_room(10);
        for byte in *b"hi" {
            assert_eq!(rig.read(LSR), lsr::THRE | lsr::TRANSMITTER_EMPTY);
            rig.write(THR, byte);
        }
        assert_eq!(rig.sent(), b"hi");
        assert!(!rig.irq.level());
    }

    #[test]
    fn divisor_scratch_and_names_follow_dlab() {
        let mut rig = Rig::with_room(10);
        rig.write(LCR, 0x83);
        rig.serial.write(0, 2, 0x0c01);
        assert_eq!(rig.serial.read(0, 2), 0x0c01);
        assert_eq!(rig.serial.register_name(0, true), "DLL");
        rig.write(LCR, 0x03);
        assert_eq!(rig.serial.register_name(0, true), "THR");
        assert_eq!(rig.read(IER), 0);
        rig.write(7, 0x5a);
        assert_eq!(rig.read(7), 0x5a);
        assert!(rig.sent().is_empty());
    }

    #[test]
    fn receiver_interrupts_at_the_trigger_and_by_timeout() {
        let mut rig = Rig::with_interrupts(10, ier::DATA);
        rig.write(FCR, 0x41); // trigger at 4
        assert_eq!(rig.serial.receive(b"abc"), 3);
        assert_eq!((rig.irq.level(), rig.read(IIR)), (true, iir::FIFOS | iir::TIMEOUT));
        rig.serial.receive(b"d");
        assert_eq!(rig.read(IIR), iir::FIFOS | iir::DATA);
        for byte in *b"abcd" {
            assert_eq!((rig.read(LSR) & lsr::DATA_READY, rig.read(RBR)), (lsr::DATA_READY, byte));
        }
        assert_eq!((rig.irq.level(), rig.read(IIR)), (false, iir::FIFOS | iir::NONE));
        assert_eq!(rig.read(RBR), 0, "an empty receiver gives no stale byte");
    }

    #[test]
    fn transmitter_interrupt_rises_with_enabling_and_with_each_empty() {
        let mut rig = Rig::with_interrupts(10, ier::THRE);
        assert_eq!((rig.irq.rises(), rig.read(IIR)), (1, iir::FIFOS | iir::THRE));
        assert_eq!((rig.irq.level(), rig.read(IIR)), (false, iir::FIFOS | iir::NONE), "reading IIR acknowledges");
        rig.write(THR, b'x');
        rig.write(THR, b'y');
        assert_eq!(rig.irq.rises(), 3, "an edge for each, though nobody read IIR");
        rig.write(IER, 0);
        rig.write(IER, ier::THRE);
        assert_eq!(rig.read(IIR), iir::FIFOS | iir::THRE, "Linux tests that enabling asserts again");
    }

    #[test]
    fn out2_and_loopback_gate_the_interrupt() {
        let mut rig = Rig::with_interrupts(10, ier::DATA);
        rig.serial.receive(b"a");
        assert!(rig.irq.level());
        rig.write(MCR, 0);
        assert_eq!((rig.irq.level(), rig.read(IIR)), (false, iir::FIFOS | iir::DATA));
        rig.write(MCR, mcr::OUT2 | mcr::LOOP);
        assert!(!rig.irq.level());
    }

    #[test]
    fn loopback_returns_characters_and_modem_lines() {
        let mut rig = Rig::with_room(10);
        assert_eq!(rig.read(MSR), msr::CTS | msr::DSR | msr::DCD);
        rig.write(MCR, mcr::LOOP | mcr::RTS | mcr::OUT2);
        assert_eq!(rig.read(MSR), msr::DCD | msr::CTS | msr::DSR >> 4, "Linux probes with this");
        rig.write(MCR, mcr::LOOP | mcr::OUT1);
        assert_eq!(rig.read(MSR), msr::RI | (msr::DCD | msr::CTS) >> 4);
        rig.write(MCR, mcr::LOOP);
        assert_eq!(rig.read(MSR), msr::RI >> 4);
        rig.write(THR, b'l');
        assert_eq!((rig.serial.receive(b"from outside"), rig.read(RBR)), (0, b'l'));
        rig.write(THR, b'1');
        rig.write(THR, b'2');
        assert_eq!(rig.read(LSR) & (lsr::DATA_READY | lsr::OVERRUN), lsr::DATA_READY | lsr::OVERRUN);
        assert_eq!(rig.read(LSR) & lsr::OVERRUN, 0);
        assert!(rig.sent().is_empty());
        rig.read(RBR);
        rig.poll();
        rig.write(MCR, 0);
        assert_eq!(rig.host.lock().unwrap().input_rooms, 1, "the line is told when it is connected again");
    }

    /// What a guest that does these accesses gets of what waits on the line, which is offered at every moment.
    fn typed_ahead(rig: &mut Rig, waiting: &mut &[u8], accesses: &[(u64, Option<u8>)]) -> Vec<u8> {
        let mut offer = |rig: &mut Rig| *waiting = &waiting[rig.serial.receive(waiting)..];
        let mut read = Vec::new();
        for (offset, value) in accesses {
            offer(rig);
            match value {
                Some(value) => rig.write(*offset, *value),
                None => read.push(rig.read(*offset)),
            }
        }
        read
    }

    #[test]
    fn input_that_waits_since_before_the_start_outlives_the_set_up_of_linux() {
        let mut rig = Rig::with_room(1000);
        let mut waiting: &[u8] = b"ls\n";
        // autoconfig, then serial8250_do_startup up to where it has not yet enabled the interrupt
        let probe = [(IER, Some(0)), (IER, None), (IER, Some(0x0f)), (IER, None), (IER, Some(0))];
        let loopback = [(MCR, Some(0x1a)), (MSR, None), (MCR, Some(0)), (FCR, Some(1)), (IIR, None), (FCR, Some(0))];
        let empty = [(FCR, Some(1)), (FCR, Some(7)), (FCR, Some(0)), (LSR, None), (RBR, None), (IIR, None)];
        let thre = [(LCR, Some(3)), (MCR, Some(0x0b)), (IER, Some(2)), (IIR, None), (IER, Some(0)), (LSR, None)];
        // its interrupt handler runs beside the set-up, and the character read last is thrown away
        let beside = [(LSR, None), (LSR, None), (LSR, None), (LSR, None), (RBR, None)];
        for accesses in [&probe[..], &loopback, &empty, &empty, &thre, &beside] {
            typed_ahead(&mut rig, &mut waiting, accesses);
        }
        assert_eq!(waiting, b"ls\n");
        // the interrupt, then serial8250_do_set_termios
        let last = [(IER, Some(5)), (LCR, Some(0x83)), (THR, Some(1)), (IER, Some(0)), (LCR, Some(3)), (FCR, Some(1))];
        typed_ahead(&mut rig, &mut waiting, &last);
        assert_eq!(typed_ahead(&mut rig, &mut waiting, &[(RBR, None); 3]), b"ls\n");
    }

    #[test]
    fn input_that_waits_does_not_disturb_a_loopback_test_and_reaches_who_polls() {
        let mut rig = Rig::with_room(1000);
        let mut waiting: &[u8] = b"hi";
        let set_up = [(IER, Some(0)), (FCR, Some(0xc7)), (MCR, Some(0x1e)), (THR, Some(0xae)), (RBR, None)];
        assert_eq!(typed_ahead(&mut rig, &mut waiting, &set_up), [0xae]);
        let print = [(MCR, Some(0x0f)), (LSR, None), (THR, Some(b'>')), (LSR, None), (THR, Some(b' '))];
        assert_eq!(typed_ahead(&mut rig, &mut waiting, &print), [0x60, 0x60]);
        assert_eq!(waiting, b"hi", "to print is not to listen");
        let ask = [(LSR, None); IN_A_ROW as usize];
        assert_eq!(typed_ahead(&mut rig, &mut waiting, &ask), [0x60; IN_A_ROW as usize]);
        let take = [(LSR, None), (RBR, None), (RBR, None)];
        assert_eq!(typed_ahead(&mut rig, &mut waiting, &take), [0x61, b'h', b'i']);
        assert_eq!(rig.host.lock().unwrap().input_rooms, 1, "the line is told when the guest begins to listen");
    }

    #[test]
    fn a_busy_transmitter_is_asked_often_by_who_does_not_listen() {
        let mut rig = Rig::with_room(0);
        rig.write(THR, b'x');
        (0..5).for_each(|_| assert_eq!(rig.read(LSR), 0));
        rig.make_room(1);
        assert_eq!((rig.read(LSR), rig.serial.receive(b"a")), (lsr::THRE | lsr::TRANSMITTER_EMPTY, 0));
    }

    #[test]
    fn a_break_shows_at_its_character() {
        let mut rig = Rig::with_interrupts(10, ier::LINE);
        rig.poll();
        rig.serial.receive(b"a");
        rig.serial.receive_break();
        assert_eq!(rig.read(LSR) & (lsr::BREAK | lsr::ERROR_IN_FIFO), lsr::ERROR_IN_FIFO);
        assert_eq!((rig.read(RBR), rig.read(IIR)), (b'a', iir::FIFOS | iir::LINE));
        assert_eq!(rig.read(LSR) & lsr::BREAK, lsr::BREAK);
        assert_eq!((rig.read(LSR) & lsr::BREAK, rig.irq.level(), rig.read(RBR)), (0, false, 0));
    }

    #[test]
    fn sec48_input_never_grows_beyond_the_fifo() {
        let mut rig = Rig::with_interrupts(10, ier::DATA);
        let chunk = [b'x'; 4096];
        let taken: usize = (0..1000).map(|_| rig.serial.receive(&chunk)).sum();
        assert_eq!((taken, rig.serial.registers.receiver.capacity()), (FIFO_SIZE, FIFO_SIZE));
        for _ in 0..1000 {
            rig.serial.receive_break();
        }
        assert_eq!(rig.serial.registers.receiver.capacity(), FIFO_SIZE);
        assert_eq!(rig.host.lock().unwrap().input_rooms, 0);
        (0..FIFO_SIZE).for_each(|_| assert_eq!(rig.read(RBR), b'x'));
        assert_eq!(rig.host.lock().unwrap().input_rooms, 1);
        assert_eq!(rig.serial.receive(&chunk), FIFO_SIZE);
    }

    #[test]
    fn sec49_blocked_output_keeps_the_transmitter_busy_and_counts_what_is_lost() {
        let mut rig = Rig::with_interrupts(2, ier::THRE);
        rig.read(IIR);
        for byte in 0..100 {
            rig.write(THR, byte);
        }
        assert_eq!(rig.sent(), [0, 1]);
        assert_eq!(rig.serial.lost(), 100 - 2);
        assert_eq!(rig.read(LSR) & (lsr::THRE | lsr::TRANSMITTER_EMPTY), 0);
        assert_eq!((rig.irq.level(), rig.serial.registers.transmitter.capacity()), (false, FIFO_SIZE));
        rig.make_room(4);
        assert_eq!((rig.sent(), rig.irq.level()), ((0..6).collect(), false));
        rig.make_room(100);
        assert_eq!((rig.sent(), rig.irq.level()), ((0..18).collect(), true));
        assert_eq!(rig.read(IIR), iir::FIFOS | iir::THRE);
    }

    #[test]
    fn sec49_a_polling_guest_sees_room_without_being_told() {
        let mut rig = Rig::with_room(0);
        rig.write(THR, b'x');
        assert_eq!(rig.read(LSR) & lsr::THRE, 0);
        rig.host.lock().unwrap().room = 1;
        assert_eq!((rig.read(LSR) & lsr::THRE, rig.sent()), (lsr::THRE, vec![b'x']));
    }

    #[test]
    fn a_restored_port_sends_what_waited() {
        let mut rig = Rig::with_interrupts(0, 0);
        rig.write(THR, b'w');
        let mut fresh = Rig::with_room(1);
        fresh.serial.restore(&rig.serial.save()).unwrap();
        assert_eq!(fresh.sent(), b"w");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(u8),
        Receive(usize),
        Room(usize),
        ReadRbr,
        /// So many times.
        ReadLsr(u8),
        ReadIir,
        Interrupts(u8),
        Fifo(u8),
        Out2(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u8>().prop_map(Step::Send),
            3 => (0..40usize).prop_map(Step::Receive),
            2 => (0..40usize).prop_map(Step::Room),
            6 => Just(Step::ReadRbr),
            2 => (1..20u8).prop_map(Step::ReadLsr),
            2 => Just(Step::ReadIir),
            1 => (0..16u8).prop_map(Step::Interrupts),
            1 => any::<u8>().prop_map(Step::Fifo),
            1 => any::<bool>().prop_map(Step::Out2),
        ]
    }

    /// The port as a driver's author thinks of it: two queues, a line with room, and one remembered event.
    #[derive(Default)]
    struct Model {
        receiver: Vec<u8>,
        transmitter: Vec<u8>,
        sent: Vec<u8>,
        dropped: u64,
        room: usize,
        size: usize,
        trigger: usize,
        enabled: u8,
        became_empty: bool,
        out2: bool,
        asked: u8,
        polls: bool,
    }

    impl Model {
        fn takes(&self) -> usize {
            let listens = self.polls || self.out2 && self.enabled & 1 != 0;
            if listens { self.size - self.receiver.len() } else { 0 }
        }
        fn drain(&mut self) {
            let count = self.room.min(self.transmitter.len());
            self.sent.extend(self.transmitter.drain(..count));
            self.room -= count;
            self.became_empty |= count > 0 && self.transmitter.is_empty();
        }
        fn send(&mut self, byte: u8) {
            if self.transmitter.len() < self.size || self.transmitter.is_empty() && self.room > 0 {
                self.transmitter.push(byte);
            } else {
                self.dropped += 1;
            }
            self.became_empty = false;
            if self.transmitter.len() == 1 {
                self.drain();
            }
        }
        fn set_fifo(&mut self, value: u8) {
            let size = if value & 1 != 0 { FIFO_SIZE } else { 1 };
            let flush = |bit: u8| size < self.size || size > 1 && value & bit != 0;
            if flush(2) {
                self.receiver.clear();
                self.polls = false;
            }
            if flush(4) {
                self.became_empty |= !self.transmitter.is_empty();
                self.transmitter.clear();
            }
            self.trigger = if size > 1 { [1, 4, 8, 14][usize::from(value >> 6)] } else { 1 };
            self.size = size;
        }
        fn source(&self) -> u8 {
            match self.receiver.len() {
                n if self.enabled & 1 != 0 && n >= self.trigger => 0x04,
                n if self.enabled & 1 != 0 && n > 0 => 0x0c,
                _ if self.enabled & 2 != 0 && self.became_empty => 0x02,
                _ => 0x01,
            }
        }
    }

    proptest! {
        #[test]
        fn sec50_the_port_agrees_with_a_model(steps in prop::collection::vec(step(), 1..200)) {
            let mut rig = Rig::with_room(0);
            let mut model = Model { size: 1, trigger: 1, ..Model::default() };
            let mut next_input = 0u8;
            for step in steps {
                let asked = std::mem::take(&mut model.asked);
                if matches!(step, Step::Receive(_) | Step::Room(_) | Step::ReadLsr(_)) {
                    model.asked = asked;
                }
                match step {
                    Step::Send(byte) => {
                        rig.write(THR, byte);
                        model.send(byte);
                    }
                    Step::Receive(count) => {
                        let bytes: Vec<u8> = (0..count).map(|i| next_input.wrapping_add(i as u8)).collect();
                        let taken = rig.serial.receive(&bytes);
                        prop_assert_eq!(taken, count.min(model.takes()));
                        model.receiver.extend(&bytes[..taken]);
                        next_input = next_input.wrapping_add(taken as u8);
                    }
                    Step::Room(room) => {
                        rig.make_room(room);
                        model.room = room;
                        model.drain();
                    }
                    Step::ReadRbr => {
                        let wanted = if model.receiver.is_empty() { 0 } else { model.receiver.remove(0) };
                        prop_assert_eq!(rig.read(RBR), wanted);
                    }
                    Step::ReadLsr(times) => {
                        for _ in 0..times {
                            model.drain();
                            let is_empty = model.transmitter.is_empty();
                            model.asked = if is_empty { model.asked + 1 } else { 0 };
                            model.polls |= model.asked >= IN_A_ROW;
                            let empty = if is_empty { 0x60 } else { 0 };
                            prop_assert_eq!(rig.read(LSR), empty | u8::from(!model.receiver.is_empty()));
                        }
                        model.asked = model.asked.min(IN_A_ROW);
                    }
                    Step::ReadIir => {
                        let source = model.source();
                        prop_assert_eq!(rig.read(IIR), source | if model.size > 1 { 0xc0 } else { 0 });
                        model.became_empty &= source != 0x02;
                    }
                    Step::Interrupts(bits) => {
                        rig.write(IER, bits);
                        model.became_empty |= bits & !model.enabled & 2 != 0 && model.transmitter.is_empty();
                        model.enabled = bits;
                    }
                    Step::Fifo(value) => {
                        rig.write(FCR, value);
                        model.set_fifo(value);
                    }
                    Step::Out2(on) => {
                        rig.write(MCR, if on { mcr::OUT2 } else { 0 });
                        model.out2 = on;
                    }
                }
                prop_assert_eq!(rig.irq.level(), model.out2 && model.source() != 0x01);
                prop_assert_eq!(rig.sent(), &model.sent[..]);
                prop_assert_eq!(rig.serial.lost(), model.dropped + model.transmitter.len() as u64);
            }
        }
    }
}
