//! Guest memory as gdb reads and writes it: by linear address through a vCPU's page tables, or by guest-physical address.
//!
//! Only RAM: a device's registers are not touched, since reading one may change it.

use super::breakpoints::Breakpoints;
use crate::arch::cpu_state::CpuState;
use crate::arch::layout::PAGE_SIZE;
use crate::arch::paging;
use crate::memory::ram::GuestRam;

/// Whose addresses are meant.
#[derive(Clone, Copy, Debug)]
pub enum Space<'a> {
    /// Linear addresses of a vCPU in this state.
    Linear(&'a CpuState),
    /// Guest-physical addresses.
    Physical,
}

impl Space<'_> {
    /// Where an address lies; `None` where nothing is mapped.
    pub fn translate(&self, address: u64, ram: &GuestRam) -> Option<u64> {
        match self {
            Space::Linear(state) => paging::walk(state, address, &mut |gpa| ram.read_u64(gpa)).gpa,
            Space::Physical => Some(address),
        }
    }

    /// Fills `bytes` from `address` on; the guest's own bytes where breakpoints stand. Returns how many could be read.
    pub fn read(&self, address: u64, bytes: &mut [u8], ram: &GuestRam, breakpoints: &Breakpoints) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let Some(at) = address.checked_add(done as u64) else { break };
            let end = bytes.len().min(done + left_in_page(at));
            let part = &mut bytes[done..end];
            let Some(gpa) = self.translate(at, ram) else { break };
            if ram.read(gpa, part).is_err() {
                break;
            }
            breakpoints.hide(gpa, part);
            done = end;
        }
        done
    }

    /// Writes `bytes` from `address` on, below the breakpoints that stand there. False: not all is RAM; what comes before has been
    /// written.
    pub fn write(&self, address: u64, bytes: &[u8], ram: &GuestRam, breakpoints: &mut Breakpoints) -> bool {
        let mut done = 0;
        while done < bytes.len() {
            let Some(at) = address.checked_add(done as u64) else { return false };
            let part = &bytes[done..bytes.len().min(done + left_in_page(at))];
            let Some(gpa) = self.translate(at, ram) else { return false };
            if ram.write(gpa, part).is_err() {
                return false;
            }
            breakpoints.cover(gpa, part, ram);
            done += part.len();
        }
        true
    }
}

/// Bytes from `address` to the end of its page.
fn left_in_page(address: u64) -> usize {
    (PAGE_SIZE - address % PAGE_SIZE) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::{BOOT_PML4, MIB};
    use crate::arch::paging::{PRESENT, WRITABLE};
    use crate::memory::map::MemoryMap;

    /// 2 MiB of RAM; the linear page 0 is the physical page 0x8000, page 1 is 0x5000, page 2 is missing.
    fn machine() -> (GuestRam, CpuState) {
        let ram = GuestRam::new(&MemoryMap::new(2 * MIB).unwrap()).unwrap();
        let entry = |gpa: u64| (gpa | PRESENT | WRITABLE).to_le_bytes();
        for table in [0, 0x1000, 0x2000] {
            ram.write(BOOT_PML4 + table, &entry(BOOT_PML4 + table + 0x1000)).unwrap();
        }
        ram.write(BOOT_PML4 + 0x3000, &[entry(0x2_8000), entry(0x2_5000)].concat()).unwrap();
        (ram, CpuState::long_mode(0))
    }

    #[test]
    fn linear_memory_is_followed_page_by_page() {
        let ((ram, state), mut breakpoints) = (machine(), Breakpoints::default());
        let space = Space::Linear(&state);
        assert!(space.write(0xffe, b"abcd", &ram, &mut breakpoints));
        let mut physical = [0; 2];
        assert_eq!(Space::Physical.read(0x2_5000, &mut physical, &ram, &breakpoints), 2);
        assert_eq!(physical, *b"cd");
        breakpoints.insert(0x1000, space.translate(0x1000, &ram).unwrap(), &ram);
        let mut bytes = [0; 4];
        assert_eq!(space.read(0xffe, &mut bytes, &ram, &breakpoints), 4);
        assert_eq!(bytes, *b"abcd", "the breakpoint is not seen");
    }

    #[test]
    fn what_is_not_ram_ends_the_access() {
        let ((ram, state), mut breakpoints) = (machine(), Breakpoints::default());
        let mut bytes = [0; 0x1000];
        assert_eq!(Space::Linear(&state).read(0x1800, &mut bytes, &ram, &breakpoints), 0x800);
        assert_eq!(Space::Physical.read(2 * MIB - 1, &mut bytes, &ram, &breakpoints), 1);
        assert_eq!(Space::Physical.read(u64::MAX, &mut bytes, &ram, &breakpoints), 0);
        assert!(!Space::Linear(&state).write(0x1fff, b"ab", &ram, &mut breakpoints));
        assert!(!Space::Physical.write(u64::MAX, b"ab", &ram, &mut breakpoints));
    }
}
