//! All that runs in ring 0: a few instructions that hand system calls and exceptions to Hostel, and the tables that lead there.
//!
//! ```text
//! system call (IA32_LSTAR)     OUT SYSCALL, AL; IRETQ
//! page fault                   PUSH RAX; MOV RAX, CR2; OUT PAGE_FAULT, AL; IRETQ
//! any other exception          PUSH number; OUT EXCEPTION, AL; IRETQ
//! ```
//!
//! An OUT leaves the guest. Hostel answers by loading all registers, with RSP at a frame for the IRETQ behind it, so the way back
//! into ring 3 is the same for all, and a vCPU that stands at an OUT can go on as any thread. SYSRET is not used: a KVM that interprets
//! ring 0 may lack it, and it cannot load RCX. These pages lie above all that a program can map, without its right to touch them.
//! Sources: Intel SDM vol. 2 (encodings), vol. 3A §5.8.8 (SYSCALL), §6.14 (64-bit IDT, interrupt stack), §8.7 (64-bit TSS).

use crate::arch::cpu_state::{
    CR0_ET, CR0_MP, CR0_NE, CR0_PE, CR0_PG, CR0_WP, CR4_OSFXSR, CR4_OSXSAVE, CR4_PAE, CpuState, EFER_LMA, EFER_LME,
    EFER_NXE, Registers, TableRegister,
};
use crate::arch::layout::PAGE_SIZE;
use crate::arch::paging::{ACCESSED, DIRTY, NO_EXECUTE, PRESENT, WRITABLE};
use crate::arch::segment::Segment;
use crate::arch::task;

/// Port of a system call.
pub const SYSCALL: u16 = 0x10;
/// Port of an exception other than a page fault.
pub const EXCEPTION: u16 = 0x11;
/// Port of a page fault.
pub const PAGE_FAULT: u16 = 0x12;

/// Most vCPUs: threads that a machine's programs have together.
pub const VCPUS_MAX: u64 = 64;

/// Linear address of the first page: the lowest of the upper half.
pub const BASE: u64 = 0xffff_8000_0000_0000;
/// Entry of the PML4 that covers it.
pub const PML4_INDEX: u64 = 256;
/// Pages: code, IDT and GDT, and one for each vCPU, which holds its TSS and its stack.
pub const PAGES: u64 = FIRST_STACK + VCPUS_MAX;

const IDT_PAGE: u64 = 1;
const GDT_PAGE: u64 = 2;
const FIRST_STACK: u64 = 3;

/// Where SYSCALL leads (IA32_LSTAR).
pub const ENTRY: u64 = BASE;
/// Where the code for exceptions begins, [`CODE_STEP`] bytes each.
const EXCEPTIONS: u64 = 0x100;
const CODE_STEP: u64 = 8;
/// Exceptions that there are (Intel SDM vol. 3A §6.2).
const VECTORS: u64 = 32;
/// Vector of a page fault.
const VECTOR_PAGE_FAULT: u64 = 14;

/// Selectors as Linux has them, which a program can see.
const KERNEL_CS: u16 = 0x10;
const KERNEL_DS: u16 = 0x18;
/// Selector of a program's stack segment.
pub const USER_DS: u16 = 0x2b;
/// Selector of a program's code segment.
pub const USER_CS: u16 = 0x33;

/// CR0: alignment checks where a program sets RFLAGS.AC.
const CR0_AM: u64 = 1 << 18;
/// CR4: SSE exceptions raise #XM.
const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// EFER: SYSCALL.
const EFER_SCE: u64 = 1;
/// MSRs of SYSCALL: selectors, entry, flags that it clears.
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const FMASK: u32 = 0xc000_0084;
/// IA32_FS_BASE.
pub const FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE.
pub const GS_BASE: u32 = 0xc000_0101;

/// Words of a frame for IRETQ: RIP, CS, RFLAGS, RSP, SS.
pub const FRAME_WORDS: usize = 5;

/// Content of page `index`.
pub fn page(index: u64) -> Vec<u8> {
    let mut bytes = match index {
        0 => code(),
        IDT_PAGE => idt(),
        GDT_PAGE => gdt(),
        // Only RSP0 matters of the TSS at the bottom of a vCPU's page; no port is ring 3's.
        _ => task::task_state(stack_top(index - FIRST_STACK), &[]).to_vec(),
    };
    bytes.resize(PAGE_SIZE as usize, 0);
    bytes
}

/// Entry of the page table for page `index`, which lies at `gpa`.
pub fn entry(index: u64, gpa: u64) -> u64 {
    let rights = if index == 0 { 0 } else { WRITABLE | NO_EXECUTE };
    gpa | PRESENT | ACCESSED | DIRTY | rights
}

/// Page that holds vCPU `id`'s stack.
pub fn stack_page(id: u32) -> u64 {
    FIRST_STACK + u64::from(id)
}

