//! IOAPIC: 24 interrupt inputs, each routed to the LAPICs as a message.
//!
//! Models the 82093AA with two later additions: 8-bit destinations, and version 0x20's EOI register, which a guest needs
//! because KVM offers to suppress EOI broadcasts when the IOAPIC is not its own. A wire's level means "asserted", so the
//! polarity bit is only memory, as in KVM's own IOAPIC. An edge on a masked input is lost (82093AA §3.2.4, "Interrupt
//! Mask"). Delivery status always reads idle, and arbitration follows the id. Left out: the serial APIC bus.
//! Sources: Intel 82093AA data sheet §3.1, §3.2; Intel ICH9 data sheet §13.5.6 (EOI register); Linux
//! arch/x86/kvm/ioapic.c.

use crate::bus::bus::{Shared, lock};
use crate::bus::device::{ALL_ONES, BusDevice, DeviceState, Lifecycle, StateError};
use crate::bus::irq::{IrqLine, Msi, MsiSink};
use crate::bus::state::StateReader;

/// Interrupt inputs.
pub const INPUTS: usize = 24;

/// Offset: which register IOWIN shows.
const IOREGSEL: u64 = 0x00;
/// Offset: the register selected.
const IOWIN: u64 = 0x10;
/// Offset: end of interrupt, by vector.
const EOI: u64 = 0x40;

/// Register: identification, in bits 27:24.
const IOAPICID: u8 = 0x00;
/// Register: version, and the number of the last input.
const IOAPICVER: u8 = 0x01;
/// Register: arbitration id.
const IOAPICARB: u8 = 0x02;
/// First of the registers of the redirection table, two an input, low half first.
const IOREDTBL: u8 = 0x10;

/// Version with an EOI register.
const VERSION: u32 = 0x20;

/// Kind of the saved state.
const KIND: &str = "82093aa/1";

/// An entry of the redirection table (82093AA §3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const DELIVERY_MODE: u64 = 7 << 8;
    const LOGICAL: u64 = 1 << 11;
    const POLARITY: u64 = 1 << 13;
    const REMOTE_IRR: u64 = 1 << 14;
    const LEVEL: u64 = 1 << 15;
    const MASKED: u64 = 1 << 16;
    const DESTINATION: u64 = 0xff << 56;
    /// What a guest can change.
    const WRITABLE: u64 = 0xff
        | Entry::DELIVERY_MODE
        | Entry::LOGICAL
        | Entry::POLARITY
        | Entry::LEVEL
        | Entry::MASKED
        | Entry::DESTINATION;

    fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The message that this entry sends (Intel SDM vol. 3A §11.11.1, §11.11.2).
    fn msi(self) -> Msi {
        let logical = if self.has(Entry::LOGICAL) { 1 << 2 } else { 0 };
        let level_assert = if self.has(Entry::LEVEL) { 1 << 15 | 1 << 14 } else { 0 };
        Msi {
            address: 0xfee0_0000 | (self.0 >> 56) << 12 | logical,
            data: (self.0 & (0xff | Entry::DELIVERY_MODE)) as u32 | level_assert,
        }
    }
}

/// State after reset: every input masked.
const MASKED_ENTRY: Entry = Entry(Entry::MASKED);

/// The IOAPIC.
pub struct Ioapic {
    // wiring
    lapics: Box<dyn MsiSink>,
    // book-keeping
    /// What the LAPICs were told last about level-triggered inputs.
    watched: [Option<Msi>; INPUTS],
    // what the guest sees
    select: u8,
    id: u8,
    /// Level of the wires, one bit an input.
    asserted: u32,
    entries: [Entry; INPUTS],
}

impl Ioapic {
    /// An IOAPIC after reset that sends to `lapics`.
    pub fn new(lapics: Box<dyn MsiSink>) -> Ioapic {
        Ioapic { lapics, watched: [None; INPUTS], select: 0, id: 0, asserted: 0, entries: [MASKED_ENTRY; INPUTS] }
    }

