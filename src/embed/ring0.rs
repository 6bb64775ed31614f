//! What a sandbox has besides the guest: its address map, and the few hundred bytes that stand where a kernel would.
//!
//! ```text
//!  0x00_1000  GDT
//!  0x00_2000  IDT: a gate for each exception
//!  0x00_3000  TSS
//!  0x00_4000  handlers: two bytes each, OUT to a port of Hostel's
//!  0x00_5000  for the guest to read: where a call returns to, and where memory is free
//!  0x00_6000  stack of ring 0, up to 0x8000
//!  0x01_0000  page tables
//!  0x40_0000  the guest: its ELF file; free memory; a hole; its stack; a hole; the buffer for what the host passes
//! ```
//!
//! The guest runs in ring 3. OUT leaves it for Hostel with no instruction of ring 0 in between: that is a call of the host, or the end of
//! one of its own. What lets ring 3 execute OUT is said twice, by RFLAGS.IOPL and by the permission bitmap of the TSS, for there are KVMs
//! that keep only one of them: one that runs rings by itself loses IOPL, one below which QEMU emulates SVM has no bitmap. No interrupt
//! comes. An exception enters one instruction of ring 0, which leaves for Hostel as well; ring 0 does no more.
//! Linear addresses are guest-physical ones. Memory below the guest is ring 0's, but for the page that tells.
//! Source: Intel SDM vol. 3A §6.14 (exceptions in 64-bit mode), vol. 1 §19.5.1 (IOPL), §19.5.2 (I/O
//! permission bitmap).

use crate::arch::cpu_state::{
    CR0_ET, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_OSFXSR, CR4_OSXMMEXCPT, CR4_PAE, CpuState, EFER_LMA, EFER_LME,
    EFER_NXE, RFLAGS_FIXED, RFLAGS_IOPL3, Registers, TableRegister,
};
use crate::arch::layout::PAGE_SIZE;
use crate::arch::paging::{IdentityPages, NO_EXECUTE, USER, WRITABLE};
use crate::arch::segment::Segment;
use crate::arch::task::{TSS_SIZE, interrupt_gate, task_descriptor, task_state};
use crate::memory::map::GuestRange;

/// Port to which the guest writes to call a function of the host, whose record's address is in RAX.
pub const PORT_CALL: u16 = 0xf0;
/// Port to which the guest writes when a function of its own returns.
pub const PORT_RETURN: u16 = 0xf1;
/// Port to which a handler in ring 0 writes.
pub const PORT_FAULT: u16 = 0xf2;

/// Where the guest's memory begins: the address at which linkers put a program.
pub const GUEST: u64 = 0x40_0000;
/// Number of the memory slot that begins there.
pub const GUEST_SLOT: u32 = 1;
/// Least memory of a guest, in bytes.
pub const MEMORY_MIN: u64 = 1 << 20;
/// Most memory of a guest, in bytes: its page tables take half of what is below [`GUEST`].
pub const MEMORY_MAX: u64 = 512 << 20;
/// Bytes of the guest's stack.
pub const STACK_SIZE: u64 = 256 << 10;
/// Bytes of the buffer for what the host passes.
pub const BUFFER_SIZE: u64 = 256 << 10;

const GDT: u64 = 0x1000;
const IDT: u64 = 0x2000;
const TSS: u64 = 0x3000;
const HANDLERS: u64 = 0x4000;
/// Where a function that the host called returns to.
pub const RETURN: u64 = 0x5000;
/// What `hostel.h` calls `struct hostel_memory`: where memory is free, and how many bytes.
const FREE_MEMORY: u64 = 0x5100;
const RING0_STACK_END: u64 = 0x8000;
const PAGE_TABLES: u64 = 0x1_0000;

/// Exceptions (Intel SDM vol. 3A §6.3.1).
const VECTORS: u64 = 32;
/// From one handler to the next.
const HANDLER_STEP: u64 = 16;
/// The processor pushes an error code with these: #DF, #TS, #NP, #SS, #GP, #PF, #AC, #CP.
const WITH_ERROR_CODE: u32 = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17 | 1 << 21;

const RING0_CODE: u16 = 0x08;
const USER_DATA: u16 = 0x10 | 3;
const USER_CODE: u16 = 0x18 | 3;
const TASK: u16 = 0x20;

/// A part of the guest's file in memory, and what the guest may do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where.
    pub range: GuestRange,
    /// The guest may write.
    pub writable: bool,
    /// The guest may execute.
    pub executable: bool,
}

