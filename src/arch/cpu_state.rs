//! The register state in which a vCPU starts: what a loader decides, as data.
//!
//! A loader returns a [`CpuState`]; `kvm` writes it into the vCPU. So every loader is testable without KVM.
//! Sources: Intel SDM vol. 3A §2.5 (control registers), §2.2.1 (EFER); Xen pvh.pandoc; Linux boot.rst "64-bit Boot Protocol".

use super::layout;
use super::segment::Segment;

/// CR0: protected mode.
pub const CR0_PE: u64 = 1;
/// CR0: monitor coprocessor.
pub const CR0_MP: u64 = 1 << 1;
/// CR0: x87 instructions raise #UD or #NM.
pub const CR0_EM: u64 = 1 << 2;
/// CR0: the task was switched; the next x87 or SSE instruction raises #NM.
pub const CR0_TS: u64 = 1 << 3;
/// CR0: extension type, always one on hardware.
pub const CR0_ET: u64 = 1 << 4;
/// CR0: native x87 errors.
pub const CR0_NE: u64 = 1 << 5;
/// CR0: ring 0 keeps to read-only pages too.
pub const CR0_WP: u64 = 1 << 16;
/// CR0: paging.
pub const CR0_PG: u64 = 1 << 31;
/// CR4: pages of 4 MiB in 32-bit paging.
pub const CR4_PSE: u64 = 1 << 4;
/// CR4: physical address extension.
pub const CR4_PAE: u64 = 1 << 5;
/// CR4: the system saves SSE state; without it SSE raises #UD.
pub const CR4_OSFXSR: u64 = 1 << 9;
/// CR4: SSE's own exception, #XM, is handled.
pub const CR4_OSXMMEXCPT: u64 = 1 << 10;
/// CR4: five levels of page tables.
pub const CR4_LA57: u64 = 1 << 12;
/// CR4: the system saves extended state; without it AVX raises #UD.
pub const CR4_OSXSAVE: u64 = 1 << 18;
/// CR4: ring 0 executes no user's page.
pub const CR4_SMEP: u64 = 1 << 20;
/// CR4: ring 0 touches no user's page.
pub const CR4_SMAP: u64 = 1 << 21;
/// EFER: long mode enabled.
pub const EFER_LME: u64 = 1 << 8;
/// EFER: long mode active.
pub const EFER_LMA: u64 = 1 << 10;
/// EFER: page-table entries may forbid execution.
pub const EFER_NXE: u64 = 1 << 11;
/// RFLAGS: the bit that is always one.
pub const RFLAGS_FIXED: u64 = 1 << 1;
/// RFLAGS: interrupts enabled.
pub const RFLAGS_IF: u64 = 1 << 9;
/// RFLAGS: rings 0 to 3 may use ports.
pub const RFLAGS_IOPL3: u64 = 3 << 12;
/// RFLAGS: alignment check; in ring 0, access to users' pages in spite of SMAP.
pub const RFLAGS_AC: u64 = 1 << 18;

/// Selector of the code segment in the boot GDT: `__BOOT_CS` of Linux boot.rst.
pub const BOOT_CS: u16 = 0x10;
/// Selector of the data segments in the boot GDT: `__BOOT_DS` of Linux boot.rst.
pub const BOOT_DS: u16 = 0x18;
/// Selector of the task state segment in the boot GDT.
pub const BOOT_TR: u16 = 0x20;

/// General registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rsp: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// GDTR or IDTR.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableRegister {
    /// Linear base address.
    pub base: u64,
    /// Last valid offset, in bytes.
    pub limit: u16,
}

/// Everything about a vCPU that software can see at an instruction boundary and that a loader or a diagnosis needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the manual's own names")]
pub struct CpuState {
    pub regs: Registers,
    pub cs: Segment,
    pub ds: Segment,
    pub es: Segment,
    pub fs: Segment,
    pub gs: Segment,
    pub ss: Segment,
    pub tr: Segment,
    pub gdt: TableRegister,
    pub idt: TableRegister,
    pub cr0: u64,
    pub cr2: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
}

