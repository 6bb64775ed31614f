//! i8042 keyboard controller without keyboard and mouse: the way to reset a PC, and what boot code asks of it.
//!
//! Models the commands that need no device: self-test, configuration byte, output port (A20 is always open; bit 0 low resets)
//! and the pulse that resets. The status never shows a full input buffer, so nobody waits for it. Left out: interrupts, and
//! whatever goes to keyboard or mouse, which is swallowed as an empty socket would.
//! Source: IBM PS/2 Hardware Interface Technical Reference (1988), "Keyboard and Auxiliary Device Controller".

use crate::bus::device::{BusDevice, DeviceState, Lifecycle, StateError, read_by_bytes, write_by_bytes};
use crate::bus::request::{GuestRequest, GuestRequests};
use crate::bus::state::StateReader;

/// Ports from the data port on; those between data and command are not ours and read as nothing does.
pub const PORTS: u16 = 5;
/// Data port.
const DATA: u64 = 0;
/// Command (write) and status (read) port.
const COMMAND: u64 = 4;

/// Status: a byte waits at the data port.
const STATUS_OUTPUT_FULL: u8 = 1 << 0;
/// Status: the self-test passed since power on.
const STATUS_SYSTEM: u8 = 1 << 2;

/// Configuration byte after reset: clocks of both devices stopped.
const CONFIG_RESET: u8 = 0x30;
/// Answer to a passed self-test.
const SELF_TEST_PASSED: u8 = 0x55;
/// Answer to the test of a device's port: its clock line is stuck low, because there is no device.
const PORT_TEST_NOTHING: u8 = 0x01;
/// Output port: not in reset, A20 open.
const OUTPUT_PORT: u8 = 0x03;
/// Output port bit 0, and bit 0 of the pulse command: low resets the processor.
const NOT_RESET: u8 = 1 << 0;

/// Commands.
mod command {
    pub const READ_CONFIG: u8 = 0x20;
    pub const WRITE_CONFIG: u8 = 0x60;
    pub const TEST_MOUSE_PORT: u8 = 0xa9;
    pub const SELF_TEST: u8 = 0xaa;
    pub const TEST_KEYBOARD_PORT: u8 = 0xab;
    pub const READ_OUTPUT_PORT: u8 = 0xd0;
    pub const WRITE_OUTPUT_PORT: u8 = 0xd1;
    pub const WRITE_KEYBOARD_BUFFER: u8 = 0xd2;
    pub const WRITE_MOUSE: u8 = 0xd4;
    /// And up: pulse those of output lines 3:0 whose bit is 0.
    pub const PULSE: u8 = 0xf0;
}

/// Kind of the saved state.
const KIND: &str = "i8042/1";

/// The controller.
pub struct I8042 {
    requests: GuestRequests,
    registers: Registers,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Registers {
    config: u8,
    tested: bool,
    /// Command that waits for a byte at the data port; 0: none.
    waiting: u8,
    /// Byte at the data port for the guest.
    output: Option<u8>,
}

/// The state after power on.
const POWER_ON: Registers = Registers { config: CONFIG_RESET, tested: false, waiting: 0, output: None };

impl I8042 {
    /// A controller that files resets with `requests`.
    pub fn new(requests: GuestRequests) -> I8042 {
        I8042 { requests, registers: POWER_ON }
    }

    fn command(&mut self, value: u8) {
        let registers = &mut self.registers;
        registers.waiting = 0;
        match value {
            command::READ_CONFIG => registers.output = Some(registers.config),
            command::TEST_MOUSE_PORT | command::TEST_KEYBOARD_PORT => registers.output = Some(PORT_TEST_NOTHING),
            command::SELF_TEST => {
                registers.tested = true;
                registers.output = Some(SELF_TEST_PASSED);
            }
            command::READ_OUTPUT_PORT => registers.output = Some(OUTPUT_PORT),
            command::WRITE_CONFIG
            | command::WRITE_OUTPUT_PORT
            | command::WRITE_KEYBOARD_BUFFER
            | command::WRITE_MOUSE => {
                registers.waiting = value;
            }
            command::PULSE.. if value & NOT_RESET == 0 => self.requests.file(GuestRequest::Reset),
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match std::mem::take(&mut self.registers.waiting) {
            command::WRITE_CONFIG => self.registers.config = value,
            command::WRITE_OUTPUT_PORT if value & NOT_RESET == 0 => self.requests.file(GuestRequest::Reset),
            command::WRITE_KEYBOARD_BUFFER => self.registers.output = Some(value),
            _ => {} // to a device that is not there
        }
    }

    fn status(&self) -> u8 {
        let full = if self.registers.output.is_some() { STATUS_OUTPUT_FULL } else { 0 };
        full | if self.registers.tested { STATUS_SYSTEM } else { 0 }
    }
}

impl BusDevice for I8042 {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        read_by_bytes(offset, size, |offset| match offset {
            DATA => self.registers.output.take().unwrap_or(0),
            COMMAND => self.status(),
            _ => 0xff,
        })
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        write_by_bytes(offset, size, value, |offset, byte| match offset {
            DATA => self.data(byte),
            COMMAND => self.command(byte),
            _ => {}
        });
    }