/// Where the parts of a guest lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// All that is the guest's.
    pub guest: GuestRange,
    /// Free memory behind its file.
    pub free: GuestRange,
    /// Its stack.
    pub stack: GuestRange,
    /// What the host passes.
    pub buffer: GuestRange,
}

impl Map {
    /// The map of a guest with `memory` bytes, whole pages from [`MEMORY_MIN`] to [`MEMORY_MAX`], whose file ends at `file_end`. `None`:
    /// it does not fit.
    pub fn new(memory: u64, file_end: u64) -> Option<Map> {
        let end = GUEST + memory;
        let buffer = GuestRange { start: end - BUFFER_SIZE, size: BUFFER_SIZE };
        let stack = GuestRange { start: buffer.start - PAGE_SIZE - STACK_SIZE, size: STACK_SIZE };
        let (start, free_end) = (file_end.checked_next_multiple_of(PAGE_SIZE)?, stack.start - PAGE_SIZE);
        let size = free_end.checked_sub(start).filter(|size| *size > 0)?;
        let guest = GuestRange { start: GUEST, size: memory };
        Some(Map { guest, free: GuestRange { start, size }, stack, buffer })
    }

    /// Bytes and where they stand: all that is in memory besides the guest's file, page tables for its `parts` among them.
    pub fn tables(&self, parts: &[Part]) -> Vec<(u64, Vec<u8>)> {
        let mut pages = IdentityPages::new(PAGE_TABLES);
        // Not even ring 0 writes there: an exception in the middle of one could otherwise push its frame anywhere.
        pages.map(GDT, HANDLERS + PAGE_SIZE, 0);
        pages.map(RETURN, RETURN + PAGE_SIZE, USER);
        pages.map(RETURN + PAGE_SIZE, RING0_STACK_END, WRITABLE | NO_EXECUTE);
        for part in parts {
            let writable = if part.writable { WRITABLE } else { 0 };
            let no_execute = if part.executable { 0 } else { NO_EXECUTE };
            pages.map(part.range.start, part.range.end(), USER | writable | no_execute);
        }
        for range in [self.free, self.stack, self.buffer] {
            pages.map(range.start, range.end(), USER | WRITABLE | NO_EXECUTE);
        }
        let state = self.entry_state();
        let mut gdt = vec![0, state_code(0).descriptor(), state.ss.descriptor(), state.cs.descriptor()];
        gdt.extend(task_descriptor(&state.tr));
        let idt: Vec<_> =
            (0..VECTORS).flat_map(|vector| interrupt_gate(HANDLERS + vector * HANDLER_STEP, RING0_CODE, 1)).collect();
        let mut handlers = vec![0; (VECTORS * HANDLER_STEP) as usize];
        handlers.chunks_mut(HANDLER_STEP as usize).for_each(|handler| handler[..2].copy_from_slice(&out(PORT_FAULT)));
        vec![
            (GDT, bytes(&gdt)),
            (IDT, bytes(&idt)),
            (TSS, task_state(RING0_STACK_END, &[PORT_CALL, PORT_RETURN]).to_vec()),
            (HANDLERS, handlers),
            (RETURN, out(PORT_RETURN).to_vec()),
            (FREE_MEMORY, bytes(&[self.free.start, self.free.size])),
            (PAGE_TABLES, bytes(pages.entries())),
            (self.return_slot(), RETURN.to_le_bytes().to_vec()),
        ]
    }

    /// Where the stack pointer of a function stands when it is entered: at the address to which it returns, 8 bytes below a multiple of 16.
    pub fn return_slot(&self) -> u64 {
        self.stack.end() - 8
    }

    /// Ring 3, about to call nothing.
    pub fn entry_state(&self) -> CpuState {
        let user = |segment: Segment| Segment { dpl: 3, ..segment };
        let data = user(Segment::flat_data(USER_DATA));
        CpuState {
            regs: Registers { rip: RETURN, rsp: self.return_slot(), rflags: USER_FLAGS, ..Registers::default() },
            cs: user(Segment::flat_code(USER_CODE, true)),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment { base: TSS, limit: TSS_SIZE as u32 - 1, ..Segment::task_state(TASK) },
            gdt: TableRegister { base: GDT, limit: 6 * 8 - 1 },
            idt: TableRegister { base: IDT, limit: (VECTORS * 16 - 1) as u16 },
            cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG,
            cr2: 0,
            cr3: PAGE_TABLES,
            cr4: CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT,
            efer: EFER_LME | EFER_LMA | EFER_NXE,
        }
    }
}

/// RFLAGS of a function that is called.
pub const USER_FLAGS: u64 = RFLAGS_FIXED | RFLAGS_IOPL3;

