//! Registers between [`CpuState`] and KVM's structures.
//!
//! Source: KVM API KVM_GET_REGS, KVM_GET_SREGS.

use crate::arch::cpu_state::{CpuState, Registers, TableRegister};
use crate::arch::segment::Segment;
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

pub(super) fn to_regs(regs: &Registers) -> kvm_regs {
    kvm_regs {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rsp: regs.rsp,
        rbp: regs.rbp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: regs.rflags,
    }
}

pub(super) fn from_regs(regs: &kvm_regs) -> Registers {
    Registers {
        rax: regs.rax,
        rbx: regs.rbx,
        rcx: regs.rcx,
        rdx: regs.rdx,
        rsi: regs.rsi,
        rdi: regs.rdi,
        rsp: regs.rsp,
        rbp: regs.rbp,
        r8: regs.r8,
        r9: regs.r9,
        r10: regs.r10,
        r11: regs.r11,
        r12: regs.r12,
        r13: regs.r13,
        r14: regs.r14,
        r15: regs.r15,
        rip: regs.rip,
        rflags: regs.rflags,
    }
}

fn to_segment(segment: &Segment) -> kvm_segment {
    kvm_segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        type_: segment.kind,
        present: segment.present.into(),
        dpl: segment.dpl,
        db: segment.default_32.into(),
        s: segment.code_or_data.into(),
        l: segment.long.into(),
        g: segment.granular.into(),
        unusable: (!segment.present).into(),
        ..kvm_segment::default()
    }
}

fn from_segment(segment: &kvm_segment) -> Segment {
    Segment {
        base: segment.base,
        limit: segment.limit,
        selector: segment.selector,
        kind: segment.type_,
        code_or_data: segment.s != 0,
        dpl: segment.dpl,
        present: segment.present != 0 && segment.unusable == 0,
        long: segment.l != 0,
        default_32: segment.db != 0,
        granular: segment.g != 0,
    }
}

fn to_table(table: TableRegister) -> kvm_dtable {
    kvm_dtable { base: table.base, limit: table.limit, padding: [0; 3] }
}

fn from_table(table: &kvm_dtable) -> TableRegister {
    TableRegister { base: table.base, limit: table.limit }
}

/// Writes what `state` decides over `sregs`, which keeps the rest (APIC base, LDT, CR8).
pub(super) fn overlay_sregs(sregs: &mut kvm_sregs, state: &CpuState) {
    sregs.cs = to_segment(&state.cs);
    sregs.ds = to_segment(&state.ds);
    sregs.es = to_segment(&state.es);
    sregs.fs = to_segment(&state.fs);
    sregs.gs = to_segment(&state.gs);
    sregs.ss = to_segment(&state.ss);
    sregs.tr = to_segment(&state.tr);
    sregs.gdt = to_table(state.gdt);
    sregs.idt = to_table(state.idt);
    sregs.cr0 = state.cr0;
    sregs.cr2 = state.cr2;
    sregs.cr3 = state.cr3;
    sregs.cr4 = state.cr4;
    sregs.efer = state.efer;
}

pub(super) fn state(regs: &kvm_regs, sregs: &kvm_sregs) -> CpuState {
    CpuState {
        regs: from_regs(regs),
        cs: from_segment(&sregs.cs),
        ds: from_segment(&sregs.ds),
        es: from_segment(&sregs.es),
        fs: from_segment(&sregs.fs),
        gs: from_segment(&sregs.gs),
        ss: from_segment(&sregs.ss),
        tr: from_segment(&sregs.tr),
        gdt: from_table(&sregs.gdt),
        idt: from_table(&sregs.idt),
        cr0: sregs.cr0,
        cr2: sregs.cr2,
        cr3: sregs.cr3,
        cr4: sregs.cr4,
        efer: sregs.efer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_the_way_through_kvm() {
        for wanted in [CpuState::real_mode(0, 0x7c00), CpuState::protected_mode(1 << 20), CpuState::long_mode(7)] {
            let mut sregs = kvm_sregs::default();
            overlay_sregs(&mut sregs, &wanted);
            assert_eq!(state(&to_regs(&wanted.regs), &sregs), wanted);
        }
    }
}