    fn register_name(&self, offset: u64, write: bool) -> &'static str {
        match (offset, write) {
            (DATA, _) => "DATA",
            (COMMAND, true) => "COMMAND",
            (COMMAND, false) => "STATUS",
            _ => "",
        }
    }
}

impl Lifecycle for I8042 {
    fn reset(&mut self) {
        let I8042 { requests: _, registers } = self;
        *registers = POWER_ON;
    }

    fn save(&self) -> DeviceState {
        let Registers { config, tested, waiting, output } = self.registers;
        let (full, output) = (u8::from(output.is_some()), output.unwrap_or(0));
        DeviceState { kind: KIND, bytes: vec![config, u8::from(tested), waiting, full, output] }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let mut reader = StateReader::open(state, KIND)?;
        let (config, tested, waiting) = (reader.u8()?, reader.flag()?, reader.u8()?);
        let (full, output) = (reader.flag()?, reader.u8()?);
        reader.end()?;
        self.registers = Registers { config, tested, waiting, output: full.then_some(output) };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::devices::conformance::conformance!(I8042::new(GuestRequests::default()), PORTS.into());

    fn ask(controller: &mut I8042, command: u8) -> Option<u8> {
        controller.write(COMMAND, 1, command.into());
        let full = controller.read(COMMAND, 1) & u64::from(STATUS_OUTPUT_FULL) != 0;
        full.then(|| controller.read(DATA, 1) as u8)
    }

    #[test]
    fn nothing_waits_and_no_key_is_pressed() {
        let mut controller = I8042::new(GuestRequests::default());
        assert_eq!((controller.read(COMMAND, 1), controller.read(DATA, 1)), (0, 0));
        assert_eq!(controller.read(1, 1), 0xff, "port 0x61 is not ours");
    }

    #[test]
    fn boot_code_gets_its_answers() {
        let mut controller = I8042::new(GuestRequests::default());
        assert_eq!(ask(&mut controller, command::READ_CONFIG), Some(CONFIG_RESET));
        assert_eq!(ask(&mut controller, command::SELF_TEST), Some(SELF_TEST_PASSED));
        assert_eq!(ask(&mut controller, command::READ_OUTPUT_PORT), Some(OUTPUT_PORT));
        assert_eq!(ask(&mut controller, command::TEST_KEYBOARD_PORT), Some(PORT_TEST_NOTHING));
        assert_eq!(ask(&mut controller, command::WRITE_CONFIG), None);
        controller.write(DATA, 1, 0x47);
        assert_eq!(ask(&mut controller, command::READ_CONFIG), Some(0x47));
        controller.write(DATA, 1, 0xff); // reset of the keyboard: nobody answers
        assert_eq!(controller.read(COMMAND, 1) as u8, STATUS_SYSTEM);
    }

    #[test]
    fn both_ways_of_reset_are_filed() {
        let requests = GuestRequests::default();
        let mut controller = I8042::new(requests.clone());
        controller.write(COMMAND, 1, 0xff); // pulses no line
        controller.write(COMMAND, 1, command::WRITE_OUTPUT_PORT.into());
        controller.write(DATA, 1, 0xdf); // opens A20
        assert_eq!(requests.take(), None);
        controller.write(COMMAND, 1, 0xfe);
        assert_eq!(requests.take(), Some(GuestRequest::Reset));
        controller.write(COMMAND, 1, command::WRITE_OUTPUT_PORT.into());
        controller.write(DATA, 1, 0xfe);
        assert_eq!(requests.take(), Some(GuestRequest::Reset));
    }
}
