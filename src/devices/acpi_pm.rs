//! ACPI's registers of a hardware-reduced platform: sleep control and status, reset, and the events of the platform.
//!
//! Models ACPI 6.5 §4.8.3.7 (sleep registers; S5 only), §4.8.3.6 (reset register), and the register that the Generic Event
//! Device's method in our DSDT reads (§5.6.9). `boot/acpi.rs` writes the tables that tell a guest where these stand.

use crate::bus::device::{BusDevice, DeviceState, Lifecycle, StateError, read_by_bytes, write_by_bytes};
use crate::bus::irq::IrqLine;
use crate::bus::request::{GuestRequest, GuestRequests};
use crate::bus::state::StateReader;

/// Sleep control: go to the state in [`SLP_TYP`].
const SLP_EN: u8 = 1 << 5;
/// Sleep control: the state's number, bits 4:2.
const SLP_TYP: u8 = 7 << 2;
/// SLP_TYP of soft off, as \_S5 in our DSDT has it.
const SLP_TYP_S5: u8 = 5 << 2;
/// What resets the machine when written to the reset register; the FADT's RESET_VALUE.
const RESET_VALUE: u8 = 1;
/// Event status: the power button was pressed.
const EVENT_POWER_BUTTON: u8 = 1 << 0;

/// Kind of the saved state.
const KIND: &str = "acpi-pm/1";

/// Four byte-wide registers, and the interrupt that tells of events.
pub struct AcpiPm {
    interrupt: Box<dyn IrqLine>,
    requests: GuestRequests,
    /// Events that the guest has not read yet.
    events: u8,
}

impl AcpiPm {
    /// Registers that raise `interrupt` for events and file power off and reset with `requests`.
    pub fn new(interrupt: Box<dyn IrqLine>, requests: GuestRequests) -> AcpiPm {
        AcpiPm { interrupt, requests, events: 0 }
    }

    /// Presses the power button. Each press is an edge, because a guest may have missed the one before.
    pub fn press_power_button(&mut self) {
        self.interrupt.set_level(false);
        self.events |= EVENT_POWER_BUTTON;
        self.interrupt.set_level(true);
    }

    fn read_events_and_clear(&mut self) -> u8 {
        let events = std::mem::take(&mut self.events);
        self.interrupt.set_level(false);
        events
    }
}

impl BusDevice for AcpiPm {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        read_by_bytes(offset, size, |offset| match offset {
            0..=2 => 0, // awake: SLP_EN reads as zero, and WAK_STS would tell of a wake-up from sleep
            3 => self.read_events_and_clear(),
            _ => 0xff,
        })
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        write_by_bytes(offset, size, value, |offset, byte| match offset {
            0 if byte & (SLP_EN | SLP_TYP) == (SLP_EN | SLP_TYP_S5) => self.requests.file(GuestRequest::PowerOff),
            2 if byte == RESET_VALUE => self.requests.file(GuestRequest::Reset),
            _ => {}
        });
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        match offset {
            0 => "SLEEP_CONTROL",
            1 => "SLEEP_STATUS",
            2 => "RESET",
            3 => "EVENT_STATUS",
            _ => "",
        }
    }
}

impl Lifecycle for AcpiPm {
    fn reset(&mut self) {
        let AcpiPm { interrupt, requests: _, events } = self;
        *events = 0;
        interrupt.set_level(false);
    }

    fn save(&self) -> DeviceState {
        DeviceState { kind: KIND, bytes: vec![self.events] }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let mut reader = StateReader::open(state, KIND)?;
        let events = reader.u8()?;
        if events & !EVENT_POWER_BUTTON != 0 {
            return Err(reader.refuse("an event that does not exist"));
        }
        reader.end()?;
        self.events = events;
        self.interrupt.set_level(events != 0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::PORT_ACPI_SIZE;
    use crate::bus::irq::{RecordedLine, Unconnected};
    use std::sync::Arc;

    crate::devices::conformance::conformance!(
        AcpiPm::new(Box::new(Unconnected), GuestRequests::default()),
        PORT_ACPI_SIZE.into()
    );

    #[test]
    fn only_s5_and_the_reset_value_end_the_machine() {
        let requests = GuestRequests::default();
        let mut registers = AcpiPm::new(Box::new(Unconnected), requests.clone());
        for value in [0, SLP_TYP_S5, SLP_EN, SLP_EN | 3 << 2] {
            registers.write(0, 1, value.into());
        }
        registers.write(1, 1, 0x80);
        registers.write(2, 1, 6);
        assert_eq!(requests.take(), None);
        registers.write(0, 1, (SLP_EN | SLP_TYP_S5).into());
        registers.write(2, 1, RESET_VALUE.into());
        assert_eq!(requests.take(), Some(GuestRequest::PowerOff));
        assert_eq!(requests.take(), Some(GuestRequest::Reset));
    }

    #[test]
    fn each_press_is_an_edge_and_reading_the_status_ends_it() {
        let line = Arc::new(RecordedLine::default());
        let mut registers = AcpiPm::new(Box::new(line.clone()), GuestRequests::default());
        registers.press_power_button();
        registers.press_power_button();
        assert_eq!((line.rises(), line.level()), (2, true));
        assert_eq!((registers.read(3, 1), registers.read(3, 1)), (1, 0));
        assert!(!line.level());
        registers.press_power_button();
        registers.reset();
        assert_eq!((registers.read(3, 1), line.level()), (0, false));
    }
}
