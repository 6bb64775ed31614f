//! The code around RIP, remembered from exit to exit. A guest leaves at few instructions and at each of them often; to walk its
//! page tables and copy its code each time would cost an exit more than all else.
//!
//! What is remembered counts while RIP, the width of the code, the root of the page tables and the 16 bytes of RAM around RIP
//! are the same. A guest that maps other code with the same 16 bytes at the same place is shown the first one.

use super::event::Code;
use crate::arch::cpu_state::CpuState;
use crate::arch::paging::walk;

/// Places that are remembered; a power of two. Each has its own by its address.
const PLACES: usize = 64;

/// Code around those RIPs where a vCPU left last.
pub struct CodeCache(Box<[Option<Place>; PLACES]>);

#[derive(Clone, Copy)]
struct Place {
    code: Code,
    /// What translates RIP.
    mapping: Mapping,
    /// Two 64-bit words of RAM, and the address of the first.
    words: (u64, [u64; 2]),
}

/// The registers that decide how an address is translated (Intel SDM vol. 3A §4.1.1).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mapping {
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
}

impl Default for CodeCache {
    fn default() -> CodeCache {
        CodeCache(Box::new([None; PLACES]))
    }
}

impl CodeCache {
    /// The code where the vCPU in `state` stands; `read` gives a 64-bit word of guest-physical memory.
    pub fn around(&mut self, state: &CpuState, read: &mut dyn FnMut(u64) -> Option<u64>) -> Code {
        let rip = state.linear_rip();
        let mapping = Mapping { cr0: state.cr0, cr3: state.cr3, cr4: state.cr4, efer: state.efer };
        let (bits, dx) = (state.code_bits() as u8, state.regs.rdx as u16);
        let slot = &mut self.0[rip as usize % PLACES];
        if let Some(Place { code, mapping: known, words: (at, words) }) = slot
            && (code.rip, code.bits, *known) == (rip, bits, mapping)
            && words_at(*at, read) == Some(*words)
        {
            return Code { dx, ..*code };
        }
        let code = Code::around(state, read);
        *slot = None;
        // The words on both sides of RIP, where they lie in one page.
        let at = walk(state, rip, read).gpa.map(|gpa| (gpa & !7).saturating_sub(if gpa & 0xff8 == 0 { 0 } else { 8 }));
        if let Some(at) = at
            && let Some(words) = words_at(at, read)
        {
            *slot = Some(Place { code, mapping, words: (at, words) });
        }
        code
    }
}

fn words_at(gpa: u64, read: &mut dyn FnMut(u64) -> Option<u64>) -> Option<[u64; 2]> {
    Some([read(gpa)?, read(gpa + 8)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::layout::BOOT_PML4;
    use crate::arch::paging::identity_map;

    /// Page tables, and one page of code at 0x10_0000 that is `fill`ed, with a count of the words that were read.
    fn reader(fill: u8, count: &mut u32) -> impl FnMut(u64) -> Option<u64> {
        move |gpa| {
            *count += 1;
            let table = gpa.checked_sub(BOOT_PML4).map(|offset| offset as usize / 8);
            let tables = identity_map(BOOT_PML4);
            match table.and_then(|index| tables.as_flattened().get(index)) {
                Some(entry) => Some(*entry),
                None => (0x10_0000..0x10_1000).contains(&gpa).then(|| u64::from_le_bytes([fill; 8])),
            }
        }
    }

    #[test]
    fn code_that_was_seen_takes_two_words() {
        let mut cache = CodeCache::default();
        let mut state = CpuState::long_mode(0x10_0123);
        let (mut first, mut second) = (0, 0);
        let code = cache.around(&state, &mut reader(0x90, &mut first));
        assert_eq!((code.rip, code.bytes, code.dx), (0x10_0123, [0x90; 32], 0));
        state.regs.rdx = 0x3f8;
        assert_eq!(cache.around(&state, &mut reader(0x90, &mut second)), Code { dx: 0x3f8, ..code });
        assert!(first > 6 && second == 2, "{first} {second}");
    }

    #[test]
    fn changed_code_and_changed_tables_are_read_anew() {
        let mut cache = CodeCache::default();
        let state = CpuState::long_mode(0x10_0ff8);
        let mut count = 0;
        assert_eq!(cache.around(&state, &mut reader(0x90, &mut count)).after, 8);
        assert_eq!(cache.around(&state, &mut reader(0xcc, &mut count)).bytes[16], 0xcc);
        let moved = CpuState { cr3: state.cr3 + 0x1000, ..state };
        assert_eq!(cache.around(&moved, &mut |_| None).after, 0, "what is not there is not remembered");
        let elsewhere = CpuState::long_mode(0x10_0ff8 - 64);
        assert_eq!(cache.around(&elsewhere, &mut reader(0xaa, &mut count)).bytes[0], 0xaa);
    }
}