impl CpuState {
    /// Real mode at `segment:offset`, the other segments 0, the stack below the image.
    pub fn real_mode(segment: u16, offset: u16) -> CpuState {
        let data = Segment::real_mode(0, false);
        CpuState {
            regs: Registers {
                rip: u64::from(offset),
                rsp: u64::from(offset),
                rflags: RFLAGS_FIXED,
                ..Registers::default()
            },
            cs: Segment::real_mode(segment, true),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment::task_state(0),
            idt: TableRegister { base: 0, limit: 0x3ff },
            cr0: CR0_ET,
            ..CpuState::default()
        }
    }

    /// 32-bit protected mode without paging, flat segments, interrupts off: the state of PVH and of Multiboot.
    pub fn protected_mode(entry: u64) -> CpuState {
        CpuState {
            regs: Registers { rip: entry, rflags: RFLAGS_FIXED, ..Registers::default() },
            cr0: CR0_PE | CR0_ET,
            ..CpuState::flat(false)
        }
    }

    /// 64-bit mode on the identity map at [`layout::BOOT_PML4`], interrupts off: the state of the 64-bit Linux entry and
    /// of flat 64-bit images.
    pub fn long_mode(entry: u64) -> CpuState {
        CpuState {
            regs: Registers { rip: entry, rsp: layout::BOOT_STACK, rflags: RFLAGS_FIXED, ..Registers::default() },
            cr0: CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_PG,
            cr3: layout::BOOT_PML4,
            cr4: CR4_PAE,
            efer: EFER_LME | EFER_LMA,
            ..CpuState::flat(true)
        }
    }

    /// The boot GDT that the selectors of [`CpuState::protected_mode`] and [`CpuState::long_mode`] name: to be written to
    /// [`layout::BOOT_GDT`].
    pub fn boot_gdt(long: bool) -> [u64; 5] {
        [
            0,
            0,
            Segment::flat_code(BOOT_CS, long).descriptor(),
            Segment::flat_data(BOOT_DS).descriptor(),
            Segment::task_state(BOOT_TR).descriptor(),
        ]
    }

    /// Linear address of the next instruction.
    pub fn linear_rip(&self) -> u64 {
        if self.is_long() { self.regs.rip } else { self.cs.base.wrapping_add(self.regs.rip) & 0xffff_ffff }
    }

    /// Width of the code that runs: 16, 32 or 64 bits.
    pub fn code_bits(&self) -> u32 {
        match (self.is_long(), self.cs.default_32) {
            (true, _) => 64,
            (false, true) => 32,
            (false, false) => 16,
        }
    }

    /// Whether 64-bit code runs.
    pub fn is_long(&self) -> bool {
        self.efer & EFER_LMA != 0 && self.cs.long
    }

    fn flat(long: bool) -> CpuState {
        let data = Segment::flat_data(BOOT_DS);
        CpuState {
            cs: Segment::flat_code(BOOT_CS, long),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: Segment::task_state(BOOT_TR),
            gdt: TableRegister { base: layout::BOOT_GDT, limit: 5 * 8 - 1 },
            ..CpuState::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_rip_follows_the_mode() {
        assert_eq!(CpuState::real_mode(0x100, 0x20).linear_rip(), 0x1020);
        assert_eq!(CpuState::protected_mode(0x10_0000).linear_rip(), 0x10_0000);
        assert_eq!(CpuState::long_mode(u64::MAX).linear_rip(), u64::MAX);
    }

    #[test]
    fn code_bits_follow_the_code_segment() {
        assert_eq!(CpuState::real_mode(0, 0).code_bits(), 16);
        assert_eq!(CpuState::protected_mode(0).code_bits(), 32);
        assert_eq!(CpuState::long_mode(0).code_bits(), 64);
    }
}