/// Linear address of the frame for IRETQ at the top of vCPU `id`'s stack.
pub fn frame(id: u32) -> u64 {
    stack_top(id.into()) - (FRAME_WORDS * 8) as u64
}

/// MSRs of each vCPU, and their values.
pub fn msrs() -> [(u32, u64); 3] {
    let cleared = 1 << 8 | 1 << 9 | 1 << 10 | 3 << 12 | 1 << 14 | 1 << 18; // TF, IF, DF, IOPL, NT, AC
    [(STAR, u64::from(KERNEL_CS) << 32), (LSTAR, ENTRY), (FMASK, cleared)]
}

/// State of vCPU `id` before its first entry, about to do the IRETQ of the system call in the address space at `cr3`.
pub fn state(id: u32, cr3: u64, extended: bool) -> CpuState {
    let data = Segment::flat_data(KERNEL_DS);
    let none = Segment::default();
    CpuState {
        regs: Registers { rip: ENTRY + 2, rsp: frame(id), rflags: 2, ..Registers::default() },
        cs: Segment::flat_code(KERNEL_CS, true),
        ss: data,
        ds: none,
        es: none,
        fs: none,
        gs: none,
        tr: Segment { base: BASE + stack_page(id) * PAGE_SIZE, ..Segment::task_state(8) },
        gdt: TableRegister { base: BASE + GDT_PAGE * PAGE_SIZE, limit: 7 * 8 - 1 },
        idt: TableRegister { base: BASE + IDT_PAGE * PAGE_SIZE, limit: (VECTORS * 16 - 1) as u16 },
        cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG,
        cr3,
        cr4: CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | if extended { CR4_OSXSAVE } else { 0 },
        efer: EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE,
        ..CpuState::default()
    }
}

fn stack_top(id: u64) -> u64 {
    BASE + (FIRST_STACK + id + 1) * PAGE_SIZE
}

fn code() -> Vec<u8> {
    let mut code = vec![0xe6, SYSCALL as u8, 0x48, 0xcf];
    for vector in 0..VECTORS {
        code.resize((EXCEPTIONS + vector * CODE_STEP) as usize, 0xcc);
        match vector {
            VECTOR_PAGE_FAULT => code.extend([0x50, 0x0f, 0x20, 0xd0, 0xe6, PAGE_FAULT as u8, 0x48, 0xcf]),
            _ => code.extend([0x6a, vector as u8, 0xe6, EXCEPTION as u8, 0x48, 0xcf]),
        }
    }
    code
}

fn idt() -> Vec<u8> {
    let gate = |vector: u64| {
        let [low, high] = task::interrupt_gate(BASE + EXCEPTIONS + vector * CODE_STEP, KERNEL_CS, 0);
        // Programs may raise #BP and #OF themselves, by INT3 and INT 4.
        let dpl: u64 = if matches!(vector, 3 | 4) { 3 } else { 0 };
        [low | dpl << 45, high]
    };
    (0..VECTORS).flat_map(gate).flat_map(u64::to_le_bytes).collect()
}

fn gdt() -> Vec<u8> {
    let user = |segment: Segment| Segment { dpl: 3, ..segment }.descriptor();
    let table = [
        0,
        0,
        Segment::flat_code(KERNEL_CS, true).descriptor(),
        Segment::flat_data(KERNEL_DS).descriptor(),
        0,
        user(Segment::flat_data(USER_DS)),
        user(Segment::flat_code(USER_CS, true)),
    ];
    table.into_iter().flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn every_way_in_ends_in_out_and_iretq() {
        let code = page(0);
        for start in std::iter::once(0).chain((0..VECTORS).map(|vector| EXCEPTIONS + vector * CODE_STEP)) {
            let decoder = Decoder::with_ip(64, &code[start as usize..], start, DecoderOptions::NONE);
            let names: Vec<_> = decoder.into_iter().take(4).map(|instruction| instruction.mnemonic()).collect();
            let end = names.iter().position(|name| *name == Mnemonic::Iretq).unwrap();
            assert_eq!(names[end - 1], Mnemonic::Out, "{start:#x}: {names:?}");
        }
    }

    #[test]
    fn tables_lead_to_the_code() {
        let idt = page(IDT_PAGE);
        let word = |at: usize| u64::from_le_bytes(idt[at..at + 8].try_into().unwrap());
        let (low, high) = (word(14 * 16), word(14 * 16 + 8));
        assert_eq!(low & 0xffff | low >> 48 << 16 | high << 32, BASE + 0x170);
        assert_eq!((low >> 16 & 0xffff, low >> 40 & 0xff, word(3 * 16) >> 40 & 0xff), (0x10, 0x8e, 0xee));
        let gdt = page(GDT_PAGE);
        assert_eq!(gdt[usize::from(USER_CS & !7) + 5], 0xfb, "present, ring 3, code");
        assert_eq!(gdt[usize::from(USER_DS & !7) + 5], 0xf3);
        assert_eq!(page(stack_page(2))[4..12], (frame(2) + 40).to_le_bytes());
    }
}
