//! What a device is to the rest of the machine.
//!
//! A device is a state machine: it knows its registers by offset, never its address, and holds no file descriptor, thread
//! or clock of its own. What it needs from outside comes in as a trait object at construction.

use super::state::StateReader;
use std::fmt::Debug;

/// Answer to a read that no register serves: what a PC bus floats to. Never stale bytes.
pub const ALL_ONES: u64 = u64::MAX;

/// The register side of a device.
pub trait BusDevice: Send {
    /// Reads `size` bytes (1 to 8, any number) at `offset`. Higher bits of the value are ignored by the bus.
    fn read(&mut self, offset: u64, size: u8) -> u64;

    /// Writes the low `size` bytes (1 to 8, any number) of `value` at `offset`. The bus has cleared the higher bits.
    fn write(&mut self, offset: u64, size: u8, value: u64);

    /// Name of the register that an access at `offset` reaches now, as its specification calls it; "" if none.
    fn register_name(&self, offset: u64, write: bool) -> &'static str;
}

/// Reads as an ISA bus reads a chip with byte-wide registers: a wider access becomes one access a byte, lowest first.
pub fn read_by_bytes(offset: u64, size: u8, mut read: impl FnMut(u64) -> u8) -> u64 {
    (0..u64::from(size.min(8))).fold(0, |value, i| value | u64::from(read(offset.saturating_add(i))) << (8 * i))
}

/// Writes as an ISA bus writes a chip with byte-wide registers: see [`read_by_bytes`].
pub fn write_by_bytes(offset: u64, size: u8, value: u64, mut write: impl FnMut(u64, u8)) {
    for (i, byte) in (0..size.min(8)).zip(value.to_le_bytes()) {
        write(offset.saturating_add(u64::from(i)), byte);
    }
}

/// The life of a device besides its registers.
pub trait Lifecycle {
    /// Back to the state after construction; the lines a device drives fall with it.
    fn reset(&mut self);

    /// All state that a restored device needs to go on as if nothing had happened.
    fn save(&self) -> DeviceState;

    /// Takes over a saved state. On error nothing has changed.
    ///
    /// # Errors
    /// The state is of another device, of another version, or its values are out of range.
    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError>;
}

/// A device that remembers nothing between two accesses: there is nothing to reset, and an empty state to save.
pub trait Stateless {
    /// Kind of the device, as in [`DeviceState::kind`].
    const KIND: &'static str;
}

impl<D: Stateless> Lifecycle for D {
    fn reset(&mut self) {}

    fn save(&self) -> DeviceState {
        DeviceState { kind: D::KIND, bytes: Vec::new() }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        StateReader::open(state, D::KIND)?.end()
    }
}

/// A device's saved state: its kind, and its registers in the order that the device defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceState {
    /// Kind of the device, with the version of the state's form: "16550a/1".
    pub kind: &'static str,
    /// The state itself.
    pub bytes: Vec<u8>,
}

/// A saved state that a device refuses.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum StateError {
    /// The state was saved by something else.
    #[error("restore {wanted}: the state is of {found}")]
    Kind {
        /// Kind of the device that was to take it.
        wanted: &'static str,
        /// Kind found in the state.
        found: &'static str,
    },
    /// The state's bytes do not make sense.
    #[error("restore {kind}: {what}")]
    Value {
        /// Kind of the device.
        kind: &'static str,
        /// What is wrong with which value.
        what: &'static str,
    },
}

/// Where a device stands in the machine: what ACPI, `--dry-run` and the tracer tell about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceNode {
    /// Short name: "COM1".
    pub name: &'static str,
    /// What it is: "16550A serial port".
    pub what: &'static str,
    /// First port, and number of ports.
    pub ports: Option<(u16, u16)>,
    /// First guest-physical address, and bytes.
    pub mmio: Option<(u64, u64)>,
    /// Interrupt input that the device drives.
    pub irq: Option<u32>,
}