    /// A LAPIC saw the end of an interrupt with this vector: level-triggered inputs that are still asserted send again.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for input in 0..INPUTS {
            let entry = &mut self.entries[input];
            if entry.vector() == vector && entry.has(Entry::LEVEL) {
                entry.0 &= !Entry::REMOTE_IRR;
                self.send_if_level(input);
            }
        }
    }

    fn set_input(&mut self, input: usize, asserted: bool) {
        let rises = asserted && self.asserted & 1 << input == 0;
        self.asserted = self.asserted & !(1 << input) | u32::from(asserted) << input;
        let entry = self.entries[input];
        if entry.has(Entry::LEVEL) {
            self.send_if_level(input);
        } else if rises && !entry.has(Entry::MASKED) {
            self.lapics.send(entry.msi());
        }
    }

    /// Sends for a level-triggered input that is asserted, open, and whose last message has ended.
    fn send_if_level(&mut self, input: usize) {
        let entry = &mut self.entries[input];
        let asserted = self.asserted & 1 << input != 0;
        if asserted && entry.has(Entry::LEVEL) && !entry.has(Entry::MASKED) && !entry.has(Entry::REMOTE_IRR) {
            entry.0 |= Entry::REMOTE_IRR;
            self.lapics.send(entry.msi());
        }
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            IOAPICID | IOAPICARB => u32::from(self.id) << 24,
            IOAPICVER => VERSION | (INPUTS as u32 - 1) << 16,
            register => match entry_index(register) {
                Some((input, 0)) => self.entries[input].0 as u32,
                Some((input, _)) => (self.entries[input].0 >> 32) as u32,
                None => u32::MAX,
            },
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.select == IOAPICID {
            self.id = (value >> 24) as u8 & 0xf;
        } else if let Some((input, shift)) = entry_index(self.select) {
            self.write_entry(input, shift, value);
        }
    }

    fn write_entry(&mut self, input: usize, shift: u32, value: u32) {
        let entry = &mut self.entries[input];
        let writable = Entry::WRITABLE & u64::from(u32::MAX) << shift;
        entry.0 = entry.0 & !writable | u64::from(value) << shift & writable;
        // Guests without an EOI register end an interrupt by switching its entry to edge and back.
        if !entry.has(Entry::LEVEL) {
            entry.0 &= !Entry::REMOTE_IRR;
        }
        self.watch_level_inputs();
        self.send_if_level(input);
    }

    /// Keeps the LAPICs informed for which messages to report the end. Masked inputs stay among them, because the end of an
    /// interrupt often comes after its handler masked the input, and because telling the LAPICs costs far more than a report.
    fn watch_level_inputs(&mut self) {
        let watched = self.entries.map(|entry| entry.has(Entry::LEVEL).then(|| entry.msi()));
        if watched != self.watched {
            self.watched = watched;
            self.lapics.watch_level_inputs(&watched);
        }
    }
}

/// Input and shift of a register of the redirection table.
fn entry_index(register: u8) -> Option<(usize, u32)> {
    let half = usize::from(register.checked_sub(IOREDTBL)?);
    (half < 2 * INPUTS).then_some((half / 2, if half % 2 == 0 { 0 } else { 32 }))
}

impl BusDevice for Ioapic {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        match offset {
            IOREGSEL => self.select.into(),
            IOWIN => self.read_selected().into(),
            _ => ALL_ONES,
        }
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        match offset {
            IOREGSEL => self.select = value as u8,
            IOWIN => self.write_selected(value as u32),
            EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    fn register_name(&self, offset: u64, _write: bool) -> &'static str {
        match (offset, self.select) {
            (IOREGSEL, _) => "IOREGSEL",
            (IOWIN, IOAPICID) => "IOAPICID",
            (IOWIN, IOAPICVER) => "IOAPICVER",
            (IOWIN, IOAPICARB) => "IOAPICARB",
            (IOWIN, register) if entry_index(register).is_some() => "IOREDTBL",
            (IOWIN, _) => "IOWIN",
            (EOI, _) => "EOI",
            _ => "",
        }
    }
}

impl Lifecycle for Ioapic {
    fn reset(&mut self) {
        let Ioapic { lapics: _, watched: _, select, id, asserted, entries } = self;
        (*select, *id, *asserted, *entries) = (0, 0, 0, [MASKED_ENTRY; INPUTS]);
        self.watch_level_inputs();
    }