/// An exception as its handler left it, when it wrote to [`PORT_FAULT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// Its vector.
    pub vector: u8,
    /// Where the processor pushed RIP.
    pub frame: u64,
}

/// The exception whose handler wrote to [`PORT_FAULT`]; `None` elsewhere: the guest cannot run the handlers. RIP is at
/// the OUT or behind it, as KVM has it.
pub fn raised(regs: &Registers) -> Option<Raised> {
    let offset = regs.rip.checked_sub(HANDLERS).filter(|offset| *offset < VECTORS * HANDLER_STEP)?;
    let vector = (offset / HANDLER_STEP) as u8;
    let error_code = if WITH_ERROR_CODE >> vector & 1 != 0 { 8 } else { 0 };
    Some(Raised { vector, frame: regs.rsp.wrapping_add(error_code) })
}

fn state_code(dpl: u8) -> Segment {
    Segment { dpl, ..Segment::flat_code(RING0_CODE, true) }
}

/// `out PORT, al`.
const fn out(port: u16) -> [u8; 2] {
    [0xe6, port as u8]
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::paging::{ENTRIES, walk};

    fn map() -> Map {
        Map::new(MEMORY_MIN, GUEST + 0x2001).unwrap()
    }

    #[test]
    fn parts_do_not_overlap_and_holes_are_between() {
        let map = map();
        assert_eq!((map.free.start, map.buffer.end()), (GUEST + 0x3000, map.guest.end()));
        assert_eq!(map.free.end() + PAGE_SIZE, map.stack.start);
        assert_eq!(map.stack.end() + PAGE_SIZE, map.buffer.start);
        assert_eq!(map.return_slot() % 16, 8);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused() {
        let free_end = map().free.end();
        assert!(Map::new(MEMORY_MIN, free_end - PAGE_SIZE).is_some());
        for end in [free_end, free_end + 1, u64::MAX, u64::MAX - PAGE_SIZE] {
            assert_eq!(Map::new(MEMORY_MIN, end), None, "{end:#x}");
        }
    }

    #[test]
    fn the_guest_reaches_its_own_memory_and_no_other() {
        let map = map();
        let code = Part { range: GuestRange { start: GUEST, size: 0x1000 }, writable: false, executable: true };
        let tables = map.tables(&[code]);
        let pages = &tables.iter().find(|(at, _)| *at == PAGE_TABLES).unwrap().1;
        let read = |gpa: u64| {
            let offset = gpa.checked_sub(PAGE_TABLES)? as usize;
            Some(u64::from_le_bytes(*pages.get(offset..)?.first_chunk()?))
        };
        let state = map.entry_state();
        let rights = |gva| {
            let steps = walk(&state, gva, &mut |gpa| read(gpa)).steps;
            let entry = steps.last().and_then(|step| step.entry).filter(|_| steps.len() == 4).unwrap_or(0);
            entry & (USER | WRITABLE | NO_EXECUTE)
        };
        let data = USER | WRITABLE | NO_EXECUTE;
        for kernel in [0, GDT, IDT, TSS, HANDLERS, 0x6000, RING0_STACK_END, PAGE_TABLES] {
            assert_eq!(rights(kernel) & USER, 0, "{kernel:#x}");
        }
        assert_eq!([rights(RETURN), rights(GUEST), rights(map.free.start)], [USER, USER, data]);
        assert_eq!([rights(map.stack.start), rights(map.buffer.end() - 1)], [data, data]);
        for hole in [GUEST + 0x1000, map.stack.start - 1, map.stack.end(), map.guest.end()] {
            assert_eq!(rights(hole), 0, "{hole:#x}");
        }
    }

    #[test]
    fn the_largest_guest_has_room_for_its_page_tables() {
        let map = Map::new(MEMORY_MAX, GUEST + 1).unwrap();
        let tables = map.tables(&[]);
        let (at, pages) = tables.iter().find(|(at, _)| *at == PAGE_TABLES).unwrap();
        assert_eq!(pages.len() % (ENTRIES * 8), 0);
        assert!(at + pages.len() as u64 <= GUEST);
    }

    #[test]
    fn a_handler_tells_its_exception() {
        let at = |rip| raised(&Registers { rip, rsp: 0x7fd0, ..Registers::default() });
        assert_eq!(at(HANDLERS + 14 * 16 + 2), Some(Raised { vector: 14, frame: 0x7fd8 }));
        assert_eq!(at(HANDLERS + 6 * 16), Some(Raised { vector: 6, frame: 0x7fd0 }));
        assert_eq!([at(GUEST), at(HANDLERS - 1), at(HANDLERS + 512), at(u64::MAX)], [None; 4]);
    }
}
