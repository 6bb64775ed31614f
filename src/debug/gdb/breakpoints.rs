//! Software breakpoints: INT3 in guest RAM in place of the first byte of an instruction.
//!
//! gdb names them by linear address; the byte lies at a guest-physical one, which code may reach by several linear addresses
//! (a kernel that has just enabled paging does), so a hit is known by the latter.
//! Source: Intel SDM vol. 2A "INT3", vol. 3B §18.3.

use crate::memory::ram::GuestRam;
use std::collections::BTreeMap;

/// The instruction INT3.
pub const INT3: u8 = 0xcc;

/// The software breakpoints of a machine.
#[derive(Debug, Default)]
pub struct Breakpoints {
    /// Guest-physical by linear address.
    places: BTreeMap<u64, u64>,
    /// The guest's own byte by guest-physical address.
    originals: BTreeMap<u64, u8>,
}

impl Breakpoints {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Their linear addresses.
    pub fn addresses(&self) -> impl Iterator<Item = u64> {
        self.places.keys().copied()
    }

    /// Whether one stands at `gpa`.
    pub fn contains(&self, gpa: u64) -> bool {
        self.originals.contains_key(&gpa)
    }

    /// Sets one at linear address `gva`, which translates to `gpa`. False: not in RAM.
    pub fn insert(&mut self, gva: u64, gpa: u64, ram: &GuestRam) -> bool {
        if !self.contains(gpa) {
            let mut original = [0];
            if ram.read(gpa, &mut original).is_err() {
                return false;
            }
            self.originals.insert(gpa, original[0]);
            lay(ram, gpa, INT3);
        }
        self.places.insert(gva, gpa);
        true
    }

    /// Takes back the one at linear address `gva`. False: there is none.
    pub fn remove(&mut self, gva: u64, ram: &GuestRam) -> bool {
        let Some(gpa) = self.places.remove(&gva) else { return false };
        if !self.places.values().any(|other| *other == gpa)
            && let Some(original) = self.originals.remove(&gpa)
        {
            restore(ram, gpa, original);
        }
        true
    }

    /// Takes back all.
    pub fn clear(&mut self, ram: &GuestRam) {
        self.lift(ram);
        *self = Breakpoints::default();
    }

    /// Takes them out of RAM, for one step, without forgetting them.
    pub fn lift(&self, ram: &GuestRam) {
        self.originals.iter().for_each(|(gpa, original)| restore(ram, *gpa, *original));
    }

    /// Puts them back into RAM after [`Breakpoints::lift`].
    pub fn lay(&mut self, ram: &GuestRam) {
        for (gpa, original) in &mut self.originals {
            let mut byte = [0];
            // The step may have written here.
            if ram.read(*gpa, &mut byte).is_ok() {
                *original = byte[0];
            }
            lay(ram, *gpa, INT3);
        }
    }

    /// Puts the guest's own bytes into `bytes`, which were read at `gpa`.
    pub fn hide(&self, gpa: u64, bytes: &mut [u8]) {
        for (at, original) in self.originals.range(gpa..gpa.saturating_add(bytes.len() as u64)) {
            let byte = &mut bytes[(at - gpa) as usize];
            if *byte == INT3 {
                *byte = *original;
            }
        }
    }

    /// Puts back those that `bytes`, which were written at `gpa`, lie over.
    pub fn cover(&mut self, gpa: u64, bytes: &[u8], ram: &GuestRam) {
        for (at, original) in self.originals.range_mut(gpa..gpa.saturating_add(bytes.len() as u64)) {
            *original = bytes[(at - gpa) as usize];
            lay(ram, *at, INT3);
        }
    }
}

fn lay(ram: &GuestRam, gpa: u64, byte: u8) {
    ram.write(gpa, &[byte]).expect("it was read from RAM");
}

/// Puts the guest's byte back, unless the guest has put another one there.
fn restore(ram: &GuestRam, gpa: u64, original: u8) {
    let mut byte = [0];
    if ram.read(gpa, &mut byte).is_ok() && byte[0] == INT3 {
        lay(ram, gpa, original);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::MIB;
    use crate::memory::map::MemoryMap;

    fn ram() -> GuestRam {
        let ram = GuestRam::new(&MemoryMap::new(MIB).unwrap()).unwrap();
        ram.write(0x1000, b"code").unwrap();
        ram
    }

    fn code(ram: &GuestRam) -> [u8; 4] {
        let mut bytes = [0; 4];
        ram.read(0x1000, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_guest_s_bytes_come_back() {
        let (ram, mut breakpoints) = (ram(), Breakpoints::default());
        assert!(breakpoints.insert(0xffff_8000_0000_1001, 0x1001, &ram));
        assert!(breakpoints.insert(0x1001, 0x1001, &ram), "the same byte by another address");
        assert_eq!(code(&ram), *b"c\xccde");
        assert!(breakpoints.remove(0x1001, &ram));
        assert_eq!(code(&ram), *b"c\xccde");
        assert!(breakpoints.remove(0xffff_8000_0000_1001, &ram) && breakpoints.is_empty());
        assert_eq!(code(&ram), *b"code");
        assert!(!breakpoints.remove(0x1001, &ram) && !breakpoints.insert(0, u64::MAX, &ram));
    }

    #[test]
    fn what_the_guest_put_over_one_stays() {
        let (ram, mut breakpoints) = (ram(), Breakpoints::default());
        breakpoints.insert(0x1000, 0x1000, &ram);
        ram.write(0x1000, b"X").unwrap();
        breakpoints.clear(&ram);
        assert_eq!(code(&ram), *b"Xode");
    }

    #[test]
    fn reads_do_not_see_them_and_writes_go_below_them() {
        let (ram, mut breakpoints) = (ram(), Breakpoints::default());
        breakpoints.insert(1, 0x1001, &ram);
        let mut bytes = code(&ram);
        breakpoints.hide(0x1000, &mut bytes);
        assert_eq!(bytes, *b"code");
        ram.write(0x1000, b"milk").unwrap();
        breakpoints.cover(0x1000, b"milk", &ram);
        assert_eq!(code(&ram), *b"m\xcclk");
        breakpoints.lift(&ram);
        assert_eq!(code(&ram), *b"milk");
        breakpoints.lay(&ram);
        breakpoints.clear(&ram);
        assert_eq!(code(&ram), *b"milk");
        breakpoints.hide(u64::MAX, &mut bytes);
    }
}
