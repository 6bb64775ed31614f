//! MSI-X: a table of messages, each with a mask, and the messages that wait behind a mask.
//!
//! Source: PCI 3.0 §6.8.2.

use crate::bus::irq::{Msi, MsiSink};

/// Identifier of the capability.
pub const CAPABILITY: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_BYTES: u64 = 16;
/// Most vectors of a function here: pending bits in one word.
pub const VECTORS_MAX: usize = 64;

/// Message control: MSI-X is enabled.
const ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: masked.
const MASKED: u32 = 1;

/// A function's vectors.
pub struct Msix {
    entries: Vec<Entry>,
    /// Vectors that were sent while masked, a bit each.
    pending: u64,
    control: u16,
    sink: Box<dyn MsiSink>,
}

#[derive(Clone, Copy)]
struct Entry {
    msi: Msi,
    control: u32,
}

impl Msix {
    /// `vectors` of them, at most [`VECTORS_MAX`], all masked as after reset.
    pub fn new(vectors: usize, sink: Box<dyn MsiSink>) -> Msix {
        assert!((1..=VECTORS_MAX).contains(&vectors), "{vectors} vectors");
        Msix { entries: vec![Entry { msi: Msi::default(), control: MASKED }; vectors], pending: 0, control: 0, sink }
    }

    /// The capability's body, table and pending bits in BAR 0 at these offsets, and its writable bits.
    pub fn capability(&self, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.entries.len() as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pending.to_le_bytes());
        (body, (ENABLE | FUNCTION_MASK).to_le_bytes())
    }

    /// Number of vectors.
    pub fn vectors(&self) -> usize {
        self.entries.len()
    }

    /// The driver wrote message control.
    pub fn set_control(&mut self, control: u16) {
        self.control = control;
        (0..self.entries.len()).for_each(|vector| self.deliver(vector));
    }

    /// Sends the message of `vector`, or keeps it while it is masked. A vector that does not exist sends nothing.
    pub fn send(&mut self, vector: u16) {
        let vector = usize::from(vector);
        if vector < self.entries.len() {
            self.pending |= 1 << vector;
            self.deliver(vector);
        }
    }

    /// Reads the table.
    pub fn read_table(&self, offset: u64, size: u8) -> u64 {
        let Some(entry) = self.entries.get((offset / ENTRY_BYTES) as usize) else { return u64::MAX };
        let low = entry.msi.address;
        let high = u64::from(entry.msi.data) | u64::from(entry.control) << 32;
        match (offset % ENTRY_BYTES, size) {
            (0, 8) => low,
            (8, 8) => high,
            (0, 4) => low & 0xffff_ffff,
            (4, 4) => low >> 32,
            (8, 4) => high & 0xffff_ffff,
            (12, 4) => high >> 32,
            _ => u64::MAX,
        }
    }

    /// Writes the table: whole double words or quad words (§6.8.2 "naturally aligned").
    pub fn write_table(&mut self, offset: u64, size: u8, value: u64) {
        let vector = (offset / ENTRY_BYTES) as usize;
        let Some(entry) = self.entries.get_mut(vector) else { return };
        let address = &mut entry.msi.address;
        match (offset % ENTRY_BYTES, size) {
            (0, 8) => *address = value,
            (0, 4) => *address = *address & !0xffff_ffff | value,
            (4, 4) => *address = *address & 0xffff_ffff | value << 32,
            (8, 4) => entry.msi.data = value as u32,
            (12, 4) => entry.control = value as u32 & MASKED,
            (8, 8) => (entry.msi.data, entry.control) = (value as u32, (value >> 32) as u32 & MASKED),
            _ => {}
        }
        self.deliver(vector);
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: u64, size: u8) -> u64 {
        if offset < 8 && u64::from(size) <= 8 - offset { self.pending >> (8 * offset) } else { u64::MAX }
    }

    /// All vectors as after reset.
    pub fn reset(&mut self) {
        self.pending = 0;
    }

    fn deliver(&mut self, vector: usize) {
        let entry = self.entries[vector];
        let open = self.control & (ENABLE | FUNCTION_MASK) == ENABLE && entry.control & MASKED == 0;
        if open && self.pending & (1 << vector) != 0 {
            self.pending &= !(1 << vector);
            self.sink.send(entry.msi);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sent(Arc<Mutex<Vec<Msi>>>);

    impl MsiSink for Sent {
        fn send(&self, msi: Msi) {
            self.0.lock().unwrap().push(msi);
        }
        fn watch_level_inputs(&self, _routes: &[Option<Msi>]) {}
    }

    fn msix() -> (Msix, Sent) {
        let sent = Sent::default();
        (Msix::new(3, Box::new(sent.clone())), sent)
    }

    #[test]
    fn a_message_waits_behind_each_of_its_masks() {
        let (mut msix, sent) = msix();
        msix.write_table(16, 4, 0xfee0_1000);
        msix.write_table(20, 4, 1);
        msix.write_table(24, 4, 0x41);
        msix.send(1);
        assert_eq!((sent.0.lock().unwrap().len(), msix.read_pending(0, 8)), (0, 2), "MSI-X is off");
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.write_table(28, 4, 0);
        assert_eq!(sent.0.lock().unwrap().len(), 0, "the function is masked");
        msix.set_control(ENABLE);
        let message = Msi { address: 0x1_fee0_1000, data: 0x41 };
        assert_eq!((sent.0.lock().unwrap().as_slice(), msix.read_pending(0, 8)), (&[message][..], 0));
        assert_eq!((msix.read_table(16, 8), msix.read_table(24, 8)), (message.address, 0x41));
        msix.write_table(28, 4, 1);
        msix.send(1);
        msix.send(1);
        msix.write_table(24, 8, 0x42);
        assert_eq!(sent.0.lock().unwrap()[1..], [Msi { data: 0x42, ..message }], "one, however often it was sent");
    }

    #[test]
    fn sec04_any_vector_offset_and_width_is_answered() {
        let (mut msix, sent) = msix();
        msix.set_control(ENABLE);
        for offset in (0..80).chain([u64::MAX, u64::MAX - 7]) {
            for size in 1..=8 {
                msix.write_table(offset, size, u64::MAX);
                msix.read_table(offset, size);
                msix.read_pending(offset, size);
            }
        }
        [3, 64, 0xffff].into_iter().for_each(|vector| msix.send(vector));
        assert_eq!((sent.0.lock().unwrap().len(), msix.read_pending(0, 8)), (0, 0));
    }
}