    fn save(&self) -> DeviceState {
        let mut bytes = vec![self.select, self.id];
        bytes.extend(self.asserted.to_le_bytes());
        bytes.extend(self.entries.iter().flat_map(|entry| entry.0.to_le_bytes()));
        DeviceState { kind: KIND, bytes }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError> {
        let mut reader = StateReader::open(state, KIND)?;
        let (select, id, asserted) = (reader.u8()?, reader.u8()?, reader.u32()?);
        let mut entries = [MASKED_ENTRY; INPUTS];
        for entry in &mut entries {
            *entry = Entry(reader.u64()?);
            if entry.has(!(Entry::WRITABLE | Entry::REMOTE_IRR)) {
                return Err(reader.refuse("an entry has bits that the chip has not"));
            }
        }
        if id > 0xf || asserted >> INPUTS != 0 {
            return Err(reader.refuse("an id or input that the chip has not"));
        }
        reader.end()?;
        (self.select, self.id, self.asserted, self.entries) = (select, id, asserted, entries);
        self.watch_level_inputs();
        Ok(())
    }
}

/// The wire to one input of an IOAPIC.
pub struct IoapicPin {
    ioapic: Shared<Ioapic>,
    input: usize,
}

impl IoapicPin {
    /// The wire to input number `input`.
    ///
    /// # Panics
    /// The IOAPIC has no such input: a mistake in the wiring.
    pub fn new(ioapic: Shared<Ioapic>, input: usize) -> IoapicPin {
        assert!(input < INPUTS, "input {input} of an IOAPIC");
        IoapicPin { ioapic, input }
    }
}

impl IrqLine for IoapicPin {
    fn set_level(&self, high: bool) {
        lock(&self.ioapic).set_input(self.input, high);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// LAPICs that remember.
    #[derive(Clone, Default)]
    struct Lapics(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        sent: Vec<Msi>,
        watches: Vec<Vec<Option<Msi>>>,
    }

    impl MsiSink for Lapics {
        fn send(&self, msi: Msi) {
            self.0.lock().unwrap().sent.push(msi);
        }
        fn watch_level_inputs(&self, routes: &[Option<Msi>]) {
            self.0.lock().unwrap().watches.push(routes.to_vec());
        }
    }

    impl Lapics {
        fn sent(&self) -> Vec<Msi> {
            std::mem::take(&mut self.0.lock().unwrap().sent)
        }
        fn watches(&self) -> usize {
            self.0.lock().unwrap().watches.len()
        }
    }

    fn rig() -> (Shared<Ioapic>, Lapics) {
        let lapics = Lapics::default();
        (Arc::new(Mutex::new(Ioapic::new(Box::new(lapics.clone())))), lapics)
    }

    fn write(ioapic: &Shared<Ioapic>, register: u8, value: u32) {
        let mut ioapic = lock(ioapic);
        ioapic.write(IOREGSEL, 4, register.into());
        ioapic.write(IOWIN, 4, value.into());
    }

    fn read(ioapic: &Shared<Ioapic>, register: u8) -> u32 {
        let mut ioapic = lock(ioapic);
        ioapic.write(IOREGSEL, 4, register.into());
        ioapic.read(IOWIN, 4) as u32
    }

    fn low(input: u8) -> u8 {
        IOREDTBL + 2 * input
    }

    const LEVEL: u32 = Entry::LEVEL as u32;
    const MASKED: u32 = Entry::MASKED as u32;
    const REMOTE_IRR: u32 = Entry::REMOTE_IRR as u32;

    crate::devices::conformance::conformance!(Ioapic::new(Box::new(Lapics::default())), 0x50);

    #[test]
    fn registers_read_as_the_data_sheet_says() {
        let (ioapic, _) = rig();
        assert_eq!(read(&ioapic, IOAPICVER), 0x0017_0020);
        write(&ioapic, IOAPICID, 0xff00_0000);
        assert_eq!((read(&ioapic, IOAPICID), read(&ioapic, IOAPICARB)), (0x0f00_0000, 0x0f00_0000));
        assert_eq!(read(&ioapic, low(23)), MASKED);
        write(&ioapic, low(23), u32::MAX);
        write(&ioapic, low(23) + 1, u32::MAX);
        assert_eq!((read(&ioapic, low(23)), read(&ioapic, low(23) + 1)), (0x0001_afff, 0xff00_0000));
        assert_eq!(read(&ioapic, low(24)), u32::MAX);
        assert_eq!(lock(&ioapic).register_name(IOWIN, false), "IOWIN");
    }

    #[test]
    fn a_rising_edge_sends_one_message_to_its_destination() {
        let (ioapic, lapics) = rig();
        let wire = IoapicPin::new(ioapic.clone(), 4);
        write(&ioapic, low(4) + 1, 0x0300_0000);
        write(&ioapic, low(4), 0x0000_0924); // lowest priority, logical
        for level in [true, true, false, true] {
            wire.set_level(level);
        }
        let message = Msi { address: 0xfee0_3004, data: 0x0124 };
        assert_eq!((lapics.sent(), lapics.watches()), (vec![message, message], 0));
    }

    #[test]
    fn an_edge_on_a_masked_input_is_lost() {
        let (ioapic, lapics) = rig();
        let wire = IoapicPin::new(ioapic.clone(), 4);
        wire.set_level(true);
        write(&ioapic, low(4), 0x24);
        assert_eq!(lapics.sent(), []);
        wire.set_level(false);
        wire.set_level(true);
        assert_eq!(lapics.sent().len(), 1);
    }

    #[test]
    fn a_level_sends_again_after_its_end_while_it_stays() {
        let (ioapic, lapics) = rig();
        let wire = IoapicPin::new(ioapic.clone(), 9);
        wire.set_level(true);
        write(&ioapic, low(9), LEVEL | 0x31);
        let message = Msi { address: 0xfee0_0000, data: 0xc031 };
        assert_eq!(lapics.sent(), [message], "unmasking finds the level");
        assert_eq!(read(&ioapic, low(9)), LEVEL | REMOTE_IRR | 0x31);
        wire.set_level(false);
        wire.set_level(true);
        assert_eq!(lapics.sent(), [], "one at a time");
        lock(&ioapic).end_of_interrupt(0x30);
        assert_eq!(lapics.sent(), []);
        lock(&ioapic).write(EOI, 4, 0x31);
        assert_eq!(lapics.sent(), [message]);
        wire.set_level(false);
        lock(&ioapic).end_of_interrupt(0x31);
        assert_eq!((lapics.sent(), read(&ioapic, low(9))), (vec![], LEVEL | 0x31));
    }

    #[test]
    fn switching_to_edge_and_back_ends_an_interrupt() {
        let (ioapic, lapics) = rig();
        let wire = IoapicPin::new(ioapic.clone(), 9);
        write(&ioapic, low(9), LEVEL | 0x31);
        wire.set_level(true);
        write(&ioapic, low(9), MASKED | 0x31);
        write(&ioapic, low(9), LEVEL | 0x31);
        assert_eq!(lapics.sent().len(), 2);
    }

    #[test]
    fn lapics_are_told_only_when_a_level_input_changes() {
        let (ioapic, lapics) = rig();
        write(&ioapic, low(4), 0x24);
        assert_eq!(lapics.watches(), 0);
        write(&ioapic, low(9), MASKED | LEVEL | 0x31);
        write(&ioapic, low(9), LEVEL | 0x31);
        write(&ioapic, low(9), MASKED | LEVEL | 0x31);
        assert_eq!(lapics.watches(), 1, "masking changes nothing");
        write(&ioapic, low(9) + 1, 0x0100_0000);
        assert_eq!(lapics.watches(), 2);
        let last = lapics.0.lock().unwrap().watches[1].clone();
        let expected = |input| (input == 9).then_some(Msi { address: 0xfee0_1000, data: 0xc031 });
        assert_eq!(last, (0..INPUTS).map(expected).collect::<Vec<_>>());
        lock(&ioapic).reset();
        assert_eq!((lapics.watches(), lapics.0.lock().unwrap().watches[2].clone()), (3, vec![None; INPUTS]));
    }
}
