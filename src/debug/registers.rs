//! A vCPU's registers as text, with the names of the flags that are set.
//!
//! Sources: Intel SDM vol. 1 §3.4.3 (RFLAGS), vol. 3A §2.5 (control registers), §2.2.1 (EFER).

use crate::arch::cpu_state::{
    CR0_PE, CR0_PG, CR0_WP, CR4_LA57, CR4_OSFXSR, CR4_PAE, CR4_SMAP, CR4_SMEP, CpuState, EFER_LMA, EFER_NXE,
};
use crate::arch::segment::Segment;
use std::fmt::Write;

/// Bits of a register by name.
pub(super) type Bits = &'static [(u32, &'static str)];

pub(super) const RFLAGS: Bits = &[
    (0, "CF"),
    (2, "PF"),
    (4, "AF"),
    (6, "ZF"),
    (7, "SF"),
    (8, "TF"),
    (9, "IF"),
    (10, "DF"),
    (11, "OF"),
    (14, "NT"),
    (16, "RF"),
    (17, "VM"),
    (18, "AC"),
    (21, "ID"),
];
pub(super) const CR0: Bits = &[
    (0, "PE"),
    (1, "MP"),
    (2, "EM"),
    (3, "TS"),
    (4, "ET"),
    (5, "NE"),
    (16, "WP"),
    (18, "AM"),
    (29, "NW"),
    (30, "CD"),
    (31, "PG"),
];
pub(super) const CR4: Bits = &[
    (0, "VME"),
    (2, "TSD"),
    (3, "DE"),
    (4, "PSE"),
    (5, "PAE"),
    (6, "MCE"),
    (7, "PGE"),
    (9, "OSFXSR"),
    (10, "OSXMMEXCPT"),
    (11, "UMIP"),
    (12, "LA57"),
    (16, "FSGSBASE"),
    (17, "PCIDE"),
    (18, "OSXSAVE"),
    (20, "SMEP"),
    (21, "SMAP"),
    (22, "PKE"),
];
pub(super) const EFER: Bits = &[(0, "SCE"), (8, "LME"), (10, "LMA"), (11, "NXE"), (12, "SVME"), (14, "FFXSR")];

/// The registers of several vCPUs, each below its number.
pub fn describe_all(states: &[(u32, CpuState)]) -> String {
    states.iter().map(|(vcpu, state)| format!("vCPU {vcpu}\n{}", describe(state))).collect()
}

/// All registers, several lines, each indented by two.
pub fn describe(state: &CpuState) -> String {
    let regs = &state.regs;
    let mut text = String::new();
    let rows = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx), ("rdx", regs.rdx)],
        [("rsi", regs.rsi), ("rdi", regs.rdi), ("rbp", regs.rbp), ("rsp", regs.rsp)],
        [("r8 ", regs.r8), ("r9 ", regs.r9), ("r10", regs.r10), ("r11", regs.r11)],
        [("r12", regs.r12), ("r13", regs.r13), ("r14", regs.r14), ("r15", regs.r15)],
    ];
    for row in rows {
        let row = row.map(|(name, value)| format!("{name} {value:016x}"));
        line(&mut text, &row.join("  "));
    }
    line(&mut text, &format!("rip {:016x}  rflags {}", regs.rip, with_bits(regs.rflags, RFLAGS)));
    line(&mut text, &format!("cr0 {}  cr2 {:x}  cr3 {:x}", with_bits(state.cr0, CR0), state.cr2, state.cr3));
    line(&mut text, &format!("cr4 {}  efer {}", with_bits(state.cr4, CR4), with_bits(state.efer, EFER)));
    line(&mut text, &mode(state));
    line(&mut text, &format!("cs  {}  {}-bit code", segment(&state.cs), state.code_bits()));
    line(&mut text, &format!("ss  {}  tr {:04x}", segment(&state.ss), state.tr.selector));
    let data = [("ds", state.ds), ("es", state.es), ("fs", state.fs), ("gs", state.gs)];
    let data = data.map(|(name, segment)| format!("{name} {:04x} base {:x}", segment.selector, segment.base));
    line(&mut text, &data.join("  "));
    let (gdt, idt) = (state.gdt, state.idt);
    line(&mut text, &format!("gdt {:x} limit {:x}  idt {:x} limit {:x}", gdt.base, gdt.limit, idt.base, idt.limit));
    text
}

/// What the control registers switch on that a fault may depend on: "ring 0, 4-level paging, no NX".
fn mode(state: &CpuState) -> String {
    if state.cr0 & CR0_PE == 0 {
        return "real mode".to_owned();
    }
    let either = |word: u64, bit: u64, on: &'static str, off: &'static str| if word & bit != 0 { on } else { off };
    let ring = format!("ring {}", state.ss.dpl);
    if state.cr0 & CR0_PG == 0 {
        return format!("{ring}, paging off");
    }
    let levels = match (state.efer & EFER_LMA != 0, state.cr4) {
        (true, cr4) if cr4 & CR4_LA57 != 0 => "5-level paging",
        (true, _) => "4-level paging",
        (false, cr4) if cr4 & CR4_PAE != 0 => "PAE paging",
        (false, _) => "32-bit paging",
    };
    let words = [
        either(state.cr0, CR0_WP, "ring 0 keeps to read-only pages", "ring 0 writes read-only pages"),
        either(state.cr4, CR4_OSFXSR, "SSE on", "SSE off"),
        either(state.efer, EFER_NXE, "NX", "no NX"),
        either(state.cr4, CR4_SMEP, "SMEP", "no SMEP"),
        either(state.cr4, CR4_SMAP, "SMAP", "no SMAP"),
    ];
    format!("{ring}, {levels}, {}", words.join(", "))
}

fn segment(segment: &Segment) -> String {
    let Segment { selector, base, limit, dpl, .. } = segment;
    format!("{selector:04x} base {base:x} limit {limit:x} ring {dpl}")
}

/// "246 (PF ZF IF)".
pub(super) fn with_bits(value: u64, bits: Bits) -> String {
    let set: Vec<&str> = bits.iter().filter(|(bit, _)| value >> bit & 1 == 1).map(|(_, name)| *name).collect();
    format!("{value:x} ({})", set.join(" "))
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "  {line}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_long_mode_vcpu_reads_well() {
        let text = describe(&CpuState::long_mode(0x10_0000));
        assert!(text.contains("  rip 0000000000100000  rflags 2 ()\n"), "{text}");
        assert!(text.contains("cr0 80000033 (PE MP ET NE PG)"), "{text}");
        assert!(text.contains("cr4 20 (PAE)  efer 500 (LME LMA)\n"), "{text}");
        assert!(text.contains("64-bit code"), "{text}");
        let mode = "  ring 0, 4-level paging, ring 0 writes read-only pages, SSE off, no NX, no SMEP, no SMAP\n";
        assert!(text.contains(mode), "{text}");
        assert!(describe(&CpuState::real_mode(0, 0)).contains("  real mode\n"));
        assert!(describe(&CpuState::protected_mode(0)).contains("  ring 0, paging off\n"));
        assert!(text.lines().all(|line| line.starts_with("  ") && line.len() <= 100), "{text}");
    }

    #[test]
    fn hostile_values_are_only_printed() {
        let mut state = CpuState::real_mode(0xffff, 0xffff);
        state.cr0 = u64::MAX;
        state.regs.rflags = u64::MAX;
        assert!(describe(&state).contains("16-bit code"));
    }
}
